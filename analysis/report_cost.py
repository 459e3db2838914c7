"""The sections on what runs took: speed by size and device, and cost by budget."""

from collections.abc import Collection

import pandas as pd

from analysis.report_document import Block, Picture, Section, Text, table
from analysis.report_numbers import DASH, count, known, percent, power, significant
from analysis.run_tables import costs, device_table

NEEDS_SWEEP = "This section needs the records of a sweep; none were given."


def speed_section(pictures: Collection[str], cells: pd.DataFrame | None) -> Section:
    """Throughput and utilisation; several kinds of device are flagged.

    Args:
        pictures: names of the figures that could be drawn.
        cells: one row a cell, without probes, or None.
    """
    title = "Speed"
    if cells is None or cells.empty:
        words = NEEDS_SWEEP if cells is None else "The sweep has no records yet."
        return Section("speed", title, (Text(words, "note"),))
    devices = device_table(cells)
    blocks: list[Block] = []
    if len(devices) > 1:
        blocks.append(
            Text(
                f"Cells ran on {len(devices)} kinds of device. Compare speeds within one only; "
                "losses agree across devices up to rounding, unless the dtype differs.",
                "warning",
            )
        )
    if "utilisation" not in pictures:
        return Section("speed", title, (*blocks, Text("There is no figure of speed.", "note")))
    blocks.append(Picture("utilisation"))
    rows = [
        [str(d.device), str(d.cells), f"{count(d.least)} to {count(d.most)}",
         percent(d.rate, signed=False),
         f"{percent(d.rate_low, signed=False)} to {percent(d.rate_high, signed=False)}"
         if known(d.rate) is not None else DASH]
        for d in devices.itertuples()
    ]  # fmt: skip
    share = "MFU" if cells["mfu"].notna().any() else "of measured peak"
    columns = ("device", "cells", "tokens/s", f"{share}, median", "range")
    blocks.append(table(columns, rows, text=("device",)))
    return Section("speed", title, tuple(blocks))


def cost_section(
    records: pd.DataFrame | None, results: pd.DataFrame | None, price: float | None
) -> Section:
    """FLOPs, device-hours and, where a price is set, money: by budget, failed attempts in.

    Args:
        records: every attempt, or None.
        results: one row a cell, probes too, or None.
        price: of one device-hour, dollars, or None.
    """
    if records is None or results is None or records.empty:
        words = NEEDS_SWEEP if records is None else "The sweep has no records yet."
        return Section("cost", "Cost", (Text(words, "note"),))
    spent = costs(records, results)
    rows = [
        [power(c.budget, 3), str(c.kind), str(c.runs), power(c.flops, 3) if c.flops else DASH,
         significant(c.hours * spent.per_hour, 3), significant(c.each * spent.per_hour, 3), money(c.hours, price)]
        for c in spent.by_budget.itertuples()
    ]  # fmt: skip
    columns = ("budget", "what", "runs", "FLOPs", spent.unit, "median of one", "dollars")
    if price is None:
        columns, rows = columns[:-1], [r[:-1] for r in rows]
    total = f"{power(spent.flops, 3)} FLOPs and {significant(spent.hours * spent.per_hour, 3)} {spent.unit} in all"
    total += "" if price is None else f", {money(spent.hours, price)} dollars at {price:g} an hour"
    blocks: list[Block] = [Text(f"{total}.")]
    if spent.untimed:
        blocks.append(Text(f"{spent.untimed} runs have no time on record, so times are a lower "
                           "bound.", "warning"))  # fmt: skip
    blocks.append(table(columns, rows, text=("what",)))
    note = (
        "Times are wall-clock, with evaluations and restarts, times the devices of a run; FLOPs "
        "are those of finished runs."
    )
    if price is None:
        note += " Set report.price= (dollars for a device-hour) to see money."
    return Section("cost", "Cost", (*blocks, Text(note, "note")))


def money(hours: float, price: float | None) -> str:
    """Show what device-hours cost, a dash where no price is set."""
    cost = None if price is None else known(hours * price)
    if cost is None:
        return DASH
    return f"{cost:,.0f}" if cost >= 100 else f"{cost:.2f}" if cost >= 0.01 else "under 0.01"
