"""A lean decoder-only transformer: the one architecture every cell of the grid trains.

Pre-norm, no biases, no dropout; positions, norms, MLP, heads and start are the config's.

Shape suffixes: B rows, T tokens of a row, C d_model, H heads, G heads of keys and values,
K head_dim, V vocabulary.
"""

import torch
from torch import Tensor, nn

from models.attention import Borders, attention, borders
from models.config import Attention, CrossEntropy, GPTConfig, Init, Norm, Positions
from models.loss import Loss, mean_loss, token_losses
from models.mlp import bend, up_width
from models.moe import MoE, Routing, with_router_losses
from models.parametrisation import branch_factor, factors, output_factor, query_factor

_EPS = 1e-5  # of every norm
ROTARY_BASE = 10_000.0


class SelfAttention(nn.Module):
    """Causal self-attention; with QK-norm, queries and keys of a head have unit rms x gain."""

    def __init__(self, cfg: GPTConfig, implementation: Attention) -> None:
        super().__init__()
        self.implementation, self.head_dim = implementation, cfg.head_dim
        self.heads = (cfg.n_head, cfg.kv_heads)
        width = (cfg.n_head + 2 * cfg.kv_heads) * cfg.head_dim
        self.qkv = nn.Linear(cfg.d_model, width, bias=False)
        self.out = nn.Linear(cfg.d_model, cfg.d_model, bias=False)
        self.qk_norm, self.q_factor = cfg.qk_norm, query_factor(cfg)
        if cfg.qk_norm:
            self.q_norm = nn.RMSNorm(cfg.head_dim, eps=_EPS)
            self.k_norm = nn.RMSNorm(cfg.head_dim, eps=_EPS)

    def forward(self, x_BTC: Tensor, turn_TK2: Tensor | None, within: Borders | None) -> Tensor:
        """(B, T, C) -> (B, T, C); `turn_TK2` holds the rotary turns."""
        H, G = self.heads
        heads = self.qkv(x_BTC).unflatten(-1, (-1, self.head_dim))
        qk, v = heads.split((H + G, G), dim=2)  # the backward of a slice would fill zeros
        if self.qk_norm:
            q, k = qk.split((H, G), dim=2)
            qk = torch.cat((self.q_norm(q), self.k_norm(k)), dim=2).type_as(v)
        if turn_TK2 is not None:
            qk = rotate(qk, turn_TK2)
        q, k = qk.split((H, G), dim=2)
        if self.q_factor != 1:
            q = q * self.q_factor  # every kernel divides scores by sqrt(K)
        return self.out(attention(q, k, v, self.implementation, within).flatten(-2))


class Block(nn.Module):
    """x + f attention(norm x), then x + f MLP(norm x), or experts in its place.

    f is 1 but under CompleteP.
    """

    def __init__(self, cfg: GPTConfig, implementation: Attention) -> None:
        super().__init__()
        self.mlp, self.branch_factor = cfg.mlp, branch_factor(cfg)
        self.norm_1 = make_norm(cfg)
        self.attn = SelfAttention(cfg, implementation)
        self.norm_2 = make_norm(cfg)
        self.moe = None if cfg.n_expert is None else MoE(cfg)
        if self.moe is None:
            self.up = nn.Linear(cfg.d_model, up_width(cfg.mlp, cfg.mlp_width), bias=False)
            self.down = nn.Linear(cfg.mlp_width, cfg.d_model, bias=False)

    def forward(
        self,
        x_BTC: Tensor,
        turn_TK2: Tensor | None,
        within: Borders | None,
        routed: list[Routing] | None = None,
    ) -> Tensor:
        """(B, T, C) -> (B, T, C); what a router did is added to `routed`."""
        attended = self.attn(self.norm_1(x_BTC), turn_TK2, within)
        x_BTC = torch.add(x_BTC, attended, alpha=self.branch_factor)
        if self.moe is None:
            y_BTC = self.down(bend(self.mlp, self.up(self.norm_2(x_BTC))))
        else:
            y_BTC, routing = self.moe(self.norm_2(x_BTC))
            if routed is not None:
                routed.append(routing)
        return torch.add(x_BTC, y_BTC, alpha=self.branch_factor)


