"""A causal language model of transformers with the interface of our GPT, so that it trains as a cell.

Suffixes: B rows, T tokens of a row, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import LOGITS
from models.hf_build import build, make_config
from models.hf_config import HFConfig
from models.hf_walk import Role, parts
from models.loss import Loss


class HFModel(nn.Module):
    """Token ids to logits or losses; the logits are those of the architecture itself, all at once.

    Raises:
        ValueError: this transformers builds another number of parameters than was counted, or a logit
            depends on a later token.
    """

    implementation = None  # of attention: transformers' own choice

    def __init__(self, cfg: HFConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.net = self._build(seed=None)
        own, counted = sum(p.numel() for p in self.parameters()), _total(cfg)
        if own != counted:
            raise ValueError(
                f"{cfg.size_id} has {own:,} parameters here, and {counted:,} were counted when it was "
                "planned: use the version of transformers in flop_source, or plan anew"
            )
        self.refuse_foresight()

    def _build(self, seed: int | None) -> nn.Module:
        cfg = self.cfg
        return build(make_config(cfg.architecture, cfg.keys, cfg.vocab_size, cfg.seq_len), seed)

    @property
    def embed(self) -> nn.Module:
        """The table of tokens."""
        return self.net.get_input_embeddings()

    @property
    def positions(self) -> nn.ParameterList:
        """What is no matrix beside it, and takes no weight decay: other tables, decays, mixes."""
        kinds = (Role.TABLE, Role.REST)
        return nn.ParameterList(p.parameter for p in parts(self.net) if p.role in kinds)

    def forward(
        self,
        tokens_BT: Tensor,
        document_BT: Tensor | None = None,
        targets_BT: Tensor | None = None,
    ) -> Tensor | Loss:
        """(B, T, V) logits, float32; or, with targets, `Loss`.

        What training minimises holds the architecture's own loss of its routers where its
        configuration asks for it (output_router_logits, router_aux_loss_coef).

        Args:
            tokens_BT: token ids.
            document_BT: must be None: nothing here keeps documents apart.
            targets_BT: ids of the next tokens.
        """
        if document_BT is not None:
            raise ValueError("model=hf does not keep documents apart: data.document_mask=false")
        out = self.net(input_ids=tokens_BT, use_cache=False)
        logits_BTV = out.logits.float()
        if targets_BT is None:
            return logits_BTV
        cross_entropy = F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())
        routing = getattr(out, "aux_loss", None)
        if routing is None:
            return Loss(cross_entropy, cross_entropy.detach())
        weight = self.net.config.router_aux_loss_coef
        return Loss(cross_entropy + weight * routing, cross_entropy.detach())

    def token_losses(
        self, tokens_BT: Tensor, targets_BT: Tensor, document_BT: Tensor | None = None
    ) -> Tensor:
        """-log p of every target, (B, T) nats, float32, at most LOGITS logits at a time."""
        rows = max(1, LOGITS // (tokens_BT.size(1) * self.cfg.vocab_size))
        pieces = zip(tokens_BT.split(rows), targets_BT.split(rows), strict=True)
        losses = [
            F.cross_entropy(self(tokens, document_BT).mT, targets, reduction="none")
            for tokens, targets in pieces
        ]
        return torch.cat(losses)

    @torch.no_grad()
    def refuse_foresight(self) -> None:
        """Change the last of a few tokens, and compare the logits before it.

        Raises:
            ValueError: they differ, so a loss would say nothing.
        """
        T, V = min(8, self.cfg.seq_len), self.cfg.vocab_size
        tokens_2T = torch.arange(T).remainder(V).repeat(2, 1)
        tokens_2T[1, -1] = (T + V // 2) % V
        one, other = self(tokens_2T)[:, :-1]
        if (one - other).abs().sum() > 1e-4 * one.abs().sum():
            raise ValueError(
                f"{self.cfg.size_id} looks at later tokens: it is no causal language model"
            )

    def ready_to_compile(self) -> None:
        """Nothing is kept from the compiler."""

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Draw the weights by the architecture's own rule (initializer_range), on the CPU."""
        self.net.load_state_dict(self._build(seed).state_dict())


def _total(cfg: HFConfig) -> int:
    c = cfg.counts
    return c.embedding + c.positions + (0 if c.tied else c.head) + c.matrices + c.rest
