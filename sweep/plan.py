"""The plan: what would be trained, what it would cost, and what was left out and why."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from sweep.cells import cell_to_row
from sweep.grid import si
from sweep.predict import predict_cost, predict_wall
from sweep.recipe import RULES, Recipe
from sweep.resolve import Resolved


def plan_dict(resolved: Resolved) -> dict[str, Any]:
    """Return the whole plan as plain values, for plan.format=json."""
    costs = _costs(resolved)
    cells = [
        {**cell_to_row(cell), **{f"predicted_{k}": v for k, v in asdict(cost).items()}}
        for cell, cost in zip(resolved.grid.cells, costs, strict=True)
    ]
    devices = resolved.rates.devices
    return {
        "sweep": resolved.folder.name,
        "cells": cells,
        "skipped": [asdict(s) for s in resolved.grid.skipped],
        "totals": {
            "cells": len(cells),
            "flops": sum(c["flops"] for c in cells),
            "device_hours": sum(c.seconds for c in costs) / 3600,
            "wall_hours": predict_wall(costs, devices) / 3600,
            "devices": devices,
            "disk_bytes": sum(c.disk_bytes for c in costs),
        },
    }


def print_json(resolved: Resolved) -> None:
    """Print the plan as JSON."""
    print(json.dumps(plan_dict(resolved), indent=1))


def print_table(resolved: Resolved, console: Console, hardware: str) -> None:
    """Print the plan for a person: cells, what was left out, totals, the next command."""
    grid, costs = resolved.grid, _costs(resolved)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("cell", "size", "N", "D", "C", "D/N", "steps", "warm-up", "batch", "lr", "time",
                 "memory", "disk", "regime"):  # fmt: skip
        table.add_column(name, justify="left" if name in ("cell", "size", "regime") else "right")
    last = None
    for cell, cost in zip(grid.cells, costs, strict=True):
        if last not in (None, cell.budget):
            table.add_row()
        last = cell.budget
        table.add_row(
            cell.id,
            cell.model.size_id,
            si(cell.N),
            si(cell.tokens),
            f"{cell.flops:.3g}",
            f"{cell.tokens / cell.N:.1f}",
            f"{cell.steps:,}",
            f"{cell.recipe.warmup_steps:,}",
            f"{cell.batch_tokens:,}",
            f"{cell.recipe.lr:.3g}",
            duration(cost.seconds),
            size_of(cost.memory_bytes),
            size_of(cost.disk_bytes),
            cell.outside_regime or "inside",
        )
    console.print(table)
    console.print(f"\n{_recipe_line(grid.cells[0].recipe)}")
    _print_skipped(resolved, console)
    totals = plan_dict(resolved)["totals"]
    console.print(
        f"\n{totals['cells']} cells, {totals['flops']:.3g} FLOPs ({grid.cells[0].flop_rule} rule), "
        f"{duration(totals['device_hours'] * 3600)} of one device, "
        f"{duration(totals['wall_hours'] * 3600)} on {totals['devices']} (hardware={hardware}, "
        f"assumed {resolved.rates.flops_per_second:.2g} FLOP/s each), "
        f"{size_of(totals['disk_bytes'])} of disk.",
    )


def duration(seconds: float) -> str:
    """Seconds for a person: '12 s', '3.4 min', '2.1 h', '4.0 days'."""
    for limit, unit, name in ((100, 1, "s"), (6000, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.{0 if unit == 1 and seconds >= 10 else 1}f} {name}"
    return f"{seconds / 86_400:.1f} days"


def size_of(n_bytes: float) -> str:
    """Bytes for a person: '12 MB', '3.4 GB'."""
    for limit, unit, name in ((1e6, 1e3, "kB"), (1e9, 1e6, "MB"), (1e12, 1e9, "GB")):
        if n_bytes < limit:
            return (
                f"{n_bytes / unit:.2g} {name}"
                if n_bytes / unit < 10
                else f"{n_bytes / unit:.0f} {name}"
            )
    return f"{n_bytes / 1e12:.2g} TB"


def _recipe_line(r: Recipe) -> str:
    """Say the constants that all cells share, and where the rule was fitted."""
    regime = RULES[r.rule].regime
    fitted = (
        f"Fitted on N {si(regime.N[0])}..{si(regime.N[1])}, D {si(regime.D[0])}..{si(regime.D[1])}, "
        f"D/N {regime.tokens_per_param[0]:g}..{regime.tokens_per_param[1]:g}, "
        f"{regime.schedule}, {regime.optimizer} ({regime.source})."
        if regime
        else "A fixed recipe was fitted nowhere: only probes can tell whether it suits every cell."
    )
    return (
        f"recipe={r.rule}: schedule {r.schedule}, floor {r.lr_floor:g}, AdamW betas {r.beta1:g} "
        f"{r.beta2:g}, eps {r.eps:g}, weight decay {r.weight_decay:g}, clip {r.grad_clip:g}. {fitted}"
    )


def _print_skipped(resolved: Resolved, console: Console) -> None:
    skipped: Sequence = resolved.grid.skipped
    if skipped:
        console.print(f"\nLeft out ({len(skipped)}):")
    for s in skipped:
        console.print(f"  C={s.budget:.3g} {s.size_id}: {s.reason}")


def _costs(resolved: Resolved) -> list:
    return [predict_cost(c, resolved.rates, resolved.data.val_tokens) for c in resolved.grid.cells]
