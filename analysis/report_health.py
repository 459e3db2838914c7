"""The section on the health of a sweep: what went wrong or stands on thin ground, and what to do."""

from collections.abc import Collection, Mapping
from typing import Any

import pandas as pd

from analysis.figure_data import entries, part
from analysis.recipe_transfer import transfer
from analysis.report_document import Block, Points, Section, Text
from analysis.report_numbers import known, percent, power
from analysis.report_probes import cells_and_probes

Fits = Mapping[str, Any]


def health_section(
    fits: Fits, records: pd.DataFrame | None, cells: pd.DataFrame | None, plan: pd.DataFrame | None
) -> Section:
    """List every trouble in words that say what to do; arguments as in report.write_report.

    Args:
        cells: one row a cell, its result; probes too.
    """
    return Section("health", "Health of the sweep", tuple(_health(fits, records, cells, plan)))


def _health(
    fits: Fits, records: pd.DataFrame | None, cells: pd.DataFrame | None, plan: pd.DataFrame | None
) -> list[Block]:
    own = cells_and_probes(cells)[0]
    trouble = [
        *_missing(cells, plan), *_ended_badly(cells), *_excluded(fits), *_unbracketed(fits),
        *_learning_rate(records), *_epochs(cells), *_outside(own), *_suspect(cells),
        *_warned(fits), *_reruns(records),
    ]  # fmt: skip
    if cells is None:
        trouble.append("No records were given, so how the runs ended is not known.")
    blocks: list[Block] = [Points(tuple(trouble))] if trouble else []
    if not trouble and len(cells):
        blocks.append(Text("Every planned cell finished, every budget has an interior minimum, and "
                           "no cell saw its data twice."))  # fmt: skip
    noise = _noise(fits, records)
    return blocks + ([Text(noise)] if noise else []) or [Text("Nothing to report.")]


def _noise(fits: Fits, records: pd.DataFrame | None) -> str:
    """How much one loss says, by what the law leaves and by probes with other seeds."""
    noise = part(part(fits, "approach3"), "noise")
    left = known(noise.get("rms")) or known(noise.get("scale"))
    words = ""
    if left is not None:
        words = (
            f"Noise: one run's loss lies about {percent(left, signed=False)} from the law of "
            "approach 3, so smaller differences between runs say nothing by themselves. "
        )
    if records is None or records.empty:
        return words.strip()
    seeds = _verdict(records).noise if records["probe"].notna().any() else None
    if seeds is not None and seeds.df:
        return words + (
            f"Seeds alone move it by {percent(seeds.sd, signed=False)} "
            f"({_n(seeds.df, 'degree')} of freedom); what is left beyond that is the law's misfit."
        )
    several = records[records["status"] == "finished"].groupby("size_id")["seed"].nunique().max()
    if several > 1:
        return words.strip()
    return words + (
        "How much of it is luck is unknown, since each cell has one seed: grid.seeds=[0,1], or "
        "grid.probe=true."
    )


def _learning_rate(records: pd.DataFrame | None) -> list[str]:
    """Probed cells whose best learning rate lies at or beyond the probes' edge."""
    if records is None or records.empty or not records["probe"].notna().any():
        return []
    found = _verdict(records)
    at_edge = [c for c in found.cells if c.complete and c.at_edge]
    words = []
    if at_edge:
        names = _some(
            [f"{c.cell_id} at {'half' if c.loss_half < c.loss_double else 'twice'} the rate"
             for c in at_edge]
        )  # fmt: skip
        words.append(
            f"{_n(len(at_edge), 'probed cell')} did best at the edge of the learning rates tried "
            f"({names}): the best one may lie farther out. Move the recipe's rate that way, and "
            "probe again."
        )
    over = [c for c in found.cells if c.status == "over" and not c.at_edge]
    if over:
        words.append(
            f"{_n(len(over), 'probed cell')} above the tuned loss beyond the noise "
            f"({_some([c.cell_id for c in over])}): retune, then train the sweep again."
        )
    if found.verdict == "not_probed":
        words.append(f"The probes of the recipe decide nothing yet: {found.reason}.")
    return words


def _verdict(records: pd.DataFrame):
    return transfer(records)


