"""What one replica needs in memory, by arithmetic: before anything is allocated, and without torch."""

from collections.abc import Sequence
from dataclasses import replace

from models.config import LOGITS, MLP, GPTConfig
from models.flops import count_params
from models.hf_config import HFConfig
from models.size import Size
from sweep.cell import Cell
from sweep.grid import Grid, Skip

USABLE = 0.92  # share of a device that a replica may fill: the rest is context and fragments


def memory_needed(cfg: Size, rows: int, half: bool, pieces: bool = True) -> float:
    """Bytes of one replica that is trained with AdamW on `rows` sequences at a time.

    16 bytes a parameter: weight, gradient and two moments in float32; 2 more for the cast of the
    weights where the forward pass is bfloat16. What the backward keeps of a token: 80 bytes for
    each unit of width in each layer (50 in bfloat16). And 16 bytes for each logit that exists at
    once (logits, log-probabilities, their gradients, float32): all of them, or LOGITS and 8 bytes a
    weight of the head, its gradient and their product with the loss's, where the loss is computed
    in pieces (models/loss.py). Measured on the model of this project: 75 to 81 (47 to 51) in
    layers; Korthikanti et al. 2022 (arXiv:2205.05198, section 4.1) count 34 for GELU in float16
    with dropout, from larger pieces. Experts: all their weights, and for a token what
    `_kept_of_experts` counts.

    Of an architecture of transformers: what a pass on torch's meta device keeps of a row in float32
    (more than in bfloat16), and 8 bytes a logit for gradients.

    Args:
        cfg: the shape.
        rows: sequences of one forward pass, at least 1.
        half: whether the forward pass is bfloat16.
        pieces: whether the loss is computed in pieces; hardware.cross_entropy=plain does not.
    """
    if isinstance(cfg, HFConfig):
        of_row = cfg.counts.row_bytes + 8 * cfg.seq_len * cfg.vocab_size
        return (18.0 if half else 16.0) * count_params(cfg).total + rows * of_row
    tokens, head = rows * cfg.seq_len, cfg.vocab_size * cfg.d_model
    logits, of_head = tokens * cfg.vocab_size, 0
    if pieces and logits > LOGITS:
        logits, of_head = LOGITS, 8 * head
    layers = (50 if half else 80) * cfg.n_layer * cfg.d_model * tokens
    layers += cfg.n_layer * tokens * _kept_of_experts(cfg, half)
    return (18.0 if half else 16.0) * count_params(cfg).total + layers + 16 * logits + of_head


def _kept_of_experts(cfg: GPTConfig, half: bool) -> float:
    """Bytes that one layer's backward keeps of a token because of experts, beyond those of an MLP.

    The numbers between two matrices, before and after the bend, in proportion to the width that
    works on a token; its inputs and outputs once for each expert that it is sent to, and their
    products with the router's weights; and four float32 for each of the router's logits.
    """
    if cfg.n_expert is None:
        return 0.0
    size = 2 if half else 4
    active = (cfg.top_k + cfg.n_shared_expert) * cfg.expert_width
    of_width = 4 if cfg.mlp is MLP.SWIGLU else 2
    wider = of_width * (active - cfg.mlp_width)
    return size * (wider + 3 * cfg.top_k * cfg.d_model) + 16.0 * cfg.n_expert


def rows_that_fit(
    cfg: Size, most: int, half: bool, memory_bytes: float, pieces: bool = True
) -> int:
    """Halve `most` sequences until a replica fits; 0 where one sequence does not."""
    rows = most
    while rows and memory_needed(cfg, rows, half, pieces) > USABLE * memory_bytes:
        rows = -(-rows // 2) if rows > 1 else 0
    return rows


def nearest_that_fits(cfg: GPTConfig, half: bool, memory_bytes: float) -> GPTConfig | None:
    """Return the same width with as many layers as fit, else fewer heads; None where none fits."""
    for n_head in range(cfg.n_head, 0, -1):
        width = cfg.head_dim * n_head
        for n_layer in range(cfg.n_layer, 0, -1):
            try:
                smaller = replace(cfg, n_layer=n_layer, d_model=width, n_head=n_head)
            except ValueError:  # key heads or experts do not divide this width
                break
            if rows_that_fit(smaller, 1, half, memory_bytes):
                return smaller
    return None


def why_too_large(cfg: Size, half: bool, memory_bytes: float) -> str | None:
    """Say what a replica needs and what would fit, or None where it fits."""
    if rows_that_fit(cfg, 1, half, memory_bytes):
        return None
    hint = _what_would_fit(cfg, half, memory_bytes)
    return (
        f"a replica needs {memory_needed(cfg, 1, half) / 1e9:.3g} GB with one sequence at a time, "
        f"of {USABLE * memory_bytes / 1e9:.3g} usable GB; {hint}"
    )


def _what_would_fit(cfg: Size, half: bool, memory_bytes: float) -> str:
    if isinstance(cfg, HFConfig):
        return "take it out of model.rungs"
    smaller = nearest_that_fits(cfg, half, memory_bytes)
    return f"{smaller.size_id} would fit" if smaller else "nothing of this vocabulary would fit"


def without_too_large(grid: Grid, half: bool, memory_bytes: float | None) -> Grid:
    """Leave out cells whose replica does not fit on a device; all stay where memory is unknown."""
    if memory_bytes is None:
        return grid
    reasons = {cell.id: why_too_large(cell.model, half, memory_bytes) for cell in grid.cells}
    cells = tuple(cell for cell in grid.cells if reasons[cell.id] is None)
    return replace(grid, cells=cells, skipped=(*grid.skipped, *_skips(grid.cells, reasons)))


def _skips(cells: Sequence[Cell], reasons: dict[str, str | None]) -> list[Skip]:
    """One a budget and size, whatever the number of seeds."""
    found: dict[tuple[float, str], Skip] = {}
    for cell in cells:
        if (reason := reasons[cell.id]) is not None:
            key = (cell.budget, cell.model.size_id)
            found.setdefault(key, Skip(*key, cell.N, reason))
    return list(found.values())