class GPT(nn.Module):
    """Token ids to logits or losses. `init_weights(seed)` makes the start of training."""

    def __init__(
        self,
        cfg: GPTConfig,
        implementation: Attention,
        cross_entropy: CrossEntropy = CrossEntropy.CHUNKED,
    ) -> None:
        super().__init__()
        self.cfg, self.implementation, self.cross_entropy = cfg, implementation, cross_entropy
        self.embed = nn.Embedding(cfg.vocab_size, cfg.d_model)
        self.borders = borders
        learned = cfg.positions is Positions.LEARNED
        self.positions = nn.Embedding(cfg.seq_len, cfg.d_model) if learned else None
        self.blocks = nn.ModuleList(Block(cfg, implementation) for _ in range(cfg.n_layer))
        self.norm, self.output_factor = make_norm(cfg), output_factor(cfg)
        self.head = nn.Linear(cfg.d_model, cfg.vocab_size, bias=False)
        if cfg.tied:
            self.head.weight = self.embed.weight
        if not learned:
            turn_TK2 = rotary(cfg.seq_len, cfg.head_dim)
            self.register_buffer("turn_TK2", turn_TK2, persistent=False)

    def forward(
        self,
        tokens_BT: Tensor,
        document_BT: Tensor | None = None,
        targets_BT: Tensor | None = None,
    ) -> Tensor | Loss:
        """Logits, or the loss of targets without ever holding all logits.

        Args:
            tokens_BT: token ids.
            document_BT: number of each token's document in its row; attention stays within one.
                None: a token sees all earlier ones of its row.
            targets_BT: ids of the next tokens.

        Returns:
            (B, T, V) logits, float32; or, with targets, `Loss`.
        """
        routed: list[Routing] = []
        x_BTC = self.hidden(tokens_BT, document_BT, routed)
        if targets_BT is None:
            return self.head(x_BTC).float()
        head_VC, z_loss = self.head.weight, self.cfg.z_loss
        loss = mean_loss(x_BTC, head_VC, targets_BT, z_loss, self.cross_entropy)
        return with_router_losses(loss, routed, self.cfg) if routed else loss

    def token_losses(
        self, tokens_BT: Tensor, targets_BT: Tensor, document_BT: Tensor | None = None
    ) -> Tensor:
        """-log p of every target, (B, T) nats, float32, and nothing else: what evaluation reads."""
        return token_losses(self.hidden(tokens_BT, document_BT), self.head.weight, targets_BT)

    def hidden(
        self,
        tokens_BT: Tensor,
        document_BT: Tensor | None = None,
        routed: list[Routing] | None = None,
    ) -> Tensor:
        """(B, T) token ids -> (B, T, C), what the head multiplies; `routed` as in a block."""
        T = tokens_BT.size(1)
        within = None if document_BT is None else self.borders(document_BT, self.implementation)
        x_BTC = self.embed(tokens_BT)
        turn_TK2 = self.turn_TK2[:T] if self.positions is None else None
        if self.positions is not None:
            x_BTC = x_BTC + self.positions.weight[:T]
        for block in self.blocks:
            x_BTC = block(x_BTC, turn_TK2, within, routed)
        x_BTC = self.norm(x_BTC)
        return x_BTC if self.output_factor == 1 else x_BTC * self.output_factor

    def ready_to_compile(self) -> None:
        """Have a compiler leave alone what it can't know; imports it, which takes a second."""
        self.borders = torch.compiler.disable(borders)
        for block in self.blocks:
            if block.moe is not None:
                block.moe.ready_to_compile()

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Draw the weights; gains are one. s is cfg.init_scale, d the width, L the layers.

        - zero_out: tables from N(0, s^2/d), matrices from N(0, s^2/fan_in), the last matrix of each
          attention, MLP and expert zero: every block is the identity at first, whatever the depth.
        - fan_in: the same, but those last matrices from N(0, s^2/fan_in / 2L).
        - gpt2: everything from N(0, (.02 s)^2), the last matrices from N(0, (.02 s)^2 / 2L)
          (Radford et al. 2019, section 2.3).

        Under muP and CompleteP each spread has a factor: models/parametrisation.py.

        The draw comes from one CPU generator in the order of the modules, so it depends on the
        seed alone.
        """
        generator = torch.Generator().manual_seed(seed)
        for name, p in self.named_parameters():
            if p.ndim < 2:
                p.fill_(1.0)
                continue
            sd = self._start_sd(name, p)
            if sd == 0:
                p.zero_()
            else:
                p.copy_(torch.empty(p.shape).normal_(0, sd, generator=generator))

    def _start_sd(self, name: str, p: Tensor) -> float:
        init, scale = self.cfg.init, self.cfg.init_scale * factors(self.cfg, name).sd
        sd = scale * (0.02 if init is Init.GPT2 else p.size(-1) ** -0.5)
        if not name.endswith(("out.weight", "down.weight")):
            return sd
        return 0.0 if init is Init.ZERO_OUT else sd * (2 * self.cfg.n_layer) ** -0.5


def make_norm(cfg: GPTConfig) -> nn.Module:
    """Make one norm over the width."""
    if cfg.norm is Norm.RMSNORM:
        return nn.RMSNorm(cfg.d_model, eps=_EPS)
    return nn.LayerNorm(cfg.d_model, eps=_EPS, bias=False)


def rotary(seq_len: int, head_dim: int, base: float = ROTARY_BASE) -> Tensor:
    """(T, 1, K/2, 2) cosines and sines of t f, RoFormer (arXiv:2104.09864), eq. 15."""
    freq = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angle = torch.outer(torch.arange(seq_len, dtype=torch.float64), freq)
    turn = torch.polar(torch.ones_like(angle), angle).to(torch.complex64)
    return torch.view_as_real(turn).view(seq_len, 1, head_dim // 2, 2)


def rotate(x: Tensor, turn_TK2: Tensor, as_complex: bool | None = None) -> Tensor:
    """Turn neighbouring pairs of the last dimension of (B, T, heads, K).

    Args:
        x: queries or keys.
        turn_TK2: what `rotary` gives.
        as_complex: as products of complex numbers, one pass and the fastest on a CPU. None: not on
            a GPU, where torch.compile makes one kernel of the real form, and of complex none.
    """
    pairs = x.float().unflatten(-1, (-1, 2))
    if as_complex or (as_complex is None and not x.is_cuda):
        turned = torch.view_as_complex(pairs) * torch.view_as_complex(turn_TK2)
        return torch.view_as_real(turned).flatten(-2).type_as(x)
    (a, b), (cos, sin) = pairs.unbind(-1), turn_TK2.unbind(-1)
    return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2).type_as(x)
