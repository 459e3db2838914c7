"""The plan: what would be trained, what it would cost, and what was left out and why."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields
from typing import Any

from rich.console import Console
from rich.table import Table

from conf.schema import AppConf
from models.config import GPTConfig, Parametrisation
from models.hf_config import HFConfig
from sweep.amounts import duration, size_of
from sweep.cell import Cell, params_of, si
from sweep.cells import cell_to_row
from sweep.expectation import outlook_dict, print_outlook
from sweep.predict import Cost, predict_cost, predict_wall
from sweep.recipe_regime import Optimizer
from sweep.recipe_rules import RULES
from sweep.resolve import Resolved
from sweep.trunks import before_it, chains, shared_steps


def plan_dict(resolved: Resolved, app: AppConf) -> dict[str, Any]:
    """Return the whole plan as plain values, for plan.format=json.

    Probes are listed and priced apart; the wall-clock time and the disk are for everything.
    """
    grid = resolved.grid
    costs, of_probes = _costs(resolved, grid.cells), _costs(resolved, grid.probes)
    shared, ranks, devices = (
        shared_steps(grid.trained),
        resolved.rates.ranks,
        resolved.rates.devices,
    )
    seconds = {c.id: cost.seconds for c, cost in zip(grid.trained, costs + of_probes, strict=True)}
    runs = [
        sum(seconds[i] for i in chain) for chain in chains(list(seconds), before_it(grid.trained))
    ]
    return {
        "sweep": resolved.folder.name,
        "expected": None if app.grid.cells else outlook_dict(resolved, app),
        "cells": _rows(grid.cells, costs, shared),
        "probes": _rows(grid.probes, of_probes, shared),
        "skipped": [asdict(s) for s in grid.skipped],
        "totals": {
            **_price(grid.cells, costs, shared, ranks),
            "probes": _price(grid.probes, of_probes, shared, ranks),
            "wall_hours": predict_wall(runs, devices) / 3600,
            "devices": devices,
            "ranks": ranks,
            "disk_bytes": sum(c.disk_bytes for c in costs + of_probes),
        },
    }


def print_json(resolved: Resolved, app: AppConf) -> None:
    """Print the plan as JSON."""
    print(json.dumps(plan_dict(resolved, app), indent=1))


def print_table(resolved: Resolved, app: AppConf, console: Console) -> None:
    """Print the plan for a person: cells, what was left out, totals, the next command."""
    grid = resolved.grid
    if said := _model_line(grid.cells):
        console.print(f"model: {said}\n")
    console.print(_cell_table(resolved, grid.cells))
    console.print(f"\n{_recipe_line(grid.cells)}")
    if grid.probes:
        console.print(f"\nProbes of the recipe ({len(grid.probes)}), which enter no fit:")
        console.print(_cell_table(resolved, grid.probes))
    _print_skipped(resolved, console)
    if app.grid.cells is None:  # else what is expected stands in the design
        print_outlook(resolved, app, console)
    totals = plan_dict(resolved, app)["totals"]
    console.print(
        f"\n{totals['cells']} cells, {totals['flops']:.3g} FLOPs ({grid.cells[0].flop_rule} rule), "
        f"{_of_trunks(totals)}"
        f"{duration(totals['device_hours'] * 3600)} of one device{_price_of_probes(totals)}.\n"
        f"{duration(totals['wall_hours'] * 3600)} on {_devices(totals)} (hardware={app.hardware.name}, "
        f"assumed {resolved.rates.flops_per_second:.2g} FLOP/s each), "
        f"{size_of(totals['disk_bytes'])} of disk.",
    )


def _of_trunks(totals: dict[str, Any]) -> str:
    """Say what trunks spare: laws count the whole path of each cell, the bill counts a trunk once."""
    if totals["flops_spent"] == totals["flops"]:
        return ""
    share = totals["flops_spent"] / totals["flops"]
    return f"of which {totals['flops_spent']:.3g} are spent ({share:.0%}), as trunks are trained once, "


def _model_line(cells: Sequence[Cell]) -> str:
    """Say what all sizes share, and who counted them where it was not a formula."""
    cfg = cells[0].model
    if not isinstance(cfg, HFConfig):
        options = _model_options(cfg)
        return options and f"{options} (the rest as in docs/config.md)"
    by_size = sorted(cells, key=lambda c: c.N)
    source, largest = (c.model.counts.source for c in (by_size[0], by_size[-1]))
    of_largest = (
        "" if largest == source else f" (of the largest size: {largest.rpartition('; ')[2]})"
    )
    return (
        f"{cfg.architecture} of transformers; FLOPs: {source}{of_largest}. Predicted times take it "
        "for as fast as our GPT"
    )


def _model_options(cfg: GPTConfig) -> str:
    """Name the choices that differ from the model's defaults, which all sizes share."""
    chosen = [f for f in fields(cfg) if f.default is not MISSING]
    return ", ".join(
        f"{f.name}={getattr(cfg, f.name)}" for f in chosen if getattr(cfg, f.name) != f.default
    )


def _devices(totals: dict[str, Any]) -> str:
    """Say on how many devices, and what is assumed where ranks share a cell."""
    cells, ranks = totals["devices"], totals["ranks"]
    if ranks == 1:
        return str(cells)
    return f"{cells} x {ranks} ranks that share a cell at an assumed efficiency of 1"


