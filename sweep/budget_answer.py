"""An answer of `isoflop budget`, as text and as JSON: figures with units, tables, sources, limits."""

import json
from dataclasses import dataclass, field
from typing import Any

from analysis.budget_laws import BudgetLaw, plain


@dataclass(frozen=True)
class Figure:
    """One number of an answer; None is not known, and `note` says what would make it known."""

    key: str
    label: str
    value: float | str | None
    unit: str = ""
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of figures that share their keys."""

    key: str
    rows: list[list[Figure]]


@dataclass(frozen=True)
class Answer:
    """What a question came to."""

    title: str
    figures: list[Figure] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    law: BudgetLaw | None = None
    sources: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    next: str = ""


_NAMED = ("FLOPs", "FLOP/s", "nats/token")  # units that stand behind a number, or in a heading


def shown(figure: Figure) -> str:
    """Return a figure as text: rounded as its unit is usually read, without a unit of _NAMED."""
    value = figure.value
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    return _FORMATS.get(figure.unit, lambda v: plain(v, 4))(value)


def scaled(value: float) -> str:
    """Return parameters or tokens as people say them: 7B, 1.4T."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if size <= abs(value) < 1e16:
            return f"{value / size:.4g}{letter}"
    return plain(value, 4)


_FORMATS = {
    "parameters": scaled,
    "tokens": scaled,
    "GPU-hours": lambda v: f"{v:,.0f}" if v >= 100 else f"{v:.3g}",
    "days": lambda v: f"{v:,.1f}" if v >= 1 else f"{v:.3g}",
    "$": lambda v: f"${v:,.0f}" if v >= 1000 else f"${v:,.4g}",
    "nats/token": lambda v: f"{v:.3f}",
    "times": lambda v: f"x{plain(v, 4)}",
    "bytes": lambda v: f"{v / 1e9:,.4g} GB",
    "bytes/s": lambda v: f"{v / 1e12:,.4g} TB/s",
    "seconds": lambda v: f"{v * 1e3:,.4g} ms",
    "kWh": lambda v: f"{v:,.0f} kWh" if v >= 100 else f"{v:.3g} kWh",
    "kg CO2e": lambda v: f"{v / 1000:,.4g} t CO2e" if v >= 1000 else f"{v:.4g} kg CO2e",
    "watts": lambda v: f"{v:g} W",
}


def as_text(answer: Answer) -> list[str]:
    """Lines to read."""
    lines = [answer.title]
    width = max((len(f.label) for f in answer.figures), default=0)
    for f in answer.figures:
        unit = f" {f.unit}" if f.unit in _NAMED and f.value is not None else ""
        note = f"   ({f.note})" if f.note else ""
        lines.append(f"  {f.label:{width}}  {shown(f)}{unit}{note}")
    for table in answer.tables:
        lines += ["", *_table(table)]
    lines.append("")
    if answer.law is not None:
        lines.append(f"Law: {answer.law.name}, {_formula(answer.law)}. {answer.law.source}.")
        lines.append(f"Regime: {answer.law.regime}. N is {answer.law.N_convention}, C = 6ND.")
    lines += [f"Source: {s}" for s in answer.sources]
    lines += [f"Note: {flag}" for flag in answer.flags]
    lines.append(f"Next: {answer.next}")
    return lines


def _formula(law: BudgetLaw) -> str:
    sum_ = f"{law.A:.5g}/N^{law.alpha:.4g} + {law.B:.5g}/D^{law.beta:.4g}"
    E = f"{law.E:.5g} + " if law.E else ""
    return f"L = {E}{sum_}" if law.gamma == 1 else f"L = {E}({sum_})^{law.gamma:.4g}"


def _table(table: Table) -> list[str]:
    heads = [f"{f.label}, {f.unit}" if f.unit in _NAMED else f.label for f in table.rows[0]]
    cells = [[shown(f) for f in row] for row in table.rows]
    widths = [max(len(r[i]) for r in [heads, *cells]) for i in range(len(heads))]
    words = [isinstance(f.value, str) for f in table.rows[0]]
    return [
        "  " + "  ".join(f"{c:{w}}" if left else f"{c:>{w}}" for c, w, left in zip(row, widths, words, strict=True)).rstrip()
        for row in [heads, *cells]
    ]  # fmt: skip


def as_json(answer: Answer, ask: str, given: dict[str, Any]) -> str:
    """Return the same as one JSON object, numbers in full; unknown is null."""
    law = answer.law
    content = {
        "ask": ask,
        "given": given,
        "answer": {f.key: f.value for f in answer.figures},
        "units": {f.key: f.unit for f in answer.figures if f.unit},
        "notes": {f.key: f.note for f in answer.figures if f.note},
        "tables": {t.key: [{f.key: f.value for f in row} for row in t.rows] for t in answer.tables},
        "table_units": {
            t.key: {f.key: f.unit for f in t.rows[0] if f.unit} for t in answer.tables if t.rows
        },
        "law": None if law is None else _law_json(law),
        "sources": answer.sources,
        "flags": answer.flags,
        "next": answer.next,
    }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)


def _law_json(law: BudgetLaw) -> dict[str, Any]:
    names = ("name", "E", "A", "B", "alpha", "beta", "gamma", "N_convention", "source", "regime")
    return {name: getattr(law, name) for name in names} | {"ranges": law.ranges}