def _suspect(cells: pd.DataFrame | None) -> list[str]:
    if cells is None:
        return []
    bad = cells[cells["suspect"].notna()]
    if bad.empty:
        return []
    return [f"{_n(len(bad), 'cell')} with a utilisation above 1 ({_some(list(bad['cell_id']))}): a peak "
            "or a clock is wrong, so do not plan with it."]  # fmt: skip


def _missing(cells: pd.DataFrame | None, plan: pd.DataFrame | None) -> list[str]:
    if plan is None or "cell_id" not in plan:
        return []
    have = set() if cells is None else set(cells["cell_id"])
    absent = [c for c in plan["cell_id"] if c not in have]
    if not absent:
        return []
    return [f"{len(absent)} of {len(plan)} planned cells have no record ({_some(absent)}). "
            "Run isoflop launch, then collect and fit again."]  # fmt: skip


def _ended_badly(cells: pd.DataFrame | None) -> list[str]:
    advice = {
        "diverged": "Lower the learning rate or lengthen the warm-up for these sizes.",
        "failed": "isoflop launch tries them again.",
        "stopped": "They were ended as hopeless and enter no fit, so the law is of the others; "
        "isoflop launch launch.only=stopped trains them to their end.",
    }
    words = []
    for status, what in advice.items() if cells is not None else ():
        own = cells[cells["status"] == status]
        if len(own):
            reasons = [f"{c.cell_id}: {c.reason or 'no reason recorded'}" for c in own.itertuples()]
            words.append(f"{len(own)} {status}. {what} {_some(reasons)}")
    return words


def _excluded(fits: Fits) -> list[str]:
    rows = [e for e in entries(part(fits, "points"), "excluded")]
    if not rows:
        return []
    by_reason: dict[str, list[str]] = {}
    for e in rows:
        by_reason.setdefault(str(e.get("reason")), []).append(str(e.get("row")))
    shown = _some([f"{r} ({_some(who)})" for r, who in by_reason.items()])
    return [f"{_n(len(rows), 'run')} did not enter the fit: {shown}."]


def _unbracketed(fits: Fits) -> list[str]:
    advice = {
        "edge": "add sizes on that side",
        "too_few": "add sizes",
        "concave": "look for a bad run, or add sizes",
        "off_centre": "the minimum counts, but add a size on its thin side",
        "failed": "look at its cells",
    }
    return [
        f"The budget {power(m.get('budget'), 3)} is {str(m['status']).replace('_', ' ')}: "
        f"{m.get('reason') or 'no reason given'}. To mend it, {advice[m['status']]}."
        for m in entries(part(fits, "approach2"), "minima")
        if m.get("status") in advice
    ]


def _epochs(cells: pd.DataFrame | None) -> list[str]:
    if cells is None:
        return []
    again = cells[cells["epochs"] > 1.001]
    if again.empty:
        return []
    return [f"{_n(len(again), 'cell')} saw data more than once (up to {again['epochs'].max():.2g} "
            "epochs): repeated data is worth less than new data. Use a larger corpus."]  # fmt: skip


def _outside(cells: pd.DataFrame | None) -> list[str]:
    if cells is None:
        return []
    outside = cells[cells["recipe_outside_regime"].notna()]
    if outside.empty:
        return []
    why = _some(sorted(set(outside["recipe_outside_regime"].astype(str))), most=3)
    return [f"{_n(len(outside), 'cell')} outside the regime that the recipe was fitted on ({why}): "
            "its learning rate and batch are guesses there."]  # fmt: skip


def _warned(fits: Fits) -> list[str]:
    warnings = part(fits, "points").get("warnings")
    return [str(w) for w in warnings] if isinstance(warnings, list) else []


def _reruns(records: pd.DataFrame | None) -> list[str]:
    if records is None or records.empty:
        return []
    done = records[records["status"] == "finished"]
    again = done.groupby("cell_id")["val_loss"].agg(["size", "min", "max"])
    again = again[again["size"] > 1]
    if again.empty:
        return []
    spread = float((again["max"] / again["min"] - 1).max())
    return [f"{_n(len(again), 'cell')} finished more than once; the first attempt counts, and attempts "
            f"differ by up to {percent(spread, signed=False)}."]  # fmt: skip


def _n(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def _some(items: Collection[str], most: int = 5) -> str:
    shown = list(items)[:most]
    more = len(items) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more > 0 else "")
