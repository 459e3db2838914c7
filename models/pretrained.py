"""A causal language model of transformers, judged like ours. Imports no transformers.

Suffixes: B rows, T tokens of a row, V vocabulary.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.config import LOGITS, Attention


class Pretrained:
    """Token losses of a loaded AutoModelForCausalLM.

    Attributes:
        implementation: reference, by which nothing of torch's own choice of a kernel is forbidden.
    """

    implementation = Attention.REFERENCE

    def __init__(self, model: Any) -> None:
        self.model = model

    def token_losses(
        self, tokens_BT: Tensor, targets_BT: Tensor, document_BT: Tensor | None = None
    ) -> Tensor:
        """-log p of every target, (B, T) nats, float32; few rows at a time, to hold few logits."""
        rows = max(1, LOGITS // (tokens_BT.size(1) * self.model.config.vocab_size))
        documents = [None] * len(tokens_BT) if document_BT is None else document_BT.split(rows)
        parts = zip(tokens_BT.split(rows), targets_BT.split(rows), documents, strict=False)
        return torch.cat([self._losses(*part) for part in parts])

    def _losses(self, tokens_BT: Tensor, targets_BT: Tensor, document_BT: Tensor | None) -> Tensor:
        seen_B1TT = None if document_BT is None else _within_documents(document_BT)
        out = self.model(input_ids=tokens_BT.long(), attention_mask=seen_B1TT, use_cache=False)
        losses = F.cross_entropy(
            out.logits.float().flatten(0, 1), targets_BT.long().flatten(), reduction="none"
        )
        return losses.view_as(targets_BT)


def _within_documents(document_BT: Tensor) -> Tensor:
    """Say what a query may see, (B, 1, T, T): 0, or the lowest number where it may not."""
    device = document_BT.device.type
    half = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if half else torch.float32
    seen_BTT = (document_BT[:, :, None] == document_BT[:, None, :]).tril()
    hidden = torch.zeros(seen_BTT.shape, dtype=dtype, device=document_BT.device)
    return hidden.masked_fill(~seen_BTT, torch.finfo(dtype).min)[:, None]
