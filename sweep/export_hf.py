"""A cell of model=hf as a checkpoint: the architecture is of transformers already, so nothing is changed."""

from dataclasses import dataclass
from pathlib import Path

import torch

from models.hf import HFModel
from sweep.checkpoint_folder import open_model, transformers_of
from sweep.errors import UsageError
from sweep.export_form import Compared, Written, largest, random_tokens, write_generation_config
from sweep.export_gpt import fill
from sweep.trained import Finished, load_weights


@dataclass(frozen=True)
class HFForm:
    """A cell of an architecture of transformers."""

    finished: Finished
    model: HFModel  # without the trained weights

    @property
    def class_name(self) -> str:
        """That AutoModelForCausalLM makes of it."""
        return type(self.model.net).__name__

    def write(self, eod: int, part: Path) -> Written:
        """Write config and weights into a folder, load them again, and compare logits.

        Raises:
            UsageError: the attempt's weights can't be had.
        """
        fill(self.model, load_weights(self.finished), self.finished)
        net = self.model.net.eval()
        net.config.update({"eos_token_id": eod, "use_cache": True})  # training wants neither
        net.save_pretrained(part, max_shard_size="1TB")
        write_generation_config(eod, self.model.cfg.seq_len, part)
        return Written(self._compared(part), ("The weights are as they were trained.",))

    @torch.no_grad()
    def _compared(self, checkpoint: Path) -> Compared:
        cfg = self.model.cfg
        tokens_BT = random_tokens(cfg.vocab_size, cfg.seq_len)
        ours = self.model(tokens_BT)
        theirs = open_model(checkpoint, "isoflop export")(tokens_BT, use_cache=False).logits
        off = largest(ours - theirs)
        return Compared(off, off, largest(ours))


def hf_form(finished: Finished) -> HFForm:
    """Build a cell's architecture, as it was trained.

    Raises:
        UsageError: this transformers builds another one.
    """
    transformers_of("isoflop export")  # quiet: writing draws a progress bar else
    try:
        return HFForm(finished, HFModel(finished.cell.model))
    except ValueError as e:
        raise UsageError(f"{finished.cell.id} can't be exported: {e}") from None
