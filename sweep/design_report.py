"""What isoflop design says and writes: the next cells, why each, and the intervals they promise."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from analysis.design import Step
from analysis.design_information import QUANTITIES, quantile
from analysis.fits_file import plain_json
from sweep.cell import Cell, si
from sweep.cells_file import CELLS_SCHEMA, cell_entry
from sweep.designing import Plan, Round
from sweep.errors import UsageError
from sweep.expectation import relative
from sweep.folder import SweepFolder

_SHARPENS = {"E": "E", "A": "the level of the term in N", "B": "the level of the term in D",
             "alpha": "alpha", "beta": "beta", "gamma": "gamma, how the terms couple",
             "cross": "the cross term"}  # fmt: skip


def write_design(plan: Plan, folder: SweepFolder, fits: Path) -> Path | None:
    """Write the first round as a file that grid.cells= takes; None where there is nothing to run.

    Equal content is not written twice: the number of an earlier equal file is returned.

    Raises:
        UsageError: the folder can't be written.
    """
    if not plan.rounds:
        return None
    designs = folder.path / "designs"
    text = json.dumps(design_dict(plan, folder, fits), indent=1, allow_nan=False) + "\n"
    try:
        folder.make()
        designs.mkdir(exist_ok=True)
        numbers = sorted(int(p.stem) for p in designs.glob("*.json") if p.stem.isdigit())
        for number in numbers:
            if (designs / f"{number}.json").read_text(encoding="utf-8") == text:
                return designs / f"{number}.json"
        return _write_new(designs, numbers[-1] + 1 if numbers else 1, text)
    except OSError as e:
        raise UsageError(f"can't write {designs}: {e.strerror}") from None


def _write_new(designs: Path, number: int, text: str) -> Path:
    """Write under the next free number; two designs at the same moment get two numbers."""
    part = designs / f".{os.getpid()}.part"
    part.write_text(text, encoding="utf-8")
    try:
        while True:
            path = designs / f"{number}.json"
            try:
                os.link(part, path)
                return path
            except FileExistsError:
                number += 1
    finally:
        part.unlink()


def design_dict(plan: Plan, folder: SweepFolder, fits: Path) -> dict[str, Any]:
    """Return the first round's cells, and what each round promises, as plain values."""
    first = plan.rounds[0]
    cells = [cell_entry(c, why) for c, why in zip(first.cells, reasons(plan, first), strict=True)]
    probes = [cell_entry(p, "probe of the recipe") for p in first.probes]
    top = _top_before(plan)
    return plain_json({
        "schema": CELLS_SCHEMA,
        "sweep": folder.name,
        "fits": str(fits),
        "law": plan.known.prior.law,
        "target": plan.target,
        "quantities": plan.asked.quantities,
        "until": plan.asked.until,
        "reached": plan.reached,
        "level": plan.level,
        "funds": {"unit": plan.asked.unit, "of_a_round": plan.asked.funds},
        "before": _intervals(plan, plan.covariance, top),
        "rounds": [_round_dict(plan, r) for r in plan.rounds],
        "cells": cells + probes,
    })  # fmt: skip


def _round_dict(plan: Plan, r: Round) -> dict[str, Any]:
    return {
        "cells": [c.id for c in r.cells],
        "probes": [c.id for c in r.probes],
        "flops": sum(c.flops for c in (*r.cells, *r.probes)),
        "price": r.price,
        "after": _intervals(plan, r.covariance, r.top),
    }


def _intervals(plan: Plan, covariance: np.ndarray, top: float) -> dict[str, Any]:
    """Estimate, predicted standard error of its logarithm, and interval of each quantity."""
    N = float(plan.known.form.N_opt(plan.target))
    loss = float(plan.known.form.loss(N, plan.target / 6 / N))
    reach = quantile(plan.level)
    found = {}
    for quantity, value in zip(QUANTITIES, (N, loss), strict=True):
        sd = plan.sd(quantity, covariance, top)
        ends = [float(value * np.exp(sign * min(reach * sd, 50.0))) for sign in (-1, 1)]
        found[quantity] = {"estimate": value, "sd": sd, "interval": ends}
    return found


def reasons(plan: Plan, r: Round) -> list[str]:
    """Say of each cell of a round why it is there."""
    return [_reason(plan, cell, step) for cell, step in zip(r.cells, r.steps, strict=True)]


def _reason(plan: Plan, cell: Cell, step: Step) -> str:
    role = (
        f"one of the four sizes that the dearest budget, C={cell.budget:.3g}, needs for a minimum"
        if step.role == "top"
        else "the largest gain left for its price"
    )
    falls = ", ".join(
        f"{q} {relative(before)} -> {relative(after)}"
        for q, before, after in zip(
            plan.asked.quantities, step.sd_before, step.sd_after, strict=True
        )
    )
    return f"{role}: {falls}; sharpens {_SHARPENS[step.sharpens]}"


