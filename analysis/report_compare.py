"""A report on several fits side by side: their answers, exponents, laws and hold-outs.

Nothing is pooled: every number is one that a fit holds, so that each keeps its interval, and what one
fit's compute is worth in another's comes with an interval of its own. Fits of unlike counts are said to be so before they are compared.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.figure_data import (
    entries,
    loss_unit,
    min_loss_lines,
    minimum_table,
    optimum_line,
    part,
)
from analysis.figure_list_laws import compared
from analysis.figure_tables import fit_exponents
from analysis.figures import Figure
from analysis.report_answer import ANSWER_COLUMNS, answer_row, headline
from analysis.report_document import Block, Command, Document, Picture, Points, Section, Text, table
from analysis.report_numbers import (
    DASH,
    exponent,
    known,
    known_pair,
    loss,
    parameter,
    percent,
    power,
)
from analysis.report_worth import Worth, worth_section

Fits = Mapping[str, Any]
MOST = 12  # fits of one figure
_COUNTS = {
    "flop_rule": ("FLOPs are counted by", "their C and N do not mean the same"),
    "N_convention": ("N is counted as", "their N* and exponents do not compare"),
    "loss_unit": ("the loss is in", "their losses do not compare"),
}


@dataclass(frozen=True)
class NamedFit:
    """One fit to compare, or why it can't be read."""

    name: str
    path: str
    fits: Fits | None
    problem: str | None = None


def compare(
    named: Sequence[NamedFit], *, title: str, command: str, worth: Sequence[Worth] = ()
) -> tuple[Document, list[Figure]]:
    """Say and draw everything about several fits; the figures are those that the fits allow.

    Args:
        named: fits of distinct names; those without `fits` are listed as gaps.
        title: heading of the page.
        command: what a person types to make the same page again.
        worth: what the compute of some is worth in that of others.
    """
    read = [n for n in named if n.fits is not None]
    made = compared_figures(read)
    pictures = {f.name for f in made}
    sections = (
        Section("answer", "The answers", tuple(_answers(named, read))),
        compared_section(read, pictures),
        *([worths] if (worths := worth_section(worth)) else []),
        _laws(read),
        _holdouts(read),
        _sources(named, command),
    )
    return Document(title, f"{len(read)} fits, side by side.", sections), made


def groups_of(fits: Fits) -> list[NamedFit]:
    """Return the fits of each group of runs (fit.by), none where there is one fit."""
    return [NamedFit(str(name), "", f) for name, f in part(fits, "groups").items()]


def compared_figures(named: Sequence[NamedFit]) -> list[Figure]:
    """Minima and curves of every fit on the same axes, and their exponents."""
    shown = named[:MOST]
    units = {loss_unit(n.fits) for n in shown}
    return compared(optima_table(shown), fit_exponents({n.name: n.fits for n in shown}), units)


def compared_section(named: Sequence[NamedFit], pictures: Collection[str]) -> Section:
    """Exponents of every fit, as figures and as a table."""
    blocks: list[Block] = [Picture(n) for n in ("compared", "exponents") if n in pictures]
    if len(named) > MOST:
        blocks.append(Text(f"The figures show the first {MOST} of {len(named)} fits.", "note"))
    rows = []
    for n in named:
        minima, law = part(part(n.fits, "approach2"), "N_opt"), part(n.fits, "approach3")
        rows.append([n.name, exponent(minima.get("exponent"), minima.get("ci")),
                     exponent(law.get("a"), part(law, "ci").get("a")), _status(law)])  # fmt: skip
    columns = ("fit", "a by the minima", "a by the law", "status of the law")
    blocks.append(table(columns, rows, text=("fit", "status of the law")))
    return Section("compared", "Optimal size and lowest loss", tuple(blocks))


def optima_table(named: Sequence[NamedFit]) -> pd.DataFrame:
    """Minima, curves through them and forecasts of every fit.

    Returns:
        fit, order, kind (minimum, line or forecast), C, N_opt, lowest_loss, their intervals N_low,
        N_high, L_low, L_high (forecasts), tip.
    """
    parts = [t for i, n in enumerate(named) for t in _optima(i, n.name, n.fits)]
    columns = "fit order kind C N_opt lowest_loss N_low N_high L_low L_high tip".split()
    kept = [t.dropna(axis=1, how="all") for t in parts if len(t)]
    return (pd.concat(kept, ignore_index=True) if kept else pd.DataFrame()).reindex(columns=columns)


