"""Loss of a model on held-out rows, with its standard error: of one set, and of a cell's data."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from models.attention import only
from models.gpt import GPT
from models.moe import watch_load
from models.pretrained import Pretrained
from sweep.batches import documents
from sweep.data import CellData, HeldOut
from sweep.device import Device

_BATCH_ROWS = 32
_BLOCK_TOKENS = 4096  # rows of one passage resemble each other, so errors are taken over blocks


@dataclass(frozen=True)
class Evaluation:
    """Mean loss over validation tokens; errors over blocks of neighbouring rows."""

    loss: float  # nats per token
    se: float  # standard error of loss; NaN with fewer than two blocks
    bpb: float  # bits per byte of the text, end-of-document tokens counted as no byte
    bpb_se: float  # standard error of bpb; NaN with fewer than two blocks
    tokens: int


@dataclass(frozen=True)
class Validation:
    """What a model loses on the data of its cell."""

    total: Evaluation  # the cell's loss: each source weighing as in training
    sources: dict[str, Evaluation]  # by name; more than one of a mixture
    extra: dict[str, Evaluation]  # sets of eval=
    loads: tuple[list[int], ...] = ()  # of the cell's own tokens, those of each layer's experts


def validate(model: GPT | Pretrained, data: CellData, device: Device) -> Validation:
    """Judge a trained model on every set, all rows that are asked for."""
    with watch_load(model) as loads:
        sources = {h.name: evaluate(model, h, h.val_rows, device) for h in data.validation}
    extra = {h.name: evaluate(model, h, h.val_rows, device) for h in data.extra}
    weights = [h.weight for h in data.validation]
    total = combine(list(sources.values()), weights)
    return Validation(total, sources, extra, tuple(load.tolist() for load in loads))


def evaluate_small(model: GPT, data: CellData, device: Device) -> Evaluation:
    """Loss on the small sets along the way, each source weighing as in training."""
    found = [evaluate(model, h, h.eval_rows, device) for h in data.validation]
    return combine(found, [h.weight for h in data.validation])


def combine(found: Sequence[Evaluation], weights: Sequence[float]) -> Evaluation:
    """Loss of a mixture: L = sum w_k L_k, with independent errors; weights sum to 1.

    Bits per byte are bits over bytes of the mixture: with r_k = bytes a token of source k, from
    its own L_k / (ln 2 bpb_k), bpb = sum w_k L_k / (ln 2 sum w_k r_k). Its error takes the r_k as
    known and each bpb_k's error in its share of the bytes.
    """
    if len(found) == 1:
        return found[0]
    nats = math.fsum(w * e.loss for w, e in zip(weights, found, strict=True))
    per_token = [w * e.loss / (math.log(2) * e.bpb) for w, e in zip(weights, found, strict=True)]
    n_bytes = math.fsum(per_token)
    return Evaluation(
        loss=nats,
        se=math.sqrt(math.fsum((w * e.se) ** 2 for w, e in zip(weights, found, strict=True))),
        bpb=nats / math.log(2) / n_bytes,
        bpb_se=math.sqrt(
            math.fsum((r / n_bytes * e.bpb_se) ** 2 for r, e in zip(per_token, found, strict=True))
        ),
        tokens=sum(e.tokens for e in found),
    )


@torch.no_grad()
def evaluate(model: GPT | Pretrained, held: HeldOut, n_rows: int, device: Device) -> Evaluation:
    """Loss on the first n_rows rows, every target weighing the same.

    Args:
        model: called in evaluation mode is not needed: it has no dropout.
        held: validation rows, in the order of the text.
        n_rows: rows to read; the same rows for every cell, so differences between cells are
            paired.
        device: where the model lives.
    """
    sums, n_bytes = [], []
    for first in range(0, n_rows, _BATCH_ROWS):
        index = np.arange(first, min(first + _BATCH_ROWS, n_rows))
        rows = held.rows.take(index)
        n_bytes.append(held.bytes_of(index, rows))
        sums.append(_nats_of_rows(model, rows, held, device))
    nats, text = np.concatenate(sums), np.concatenate(n_bytes)
    tokens = n_rows * held.rows.seq_len
    total, all_bytes = float(nats.sum()), int(text.sum())
    block_rows = max(1, _BLOCK_TOKENS // held.rows.seq_len)
    bpb = total / math.log(2) / all_bytes if all_bytes else math.nan
    return Evaluation(
        loss=total / tokens,
        se=_standard_error(nats / held.rows.seq_len, block_rows),
        bpb=bpb,
        bpb_se=_ratio_error(nats / math.log(2), text, bpb, block_rows),
        tokens=tokens,
    )


def _nats_of_rows(
    model: GPT | Pretrained, rows: np.ndarray, held: HeldOut, device: Device
) -> np.ndarray:
    """Sum of the losses of each row's targets, (B,) float64."""
    tokens_BT = torch.from_numpy(rows).to(device.device)
    document_BT = None
    if held.rows.border is not None:
        document_BT = documents(tokens_BT[:, :-1], held.rows.border)
    half = torch.autocast(device.device.type, device.dtype, enabled=device.dtype.itemsize < 4)
    with half, only(model.implementation):
        losses_BT = model.token_losses(tokens_BT[:, :-1], tokens_BT[:, 1:], document_BT)
    return losses_BT.double().sum(1).cpu().numpy()


def _standard_error(loss_of_row: np.ndarray, block_rows: int) -> float:
    n = len(loss_of_row) // block_rows
    if n < 2:
        return math.nan
    means = loss_of_row[: n * block_rows].reshape(n, block_rows).mean(1)
    return float(means.std(ddof=1) / math.sqrt(n))


def _ratio_error(bits: np.ndarray, n_bytes: np.ndarray, ratio: float, block_rows: int) -> float:
    """Compute the standard error of sum(bits) / sum(bytes) over blocks of rows.

    Linearised: sqrt(n / (n - 1) sum (bits_b - ratio bytes_b)^2) / sum bytes_b (Cochran, "Sampling
    Techniques", 3rd edition, 1977, section 6.4).
    """
    n = len(bits) // block_rows
    if n < 2 or not math.isfinite(ratio):
        return math.nan
    cut = slice(0, n * block_rows)
    bits_b = bits[cut].reshape(n, block_rows).sum(1)
    bytes_b = n_bytes[cut].reshape(n, block_rows).sum(1)
    rest = bits_b - ratio * bytes_b
    return float(math.sqrt(n / (n - 1) * (rest**2).sum()) / bytes_b.sum())