def print_design(plan: Plan, console: Console, fits: Path) -> None:
    """Print what is known, the cells of the first round, what they promise, further rounds."""
    known = plan.known
    source = f"{known.rows} runs" if known.rows else "the fit's covariance"
    console.print(
        f"From {fits}: law {known.prior.law}, {source}, budgets {min(known.budgets):.3g}.."
        f"{max(known.budgets):.3g}. Wanted: {', '.join(plan.asked.quantities)} at C={plan.target:.3g}."
    )
    if plan.known.prior.fits.get("forecast", [{}])[0].get("recipe") == "not_transferred":
        console.print(
            "The recipe does not transfer over this sweep: more cells sharpen a bent law."
        )
    if known.coming:
        console.print(f"{len(known.coming)} planned cells have no result yet; they are counted as if they had.")  # fmt: skip
    if plan.left_out:
        more = f" (and {len(plan.left_out) - 3} more)" if len(plan.left_out) > 3 else ""
        console.print(f"Not among the {plan.candidates} candidates: {'; '.join(plan.left_out[:3])}{more}")  # fmt: skip
    if plan.rounds:
        console.print(_cell_table(plan, plan.rounds[0]))
        _print_price(plan, plan.rounds[0], console)
    _print_intervals(plan, console)
    _print_rounds(plan, console)


def _cell_table(plan: Plan, r: Round) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("cell", "size", "C", "D/N", "why (one standard error)"):
        table.add_column(name, justify="right" if name in ("C", "D/N") else "left")
    for cell, why in zip(r.cells, reasons(plan, r), strict=True):
        ratio = f"{cell.tokens / cell.N:.1f}"
        table.add_row(cell.id, cell.model.size_id, f"{cell.flops:.3g}", ratio, why)
    return table


def _print_price(plan: Plan, r: Round, console: Console) -> None:
    flops, of_probes = (sum(c.flops for c in cells) for cells in (r.cells, r.probes))
    asked = plan.asked
    spent = f"; {r.price:.3g} of {asked.funds:.3g} {asked.unit.replace('_', ' ')}"
    console.print(
        f"\n{len(r.cells)} cells, {flops:.3g} FLOPs, and {len(r.probes)} probes of the recipe, "
        f"{of_probes:.3g} FLOPs{spent}."
    )


def _print_intervals(plan: Plan, console: Console) -> None:
    last = plan.rounds[-1] if plan.rounds else None
    before = _intervals(plan, plan.covariance, _top_before(plan))
    after = before if last is None else _intervals(plan, last.covariance, last.top)
    fitted = _fitted_intervals(plan)
    for quantity in QUANTITIES:
        console.print(
            f"{quantity} at C={plan.target:.3g}: {_say(quantity, before[quantity])} now, "
            f"{_say(quantity, after[quantity])} then ({plan.level:.0%}){fitted.get(quantity, '')}."
        )
    console.print(
        "Predicted at this fit, over all forms that a design allows for; the fit to come decides."
    )


def _fitted_intervals(plan: Plan) -> dict[str, str]:
    """Say what fits.json itself gives at this target, where it has it."""
    for entry in plan.known.prior.fits["forecast"]:
        if entry.get("law") == plan.known.prior.law and np.isclose(
            entry["C"], plan.target, rtol=1e-2
        ):
            named = {"N_opt": entry["N_interval"], "loss": entry["loss_interval"]}
            before = _intervals(plan, plan.covariance, _top_before(plan))
            return {q: _beside(q, ends, before[q]["interval"]) for q, ends in named.items() if ends}
    return {}


def _beside(quantity: str, fitted: Sequence[float], predicted: Sequence[float]) -> str:
    """Say the fit's own interval, and how it compares with the one predicted now."""
    times = np.log(fitted[1] / fitted[0]) / np.log(predicted[1] / predicted[0])
    return f"; fits.json has {_pair(quantity, fitted)}, x{times:.2g} as wide as predicted now"


def _say(quantity: str, found: dict[str, Any]) -> str:
    text = si(found["estimate"]) if quantity == "N_opt" else f"{found['estimate']:.4g}"
    return f"{text} [{_pair(quantity, found['interval'])}]"


def _pair(quantity: str, ends: Sequence[float]) -> str:
    return "..".join(si(x) if quantity == "N_opt" else f"{x:.4g}" for x in ends)


def _print_rounds(plan: Plan, console: Console) -> None:
    until = plan.asked.until
    if until is None:
        return
    wanted = f"{until.quantity} at C={until.target:.3g} within {100 * until.share:.3g}%"
    if not plan.rounds:
        now = plan.share(plan.sd(until.quantity, plan.covariance, _top_before(plan)))
        console.print(f"Reached: {wanted} ({now:.1%} now). Nothing remains to be launched.")
        return
    for number, r in enumerate(plan.rounds, start=1):
        share = plan.share(plan.sd(until.quantity, r.covariance, r.top))
        price = sum(c.flops for c in (*r.cells, *r.probes))
        console.print(
            f"Round {number}: {len(r.cells)} cells and {len(r.probes)} probes, {price:.3g} FLOPs, "
            f"then within {share:.1%}."
        )
    rounds = f"{len(plan.rounds)} round{'s' * (len(plan.rounds) > 1)}"
    total = sum(c.flops for r in plan.rounds for c in (*r.cells, *r.probes))
    if plan.reached:
        console.print(f"{wanted}: {rounds} to launch, {total:.3g} FLOPs. Launch the first, collect, fit, and type this again.")  # fmt: skip
    else:
        best = plan.share(plan.sd(until.quantity, plan.rounds[-1].covariance, plan.rounds[-1].top))
        console.print(
            f"{wanted}: not reached by {rounds}, {total:.3g} FLOPs; {best:.1%} is. Then no candidate "
            "that a round can pay for is left: raise the budget of a round, or add sizes or seeds."
        )


def _top_before(plan: Plan) -> float:
    known = plan.known
    return max((*known.budgets, *(c.budget for c in known.coming)))