def _optima(order: int, name: str, fits: Fits) -> list[pd.DataFrame]:
    minima = minimum_table(fits)
    minima = minima[minima["usable"]]
    of = {"fit": name, "order": order}
    stars = pd.DataFrame({"C": minima["budget"], "N_opt": minima["N"], "lowest_loss": minima["loss"],
                          "tip": name + "\n" + minima["tip"].astype(str)})  # fmt: skip
    ahead = pd.DataFrame([_ahead(name, f) for f in headline(fits)])
    C = [*minima["budget"], *(ahead["C"] if len(ahead) else ())]
    size, curve = optimum_line(fits, "N", C), min_loss_lines(fits, C)
    curve = curve[curve["name"] == "L(C)"]
    lines = [
        size.rename(columns={"value": "N_opt"}).assign(kind="line"),
        pd.DataFrame({"C": curve["C"], "lowest_loss": curve["loss"]}).assign(kind="line"),
    ]
    tables = [stars.assign(kind="minimum"), *lines, ahead.assign(kind="forecast")]
    return [t.assign(**of) for t in tables]


def _ahead(name: str, f: Mapping[str, Any]) -> dict[str, Any]:
    N, D = known_pair(f.get("N_interval")), known_pair(f.get("loss_interval"))
    (N_low, N_high), (L_low, L_high) = N or (np.nan, np.nan), D or (np.nan, np.nan)
    values = {"N_opt": known(f.get("N")), "lowest_loss": known(f.get("loss"))}
    tip = (
        f"{name}\nforecast at {power(f.get('C'))} FLOPs\nN* {answer_row(f, '', '')[2]}\n"
        f"loss {loss(f.get('loss'), f.get('loss_interval'))}"
    )
    return {
        "C": known(f.get("C")), **{k: np.nan if v is None else v for k, v in values.items()},
        "N_low": N_low, "N_high": N_high, "L_low": L_low, "L_high": L_high, "tip": tip,
    }  # fmt: skip


def _answers(named: Sequence[NamedFit], read: Sequence[NamedFit]) -> list[Block]:
    blocks: list[Block] = [
        Text(f"{n.name} is not in this comparison: {n.problem}.", "warning")
        for n in named
        if n.fits is None
    ]
    blocks += [Text(w, "warning") for w in _unlike(read)]
    by_C: dict[float, list[tuple[str, Mapping[str, Any]]]] = {}
    for n in read:
        for f in headline(n.fits):
            if known(f.get("loss")) is not None:
                by_C.setdefault(float(f["C"]), []).append((n.name, f))
    shared = [C for C, own in by_C.items() if len(own) > 1]
    blocks += [Text(_verdict(C, by_C[C]), "lead") for C in sorted(shared)[:1]]
    if by_C and not shared and len(read) > 1:
        blocks.append(
            Text("No two of these fits were asked for the same budget, so no forecasts compare at "
                 "equal compute: fit each with the same fit.targets=, such as "
                 f"fit.targets=[{max(by_C):g}].", "warning")
        )  # fmt: skip
    if not by_C:
        return [*blocks, Text("None of these fits holds a forecast.", "warning")]
    rows = [
        answer_row(f, power(C) if i == 0 else "", name)
        for C in sorted(by_C)
        for i, (name, f) in enumerate(by_C[C])
    ]
    blocks.append(table((ANSWER_COLUMNS[0], "fit", *ANSWER_COLUMNS[2:]), rows, text=("fit",)))
    caveats = [f"{n.name}: {f.get('status')}, {f.get('reason') or 'no reason given'}"
               for n in read for f in headline(n.fits) if f.get("status") not in ("ok", None)]  # fmt: skip
    return blocks + ([Points(tuple(dict.fromkeys(caveats)))] if caveats else [])


