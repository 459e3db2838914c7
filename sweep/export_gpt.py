"""Our GPT as a checkpoint of a stock architecture."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from models.attention import choose_attention, only
from models.config import Parametrisation
from models.gpt import GPT
from models.parametrisation import as_standard
from models.stock import (
    GPT2,
    NoStockForm,
    Stock,
    TrainedAngles,
    changes_of,
    config_of,
    is_tied,
    stock_of,
    weights_of,
)
from sweep.checkpoint_folder import open_model, transformers_of
from sweep.errors import UsageError
from sweep.export_form import (
    WEIGHTS,
    Compared,
    Written,
    largest,
    random_tokens,
    write_generation_config,
)
from sweep.trained import Finished, load_weights


@dataclass(frozen=True)
class GPTForm:
    """A cell of our own GPT, as the stock architecture that computes the same."""

    finished: Finished
    stock: Stock

    @property
    def class_name(self) -> str:
        """That AutoModelForCausalLM makes of it."""
        return self.stock.class_name

    def write(self, eod: int, part: Path) -> Written:
        """Write config and weights into a folder, load them again, and compare logits.

        Raises:
            UsageError: the attempt's weights can't be had, or have no place there.
        """
        model = trained_model(self.finished)
        try:
            weights = weights_of(model, self.stock)
        except NoStockForm as e:
            raise UsageError(f"{self.finished.cell.id} can't be exported: {e}") from None
        write_checkpoint(model, self.stock, eod, weights, part)
        return Written(compare_logits(model, self.stock, part), self._changes())

    def _changes(self) -> tuple[str, ...]:
        cfg = self.finished.cell.model
        said = changes_of(self.stock, cfg)
        if cfg.parametrisation is not Parametrisation.STANDARD:
            said.append(f"Multipliers of {cfg.parametrisation} are written into the weights.")
        if is_tied(self.stock, cfg):
            said.append("Head and embedding are one table, as in training.")
        return tuple(said)


def gpt_form(finished: Finished) -> GPTForm:
    """Choose the stock architecture of a cell of our GPT.

    Raises:
        UsageError: no stock architecture computes what its options do; says which is in the way.
    """
    try:
        return GPTForm(finished, stock_of(as_standard(finished.cell.model, {})[0]))
    except NoStockForm as e:
        raise UsageError(f"{finished.cell.id} can't be exported: {e}") from None


def trained_model(finished: Finished) -> GPT:
    """Make our model with the attempt's weights, on the CPU; muP's multipliers are in the weights.

    Raises:
        UsageError: a checkpoint that does not hold them.
    """
    cfg, weights = as_standard(finished.cell.model, load_weights(finished))
    model = GPT(cfg, choose_attention("cpu", torch.float32, head_dims={cfg.head_dim}))
    fill(model, weights, finished)
    return model.eval()


def fill(model: torch.nn.Module, weights: Mapping[str, Tensor], finished: Finished) -> None:
    """Give a model the weights of an attempt.

    Raises:
        UsageError: they are not all of its weights, or others.
    """
    try:
        model.load_state_dict(weights)
    except RuntimeError as e:
        raise UsageError(
            f"{finished.checkpoint} holds other weights than {finished.cell.id} has: "
            f"{' '.join(str(e).split())[:200]}"
        ) from None


def write_checkpoint(
    model: GPT, stock: Stock, eod: int, weights: Mapping[str, Tensor], part: Path
) -> None:
    """Write config.json, generation_config.json and model.safetensors."""
    from safetensors.torch import save_file

    transformers = transformers_of("isoflop export")
    config = transformers.AutoConfig.for_model(stock.model_type, **config_of(model, stock, eod))
    config.save_pretrained(part)
    write_generation_config(eod, model.cfg.seq_len, part)
    save_file(dict(weights), part / WEIGHTS, metadata={"format": "pt"})


@torch.no_grad()
def compare_logits(model: GPT, stock: Stock, checkpoint: Path) -> Compared:
    """Load a checkpoint as anybody would, and compare its logits on random tokens with ours."""
    tokens_BT = random_tokens(model.cfg.vocab_size, model.cfg.seq_len)
    with only(model.implementation):
        ours = model(tokens_BT)
    theirs = open_model(checkpoint, "isoflop export")
    as_loaded = same_angles = largest(ours - theirs(tokens_BT, use_cache=False).logits)
    if stock is not GPT2:
        theirs.model.rotary_emb = TrainedAngles(model.turn_TK2)
        same_angles = largest(ours - theirs(tokens_BT, use_cache=False).logits)
    return Compared(as_loaded, same_angles, largest(ours))
