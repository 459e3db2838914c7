"""The section that puts the laws side by side, with their conflicts."""

import re
from collections.abc import Collection, Mapping
from typing import Any

from analysis.figure_data import entries, part, reason_of
from analysis.report_document import Block, Picture, Points, Section, Text, table
from analysis.report_numbers import (
    DASH,
    NBSP,
    count_with_interval,
    exponent,
    interval_text,
    known,
    known_pair,
    loss,
    minus,
    parameter,
    percent,
    significant,
)

Fits = Mapping[str, Any]


def laws_section(fits: Fits, pictures: Collection[str]) -> Section:
    """Approach 3, where approaches conflict, and every form tried."""
    blocks: list[Block] = [Text(_headline_law(fits))]
    conflicts = [_conflict(c) for c in entries(fits, "conflicts") if c.get("text")]
    if conflicts:
        blocks.append(Text("Where the approaches disagree beyond their intervals:", "warning"))
        blocks.append(Points(tuple(conflicts)))
    else:
        blocks.append(Text("No two approaches disagree beyond their intervals."))
    if "approaches" in pictures:
        blocks.append(Picture("approaches"))
    blocks += _law_table(fits)
    return Section("laws", "Laws side by side", tuple(blocks))


def _law_table(fits: Fits) -> list[Block]:
    laws = [e for e in entries(fits, "laws") if e.get("name")]
    if not laws:
        return []
    rank = {id(e): known(e.get("aicc")) for e in laws}
    ordered = sorted(laws, key=lambda e: (rank[id(e)] is None, rank[id(e)] or 0))
    columns = ("law", "parameters", "AICc", "weight", "objective", "status")
    caption = (
        "Forms fitted to the same cells, best first; the weight is a form's share of the average"
    )
    rows = [_law_row(e) for e in ordered]
    return [table(columns, rows, text=("law", "parameters", "status"), caption=caption)]


def _headline_law(fits: Fits) -> str:
    law = part(fits, "approach3")
    status = str(law.get("status") or "failed")
    values, ci = part(law, "parameters"), part(law, "ci")
    shown = ", ".join(
        f"{k} = {_parameter(v, ci.get(k))}" for k, v in values.items() if known(v) is not None
    )
    if not shown:
        return f"Approach 3 was not fitted ({status}): {reason_of(law, 'no reason given')}."
    starts = part(law, "starts")
    share, n = known(starts.get("at_optimum")), known(starts.get("n"))
    words = f"Approach 3, {law.get('law')} by {law.get('estimator')}: {shown}."
    if share is not None and n:
        words += f" {share * n:.0f} of {n:.0f} starts ended at this optimum."
    if status != "ok":
        words += f" Its status is {status}: {reason_of(law, 'no reason given')}."
    return words


def _parameter(value: Any, interval: Any) -> str:
    ends = known_pair(interval)
    return parameter(value) + ("" if ends is None else f"{NBSP}{interval_text(ends, parameter)}")


def _conflict(c: Mapping[str, Any]) -> str:
    """Both answers with their intervals, in the digits that tell them apart."""
    quantity, values, intervals = str(c.get("quantity")), c.get("values"), c.get("intervals")
    if not isinstance(values, list) or not isinstance(intervals, list):
        return str(c.get("text"))
    show = loss if quantity.startswith("loss") else count_with_interval
    show = exponent if quantity in ("a", "b") else show
    first, second = (show(v, i) for v, i in zip(values, intervals, strict=True))
    names = [re.sub(r"^approach(\d)$", r"approach \1", str(c.get(k))) for k in ("first", "second")]
    return f"{quantity}: {first} by {names[0]}, {second} by {names[1]}."


def _law_row(e: Mapping[str, Any]) -> list[str]:
    values = part(e, "parameters")
    status = " – ".join(str(v) for v in (e.get("status"), e.get("reason")) if v)
    return [
        str(e["name"]),
        ", ".join(f"{k} {parameter(v)}" for k, v in values.items() if known(v) is not None) or DASH,
        _one_decimal(e.get("aicc")),
        percent(e.get("weight"), signed=False),
        minus(significant(e.get("objective"), 4)),
        status,
    ]


def _one_decimal(value: Any) -> str:
    x = known(value)
    return DASH if x is None else minus(f"{x:.1f}")