def _verdict(C: float, own: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Which fit expects the lowest loss at C, and whether its interval tells it from the next."""
    (best, first), (second, other) = sorted(own, key=lambda e: float(e[1]["loss"]))[:2]
    gap = float(other["loss"]) / float(first["loss"]) - 1
    ends, others = (known_pair(f.get("loss_interval")) for f in (first, other))
    words = (
        f"At {power(C)} FLOPs {best} expects the lowest loss, "
        f"{loss(first['loss'], first.get('loss_interval'))}; {second} is next with "
        f"{loss(other['loss'], other.get('loss_interval'))}, {percent(gap, signed=False)} above"
    )
    if ends is None or others is None:
        return words + "."
    apart = ends[1] < others[0]
    return words + (
        ", and their intervals do not meet."
        if apart
        else ". Their intervals overlap, so this does not decide it."
    )


def _unlike(read: Sequence[NamedFit]) -> list[str]:
    words = []
    for key, (counted, so) in _COUNTS.items():
        by: dict[str, list[str]] = {}
        for n in read:
            by.setdefault(str(part(n.fits, "points").get(key)), []).append(n.name)
        if len(by) > 1:
            shown = "; ".join(f"{value} in {', '.join(names)}" for value, names in by.items())
            words.append(f"These fits differ in how {counted}: {shown}. So {so}.")
    levels = {n.fits.get("level") for n in read}
    if len(levels) > 1:
        words.append("Their intervals have different levels: fit again with one fit.level=.")
    return words


def _laws(read: Sequence[NamedFit]) -> Section:
    names = list(
        dict.fromkeys(k for n in read for k in part(part(n.fits, "approach3"), "parameters"))
    )
    rows = []
    for n in read:
        law = part(n.fits, "approach3")
        values = part(law, "parameters")
        rows.append([n.name, f"{law.get('law') or DASH} by {law.get('estimator') or DASH}",
                     *(parameter(values.get(k)) for k in names), _status(law)])  # fmt: skip
    columns = ("fit", "law", *names, "status")
    return Section("laws", "Laws", (table(columns, rows, text=("fit", "law", "status")),))


def _holdouts(read: Sequence[NamedFit]) -> Section:
    rows = []
    for n in read:
        tried = [h for h in entries(n.fits, "holdout") if known(h.get("budget")) is not None]
        top = tried[-1] if tried else {}
        inside = {True: "yes", False: "no"}.get(top.get("min_loss_inside"), DASH)
        rows.append([n.name, power(top.get("budget"), 3),
                     loss(top.get("min_loss_predicted"), top.get("min_loss_interval")),
                     loss(top.get("min_loss_observed")), percent(top.get("min_loss_error")), inside])  # fmt: skip
    columns = ("fit", "top budget", "predicted", "observed", "error", "in interval")
    caption = "The lowest loss at each fit's top budget, predicted from the budgets below it"
    return Section("holdout", "Hold-out", (
        table(columns, rows, text=("fit", "in interval"), caption=caption),))  # fmt: skip


def _sources(named: Sequence[NamedFit], command: str) -> Section:
    rows = []
    for n in named:
        points, made = part(n.fits or {}, "points"), part(n.fits or {}, "provenance")
        recipe = sorted(
            {str(f.get("recipe")) for f in entries(n.fits or {}, "forecast") if f.get("recipe")}
        )
        words = (points.get("n"), points.get("flop_rule"), points.get("N_convention"),
                 points.get("loss_unit"), ", ".join(recipe), points.get("sha256"), made.get("git_sha"))  # fmt: skip
        rows.append([n.name, n.path, *(DASH if w in (None, "") else str(w)[:16] for w in words)])
    columns = ("fit", "file", "runs", "FLOPs", "N", "loss", "recipe", "sha256 of points", "commit")
    blocks = (table(columns, rows, text=tuple(c for c in columns if c != "runs")),
              Text("This page is remade by"), Command(command))  # fmt: skip
    return Section("provenance", "Where this comes from", blocks)


def _status(law: Mapping[str, Any]) -> str:
    return " – ".join(str(v) for v in (law.get("status"), law.get("reason")) if v) or DASH


def unique_names(paths: Sequence[Path]) -> list[str]:
    """Name each fit by its folder, and by more of its path where folders share a name."""
    parts = [p.resolve().parent.parts if p.name == "fits.json" else (*p.resolve().parent.parts, p.name)
             for p in paths]  # fmt: skip
    depth = [1] * len(parts)
    while True:
        names = ["/".join(p[-d:]) for p, d in zip(parts, depth, strict=True)]
        again = [i for i, n in enumerate(names) if names.count(n) > 1 and depth[i] < len(parts[i])]
        if not again:
            return [n if names.index(n) == i else f"{n} ({i + 1})" for i, n in enumerate(names)]
        for i in again:
            depth[i] += 1
