"""The sections about the runs themselves: curves, cells, health of the sweep, provenance."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.figure_data import entries, part
from analysis.report_document import Block, Command, Picture, Points, Section, Table, Text, table
from analysis.report_numbers import (
    DASH,
    count,
    duration,
    known,
    percent,
    power,
    significant,
    with_error,
)
from analysis.report_probes import cells_and_probes, probe_table

Fits = Mapping[str, Any]
MOST_ROWS = 400
_NEEDS_SWEEP = "This section needs the records of a sweep; none were given."


def run_sections(
    fits: Fits,
    pictures: Collection[str],
    records: pd.DataFrame | None,
    cells: pd.DataFrame | None,
    plan: pd.DataFrame | None,
    command: str,
) -> list[Section]:
    """Sections 7 to 10.

    Args:
        fits: parsed fits.json.
        pictures: names of the figures that could be drawn.
        records: every attempt, or None.
        cells: one row a cell, its result, or None.
        plan: planned cells with a column cell_id, or None.
        command: what remakes this page.
    """
    own, probes = cells_and_probes(cells)
    return [
        _curves(pictures, own),
        _cells(pictures, own, probes),
        Section("health", "Health of the sweep", tuple(_health(fits, records, cells, plan))),
        Section("provenance", "Where this comes from", tuple(_provenance(fits, own, command))),
    ]


def _curves(pictures: Collection[str], cells: pd.DataFrame | None) -> Section:
    missing = _NEEDS_SWEEP if cells is None else "No training curves were collected."
    block = Picture("curves") if "curves" in pictures else Text(missing, "note")
    return Section("curves", "Learning curves", (block,))


def _cells(
    pictures: Collection[str], cells: pd.DataFrame | None, probes: pd.DataFrame | None
) -> Section:
    if cells is None or cells.empty:
        words = _NEEDS_SWEEP if cells is None else "The sweep has no records yet."
        return Section("cells", "Cells", (Text(words, "note"),))
    blocks: list[Block] = [_cell_table(cells)]
    if len(cells) > MOST_ROWS:
        blocks.append(Text(f"The first {MOST_ROWS} of {len(cells)} cells are shown.", "note"))
    if probes is not None and len(probes):
        blocks.append(probe_table(probes))
    if "utilisation" in pictures:
        blocks.append(Picture("utilisation"))
    boards = cells["board"].dropna().unique()
    if len(boards) > 1:
        names = ", ".join(map(str, boards))
        blocks.append(Text(f"Cells ran on {len(boards)} kinds of device ({names}): compare "
                           "speeds within one only.", "warning"))  # fmt: skip
    return Section("cells", "Cells", tuple(blocks))


def _cell_table(cells: pd.DataFrame) -> Table:
    ordered = cells.sort_values(["budget", "N_flops"], kind="stable")[:MOST_ROWS]
    rate = "mfu" if np.isfinite(cells["mfu"]).any() else "mfu_of_measured_peak"
    rows = [
        [
            str(c.cell_id),
            power(c.budget, 3),
            count(c.N_flops),
            count(c.tokens),
            significant(c.tokens / c.N_flops, 2),
            significant(c.lr, 2),
            count(c.batch_tokens),
            with_error(c.val_loss, c.val_loss_se) if c.status == "finished" else str(c.status),
            significant(c.bpb, 4),
            count(c.tokens_per_second),
            percent(getattr(c, rate), signed=False),
            duration(c.seconds),
        ]
        for c in ordered.itertuples()
    ]
    columns = (
        "cell", "budget", "N", "D", "D/N", "lr", "batch", "loss", "bpb", "tokens/s",
        "MFU" if rate == "mfu" else "of peak", "time",
    )  # fmt: skip
    seconds = float(np.nansum(cells["seconds"]))
    what = "MFU" if rate == "mfu" else "of peak: share of a matmul peak measured on this machine"
    caption = (
        f"{len(cells)} cells, {power(cells['flops'].sum())} FLOPs, {duration(seconds)} of run time "
        f"in all. N = C/(6D), batch in tokens, bpb bits per byte; {what}"
    )
    return table(columns, rows, text=("cell",), caption=caption)


def _health(
    fits: Fits, records: pd.DataFrame | None, cells: pd.DataFrame | None, plan: pd.DataFrame | None
) -> list[Block]:
    trouble = [*_missing(cells, plan), *_ended_badly(cells), *_excluded(fits)]
    trouble += [
        *_unbracketed(fits),
        *_epochs(cells),
        *_outside(cells_and_probes(cells)[0]),
        *_warned(fits),
    ]
    trouble += _reruns(records)
    if cells is None:
        trouble.append("No records were given, so how the runs ended is not known.")
    elif len(cells) and not trouble:
        return [Text("Every planned cell finished, every budget has an interior minimum, and no "
                     "cell saw its data twice.")]  # fmt: skip
    return [Points(tuple(trouble))] if trouble else [Text("Nothing to report.")]


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
        "failed": "isoflop launch tries them again; isoflop logs shows the error.",
        "stopped": "They were ended early and never enter a fit.",
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


def _provenance(fits: Fits, cells: pd.DataFrame | None, command: str) -> list[Block]:
    points = part(fits, "points")
    facts = [
        ["runs fitted", str(points.get("n") if known(points.get("n")) is not None else DASH)],
        ["points", _text(points.get("path"))],
        ["sha256 of the points", _text(points.get("sha256"))],
        ["flop rule", _text(points.get("flop_rule"))],
        ["N convention", _text(points.get("N_convention"))],
        ["level of intervals", percent(fits.get("level"), signed=False)],
    ]
    facts += [[f"fit: {k}", _text(v)] for k, v in part(fits, "provenance").items()]
    for column, name in _OF_CELLS.items() if cells is not None and len(cells) else ():
        values = sorted({_text(v) for v in cells[column].dropna().unique()})
        facts.append([name, ", ".join(values) or DASH])
    facts = [f for f in facts if f[1] != DASH]
    return [
        table(("what", "value"), facts, text=("what", "value")),
        Text("This page is remade by"),
        Command(command),
    ]


_OF_CELLS = {
    "git_sha": "runs: commit",
    "git_dirty": "runs: uncommitted changes",
    "code_sha256": "runs: hash of the source",
    "data": "data",
    "data_revision": "data revision",
    "data_sha256": "data hash",
    "tokenizer": "tokenizer",
    "recipe": "recipe",
    "schedule": "schedule",
    "device": "device",
    "board": "board",
    "n_device": "devices of a cell",
    "threads": "threads",
    "dtype": "dtype",
    "attention": "attention",
    "torch_version": "torch",
    "numpy_version": "numpy",
    "python_version": "Python",
}


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_text(v)}" for k, v in value.items()) or DASH
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or DASH
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        return f"{value:g}" if np.isfinite(value) else DASH
    return DASH if value is None else str(value)


def _n(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def _some(items: Collection[str], most: int = 5) -> str:
    shown = list(items)[:most]
    more = len(items) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more > 0 else "")
