"""What a grid is expected to tell of the optimum at a target, before any cell of it is run."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from analysis.design_information import QUANTITIES, expected, in_common, information
from analysis.design_prior import Prior
from conf.schema import AppConf
from sweep.cell import Cell
from sweep.errors import UsageError
from sweep.grid import isoflop_grid
from sweep.grid_settings import DEFAULT_WINDOW, DESIGNS, window_of
from sweep.resolve import Resolved, fitting_on_a_device
from sweep.trunks import spent_flops

LEVEL = 0.9  # of the intervals whose coverage is predicted
BRANCHES = 0.7  # correlation of the scatter of a trunk's branches: .71 in results/reference/trunks


@dataclass(frozen=True)
class Outlook:
    """One set of cells: its price, and by the prior law the errors at the target.

    `scale` is how many times the cells would be run to cost what the plan costs. Standard errors
    are of logarithms; coverage is of 90% intervals of the law, where the truth is a form around it.
    """

    name: str
    cells: int
    flops: float
    scale: float
    sd: dict[str, float]
    coverage: dict[str, float]


def outlooks(resolved: Resolved, app: AppConf) -> tuple[float, list[Outlook]]:
    """Target and outlooks: of the grid at hand, and of others at equal price.

    Raises:
        UsageError: a target that is no compute, or that lies inside the grid.
    """
    settings, cells = resolved.inputs.settings, resolved.grid.cells
    target = target_of_plan(app, cells)
    price = spent_flops(cells)
    rows = [_outlook("this grid", cells, 1.0, settings.prior, target)]
    others: dict[str, dict[str, Any]] = {}
    for design in DESIGNS:
        if design != settings.design:
            others[f"{design}, equal price"] = {"design": design}
    if settings.trunks:
        others["separate runs, equal price"] = {"trunks": False}
    if _widest(resolved) > DEFAULT_WINDOW * (1 + 1e-9):
        others[f"window {DEFAULT_WINDOW:g}, equal price"] = {"window": DEFAULT_WINDOW}
    for name, changes in others.items():
        inputs = replace(resolved.inputs, settings=replace(settings, **changes))
        other = fitting_on_a_device(isoflop_grid(*inputs), app.hardware).cells
        if other:
            scale = price / spent_flops(other)
            rows.append(_outlook(name, other, scale, settings.prior, target))
    return target, rows


def target_of_plan(app: AppConf, cells: Sequence[Cell]) -> float:
    """Return design.target, or ten times the top budget.

    Raises:
        UsageError: it is not above the top budget.
    """
    top = max(c.budget for c in cells)
    target = app.design.target
    if target is None:
        return 10 * top
    if not top < target <= 1e36:
        raise UsageError(
            f"design.target={target:g} lies inside the grid, whose top budget is {top:g}: "
            f"name a compute above it, such as design.target={10 * top:g}"
        )
    return target


def outlook_dict(resolved: Resolved, app: AppConf) -> dict[str, Any]:
    """Return the outlooks as plain values, for plan.format=json."""
    target, rows = outlooks(resolved, app)
    prior = resolved.inputs.settings.prior
    return {"target": target, "law": prior.name, "form": prior.law, "noise": prior.noise.sd,
            "level": LEVEL, "grids": [asdict(row) for row in rows]}  # fmt: skip


def print_outlook(resolved: Resolved, app: AppConf, console: Console) -> None:
    """Say what the grid would tell, beside other grids of its price."""
    target, rows = outlooks(resolved, app)
    prior = resolved.inputs.settings.prior
    console.print(
        f"\nExpected at C={target:.3g} if the law {prior.name} holds ({prior.law}, noise "
        f"{prior.noise.sd:.2%} a cell; grid.prior, grid.noise): one standard error, and how often "
        f"a 90% interval of that law would hold the truth if only a wider form holds."
    )
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("", "cells", "FLOPs", "N_opt", "loss", "N_opt holds", "loss holds"):
        table.add_column(name, justify="right" if name else "left")
    for row in rows:
        times = "" if row.scale == 1 else f" x{row.scale:.2f}"
        table.add_row(
            row.name, f"{row.cells}{times}", f"{row.flops:.3g}",
            *[relative(row.sd[q]) for q in QUANTITIES],
            *[f"{row.coverage[q]:.0%}" for q in QUANTITIES],
        )  # fmt: skip
    console.print(table)
    width = _widest(resolved)
    if width > DEFAULT_WINDOW * (1 + 1e-9):
        console.print(
            f"The window is x{width:.3g} each way, wider than x{DEFAULT_WINDOW:g}: the coverage "
            "above is of forms near the law; laws also break at extreme D/N, which no form here has."
        )


def relative(sd: float) -> str:
    """Say the standard error of a logarithm to a person: 3.1%, or a factor where it is large."""
    if sd > 0.7:
        return f"x{np.exp(min(sd, 99.0)):.2g}"
    return f"{np.expm1(sd):.{2 if sd < 0.01 else 1 if sd < 0.1 else 0}%}"


def _outlook(
    name: str, cells: Sequence[Cell], scale: float, prior: Prior, target: float
) -> Outlook:
    N, D = (np.array([getattr(c, k) for c in cells], dtype=float) for k in ("N", "tokens"))
    C = 6 * N * D
    form = prior.form(float(np.exp(np.log(N).mean())), float(np.exp(np.log(D).mean())))
    told = scale * information(form, prior.noise, N, D, C)
    trunks = np.array([c.trunk or c.id for c in cells])
    shared = scale * in_common(form, prior.noise, N, D, C, trunks, BRANCHES)
    gradients = form.gradients_at_optimum(target)
    found = {q: expected(form, told, prior.law, gradients[q], LEVEL, shared) for q in QUANTITIES}
    return Outlook(
        name, len(cells), spent_flops(cells) * scale, scale,
        {q: e.sd for q, e in found.items()}, {q: e.coverage for q, e in found.items()},
    )  # fmt: skip


def _widest(resolved: Resolved) -> float:
    settings = resolved.inputs.settings
    return max(window_of(budget, settings)[1] for budget in settings.budgets)
