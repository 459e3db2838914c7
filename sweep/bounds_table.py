"""What bounds each size of a grid on A100, H100 and B200: the table of plan.bounds=true."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from models.bounds import SHOWN, bounds, kernels, step_bytes
from models.flops import FlopRule, flops_per_token
from models.hf_config import HFConfig
from models.size import Size
from sweep.cell import Cell, si
from sweep.errors import UsageError
from sweep.settings import HardwareSettings


def bounds_of(cells: Sequence[Cell], hardware: HardwareSettings) -> list[dict[str, Any]]:
    """Bounds of every size at its smallest and its largest batch, as plain values.

    Raises:
        UsageError: a model with experts.
    """
    if any(cell.model.n_expert is not None for cell in cells):
        raise UsageError(
            "plan.bounds=true counts kernels and bytes of dense blocks, which says nothing of "
            "model.n_expert: leave one of them out"
        )
    half, compiled = hardware.dtype != "float32", hardware.compile != "false"
    rows = []
    for cfg, tokens in _sizes(cells):
        fixed, each = step_bytes(cfg, half)
        found = [bounds(cfg, tokens, b, half, compiled) for b in SHOWN]
        rows.append(
            {
                "size_id": cfg.size_id,
                "batch_tokens": tokens,
                "flops": tokens * flops_per_token(cfg, FlopRule.PALM),
                "bytes": fixed + tokens * each,
                "kernels": kernels(cfg, half, compiled),
                "boards": [
                    {**asdict(b), "floor": b.floor, "by": b.by, "at_once": b.at_once} for b in found
                ],
            }
        )
    return rows


def print_bounds_json(cells: Sequence[Cell], hardware: HardwareSettings) -> None:
    """Print them as JSON; a number of tokens that no batch reaches is null."""
    rows = bounds_of(cells, hardware)
    for board in (b for row in rows for b in row["boards"]):
        if math.isinf(board["free_tokens"]):
            board["free_tokens"] = None
    print(json.dumps({"bounds": rows}, indent=1))


def print_bounds(cells: Sequence[Cell], hardware: HardwareSettings, console: Console) -> None:
    """Print them for a person: a row a size and batch, a column a board, and where it turns."""
    rows = bounds_of(cells, hardware)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in (
        "size",
        "batch",
        "FLOPs",
        "bytes",
        "kernels",
        *(b.name.upper() for b in SHOWN),
    ):
        table.add_column(name, justify="left" if name == "size" else "right")
    for row in rows:
        cells_of_boards = [_in_words(b) for b in row["boards"]]
        table.add_row(
            row["size_id"], f"{row['batch_tokens']:,}", f"{row['flops']:.3g}",
            f"{row['bytes']:.3g}", f"{row['kernels']:,}", *cells_of_boards,
        )  # fmt: skip
    console.print("Floor of one optimizer step, and what bounds it (docs/method.md, section 4):\n")
    console.print(table)
    console.print(
        "\nlaunch < 66k: launching kernels sets the pace below 66k tokens a step; raise the batch or "
        "train several cells on one board. x5: five at once would fill it (launch time over that of "
        "memory or matmuls, whichever is more).",
    )
    for i, board in enumerate(SHOWN):
        console.print(
            f"{board.name.upper()}: {_where_it_turns([r['boards'][i] for r in rows], rows)}"
        )


def _in_words(board: dict[str, Any]) -> str:
    """Say the floor and what it is made of; of launches, the batch that would be free of them."""
    floor = f"{1e3 * board['floor']:.3g} ms, "
    if board["by"] != "launch":
        return floor + board["by"]
    return floor + f"launch < {si(board['free_tokens'])}, x{board['at_once']:.3g}"


def _where_it_turns(of_board: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> str:
    """Say which sizes are bound by launches at their own batch."""
    bound = [row["size_id"] for row, b in zip(rows, of_board, strict=True) if b["by"] == "launch"]
    if not bound:
        return "no size is bound by launches."
    if len(bound) == len(rows):
        return "every size is bound by launches, the largest too."
    free = [row["size_id"] for row, b in zip(rows, of_board, strict=True) if b["by"] != "launch"]
    return f"bound by launches up to {bound[-1]}, free of them from {free[0]}."


def _sizes(cells: Sequence[Cell]) -> list[tuple[Size, int]]:
    """Each size with its smallest and its largest batch, in the order of the ladder.

    Raises:
        UsageError: they are not of our GPT, whose kernels and bytes are reckoned.
    """
    if any(isinstance(cell.model, HFConfig) for cell in cells):
        raise UsageError(
            "plan.bounds=true reckons our GPT alone: leave it out with model.architecture"
        )
    batches: dict[Size, set[int]] = {}
    for cell in cells:
        batches.setdefault(cell.model, set()).add(cell.batch_tokens)
    ordered = sorted(batches, key=lambda cfg: flops_per_token(cfg, FlopRule.PALM))
    return [(cfg, n) for cfg in ordered for n in sorted({min(batches[cfg]), max(batches[cfg])})]
