"""Loss of a model on held-out rows, with its standard error."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from models.gpt import GPT
from sweep.batches import Rows
from sweep.device import Device

_BATCH_ROWS = 32
_BLOCK_TOKENS = 4096  # rows of one passage resemble each other, so errors are taken over blocks


@dataclass(frozen=True)
class Evaluation:
    """Mean loss over validation tokens."""

    loss: float  # nats per token
    se: float  # standard error over blocks of neighbouring rows; NaN with fewer than two
    bpb: float  # bits per byte of the text, end-of-document tokens counted as no byte
    tokens: int


@torch.no_grad()
def evaluate(model: GPT, rows: Rows, n_rows: int, eod: int, device: Device) -> Evaluation:
    """Loss on the first n_rows rows, every target weighing the same.

    Args:
        model: called in evaluation mode is not needed: it has no dropout.
        rows: validation rows, in the order of the text.
        n_rows: rows to read; the same rows for every cell, so differences between cells are
            paired.
        eod: token that stands for no byte.
        device: where the model lives.
    """
    sums, n_bytes = [], 0
    for first in range(0, n_rows, _BATCH_ROWS):
        index = np.arange(first, min(first + _BATCH_ROWS, n_rows))
        block = rows.take(index)
        n_bytes += int((block[:, 1:] != eod).sum())
        tokens_BT = torch.from_numpy(block).to(device.device)
        with torch.autocast(device.device.type, device.dtype, enabled=device.dtype.itemsize < 4):
            logits_BTV = model(tokens_BT[:, :-1])
        losses = F.cross_entropy(logits_BTV.mT, tokens_BT[:, 1:], reduction="none")
        sums.append(losses.double().sum(1).cpu())
    sum_of_row = torch.cat(sums).numpy()
    tokens = n_rows * rows.seq_len
    total = float(sum_of_row.sum())
    return Evaluation(
        loss=total / tokens,
        se=_standard_error(sum_of_row / rows.seq_len, max(1, _BLOCK_TOKENS // rows.seq_len)),
        bpb=total / math.log(2) / n_bytes,
        tokens=tokens,
    )


def _standard_error(loss_of_row: np.ndarray, block_rows: int) -> float:
    n = len(loss_of_row) // block_rows
    if n < 2:
        return math.nan
    means = loss_of_row[: n * block_rows].reshape(n, block_rows).mean(1)
    return float(means.std(ddof=1) / math.sqrt(n))