def _cell_table(resolved: Resolved, cells: Sequence[Cell]) -> Table:
    """One row a cell, budgets apart; the rule's batch where whole sequences are not that."""
    rounded = any(c.recipe.batch_tokens_asked is not None for c in cells)
    branches, shared = any(c.on_trunk for c in cells), shared_steps(resolved.grid.trained)
    experts = any(c.model.n_expert is not None for c in cells)
    names = ["cell", "size", "N", *["N active", "N total"] * experts, "D", "C", *["spent", "from step"] * branches, "D/N", "steps", "warm-up", "batch", *["by rule"] * rounded,
             "lr", "time", "memory", "disk", "regime"]  # fmt: skip
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in names:
        table.add_column(name, justify="left" if name in ("cell", "size", "regime") else "right")
    last = None
    for cell, cost in zip(cells, _costs(resolved, cells), strict=True):
        if last not in (None, cell.budget):
            table.add_row()
        last = cell.budget
        asked = cell.recipe.batch_tokens_asked or cell.batch_tokens
        table.add_row(
            cell.id,
            cell.model.size_id,
            si(cell.N),
            *[si(n) for n in (params_of(cell)["N_active"], params_of(cell)["N_total"])] * experts,
            si(cell.tokens),
            f"{cell.flops:.3g}",
            *[f"{_spent(cell, shared):.3g}", f"{shared[cell.id]:,}"] * branches,
            f"{cell.tokens / cell.N:.1f}",
            f"{cell.steps:,}",
            f"{cell.recipe.warmup_steps:,}",
            f"{cell.batch_tokens:,}",
            *[f"{asked:,.0f}"] * rounded,
            f"{cell.recipe.lr:.3g}",
            duration(cost.seconds),
            size_of(cost.memory_bytes),
            size_of(cost.disk_bytes),
            cell.outside_regime or "inside",
        )
    return table


def _rows(
    cells: Sequence[Cell], costs: Sequence[Cost], shared: Mapping[str, int]
) -> list[dict[str, Any]]:
    return [
        {
            **cell_to_row(cell),
            "shared_steps": shared[cell.id],
            "flops_spent": _spent(cell, shared),
            **{f"predicted_{k}": v for k, v in asdict(cost).items()},
        }
        for cell, cost in zip(cells, costs, strict=True)
    ]


def _spent(cell: Cell, shared: Mapping[str, int]) -> float:
    """FLOPs of the steps that no other cell takes for this one."""
    return cell.flops * (1 - shared[cell.id] / cell.steps)


def _price(
    cells: Sequence[Cell], costs: Sequence[Cost], shared: Mapping[str, int], ranks: int
) -> dict[str, float]:
    return {
        "cells": len(cells),
        "flops": sum(c.flops for c in cells),
        "flops_spent": sum(_spent(c, shared) for c in cells),
        "device_hours": ranks * sum(c.seconds for c in costs) / 3600,
    }


def _price_of_probes(totals: dict[str, Any]) -> str:
    probes = totals["probes"]
    if not probes["cells"]:
        return "; no probes (grid.probe=false), so no fit can say whether the recipe transfers"
    return (
        f"; {probes['cells']} probes beside them, {probes['flops_spent']:.3g} FLOPs "
        f"(+{probes['flops_spent'] / totals['flops_spent']:.0%}), {duration(probes['device_hours'] * 3600)}"
    )


def _recipe_line(cells: Sequence[Cell]) -> str:
    """Say the constants beside lr and batch, as ranges where a rule gives each cell its own."""
    r = cells[0].recipe

    def over_cells(name: str) -> str:
        values = {getattr(c.recipe, name) for c in cells}
        low, high = f"{min(values):.4g}", f"{max(values):.4g}"
        return low if low == high else f"{low}..{high}"

    regime = RULES[r.rule].regime
    fitted = (
        regime.in_words()
        if regime
        else "A fixed recipe was fitted nowhere: only probes can tell whether it suits every cell."
    )
    muon = ""
    if r.optimizer is Optimizer.MUON:
        flops = sum(c.optimizer_flops for c in cells) / sum(c.flops for c in cells)
        muon = (f"Muon on the matrices of the blocks (momentum {r.momentum:g}, lr by {r.adjust_lr_fn}, "
                f"{flops:.1%} more FLOPs than C counts), elsewhere ")  # fmt: skip
    return (
        f"recipe={r.rule}: schedule {r.schedule}, floor {over_cells('lr_floor')}, {muon}AdamW betas "
        f"{r.beta1:g} {over_cells('beta2')}, eps {over_cells('eps')}, weight decay "
        f"{over_cells('weight_decay')}, clip {r.grad_clip:g}. {_at_base(cells)}{fitted}"
    )


def _at_base(cells: Sequence[Cell]) -> str:
    """Say which learning rate the table shows where blocks have another."""
    cfg = cells[0].model
    if cfg.parametrisation is Parametrisation.STANDARD:
        return ""
    rates = sorted(c.lr_blocks for c in cells)
    return (
        f"lr is that at d_model={cfg.base_d_model}: matrices of blocks have it x {cfg.base_d_model}/d_model, "
        f"{rates[0]:.3g}..{rates[-1]:.3g}. "
    )


def _print_skipped(resolved: Resolved, console: Console) -> None:
    skipped: Sequence = resolved.grid.skipped
    if skipped:
        console.print(f"\nLeft out ({len(skipped)}):")
    for s in skipped:
        console.print(f"  C={s.budget:.3g} {s.size_id}: {s.reason}")


def _costs(resolved: Resolved, cells: Sequence[Cell]) -> list[Cost]:
    shared, tokens = shared_steps(resolved.grid.trained), resolved.data.final_tokens
    return [predict_cost(c, resolved.rates, tokens, shared[c.id]) for c in cells]
