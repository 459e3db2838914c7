"""The sections about the runs themselves: curves, cells, health of the sweep, provenance."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.figure_data import part
from analysis.report_cost import NEEDS_SWEEP, cost_section, money, speed_section
from analysis.report_document import Block, Command, Picture, Section, Table, Text, table
from analysis.report_health import health_section
from analysis.report_numbers import (
    DASH,
    count,
    known,
    percent,
    power,
    significant,
    with_error,
)
from analysis.report_probes import cells_and_probes, probe_table
from analysis.run_tables import time_unit, with_devices

Fits = Mapping[str, Any]
MOST_ROWS = 400


def run_sections(
    fits: Fits,
    pictures: Collection[str],
    records: pd.DataFrame | None,
    cells: pd.DataFrame | None,
    plan: pd.DataFrame | None,
    command: str,
    price: float | None,
) -> list[Section]:
    """Return the sections from learning curves to provenance.

    Args:
        fits: parsed fits.json.
        pictures: names of the figures that could be drawn.
        records: every attempt, or None.
        cells: one row a cell, its result, or None.
        plan: planned cells with a column cell_id, or None.
        command: what remakes this page.
        price: of one device-hour, dollars, or None.
    """
    own, probes = cells_and_probes(cells)
    return [
        _curves(pictures, own),
        speed_section(pictures, own),
        cost_section(records, cells, price),
        _cells(own, probes, price),
        health_section(fits, records, cells, plan),
        Section("provenance", "Where this comes from", tuple(_provenance(fits, own, command))),
    ]


def _curves(pictures: Collection[str], cells: pd.DataFrame | None) -> Section:
    missing = NEEDS_SWEEP if cells is None else "No training curves were collected."
    block = Picture("curves") if "curves" in pictures else Text(missing, "note")
    return Section("curves", "Learning curves", (block,))


def _cells(cells: pd.DataFrame | None, probes: pd.DataFrame | None, price: float | None) -> Section:
    if cells is None or cells.empty:
        words = NEEDS_SWEEP if cells is None else "The sweep has no records yet."
        return Section("cells", "Cells", (Text(words, "note"),))
    blocks: list[Block] = [_cell_table(with_devices(cells), price)]
    if len(cells) > MOST_ROWS:
        blocks.append(Text(f"The first {MOST_ROWS} of {len(cells)} cells are shown.", "note"))
    if probes is not None and len(probes):
        blocks.append(probe_table(probes[:MOST_ROWS]))
    return Section("cells", "Cells", tuple(blocks))


def _cell_table(cells: pd.DataFrame, price: float | None) -> Table:
    ordered = cells.sort_values(["budget", "N_flops"], kind="stable")[:MOST_ROWS]
    unit, per_hour = time_unit(cells)
    rate = "mfu" if np.isfinite(cells["mfu"]).any() else "mfu_of_measured_peak"
    rows = [
        [
            str(c.cell_id),
            count(c.N_flops),
            count(c.tokens),
            significant(c.tokens / c.N_flops, 2),
            significant(c.lr, 2),
            count(c.batch_tokens),
            with_error(c.val_loss, c.val_loss_se) if c.status == "finished" else str(c.status),
            significant(c.bpb, 4),
            count(c.tokens_per_second),
            percent(getattr(c, rate), signed=False),
            power(c.flops, 3) if c.status == "finished" else DASH,
            significant(c.hours * per_hour, 3),
            money(c.hours, price),
        ]
        for c in ordered.itertuples()
    ]
    columns = (
        "cell", "N", "D", "D/N", "lr", "batch", "loss", "bpb", "tokens/s",
        "MFU" if rate == "mfu" else "of peak", "FLOPs", unit, "dollars",
    )  # fmt: skip
    if price is None:
        columns, rows = columns[:-1], [r[:-1] for r in rows]
    what = "MFU" if rate == "mfu" else "of peak: share of a matmul peak measured on this machine"
    caption = (
        f"{len(cells)} cells. N = C/(6D), batch in tokens, bpb bits per byte; {what}; {unit} of "
        "wall-clock time times devices"
    )
    return table(columns, rows, text=("cell",), caption=caption)


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
