"""The sections behind the answer: profiles, exponents, hold-out, laws, residuals."""

from collections.abc import Collection, Mapping
from typing import Any

from analysis.figure_data import entries, part, reason_of
from analysis.figure_list import EXPONENTS
from analysis.report_change import leverage_section
from analysis.report_conventions import conventions_section
from analysis.report_document import Block, Picture, Section, Text, table
from analysis.report_holdout import holdout_section
from analysis.report_laws import laws_section
from analysis.report_numbers import (
    count,
    count_with_interval,
    exponent,
    known,
    loss,
    percent,
    power,
)

Fits = Mapping[str, Any]


def evidence_sections(fits: Fits, pictures: Collection[str]) -> list[Section]:
    """Return the sections from profiles to leverage, each with its figure, or why there is none.

    Args:
        fits: parsed fits.json.
        pictures: names of the figures that could be drawn.
    """
    return [
        _profiles(fits, pictures),
        _optimum(fits, pictures),
        _surface(fits, pictures),
        _residuals(fits, pictures),
        holdout_section(fits, pictures),
        laws_section(fits, pictures),
        conventions_section(fits, pictures),
        leverage_section(fits),
    ]


def _picture(name: str, pictures: Collection[str], why: str) -> Block:
    return Picture(name) if name in pictures else Text(f"No figure: {why}.", "note")


def _profiles(fits: Fits, pictures: Collection[str]) -> Section:
    approach = part(fits, "approach2")
    minima = entries(approach, "minima")
    blocks: list[Block] = [
        _picture("profiles", pictures, "the runs themselves were not given, only the fit")
    ]
    if not minima:
        why = reason_of(approach, "the fit holds no minima")
        blocks.append(Text(f"No budget has a minimum: {why}."))
        return Section("profiles", "IsoFLOP profiles", tuple(blocks))
    good = [m for m in minima if m.get("status") in ("ok", "off_centre")]
    blocks.append(Text(f"{len(good)} of {len(minima)} budgets have a minimum inside their cells."))
    rows = [
        [
            power(m.get("budget"), 3),
            count_with_interval(m.get("N"), m.get("N_interval")),
            count(m.get("D")),
            loss(m.get("loss"), m.get("loss_interval")),
            percent(m.get("predicted_bias")),
            " – ".join(str(v) for v in (m.get("status"), m.get("reason")) if v),
        ]
        for m in minima
    ]
    columns = ("budget (FLOPs)", "N_opt", "D_opt", "loss", "bias of N_opt", "status")
    blocks.append(table(columns, rows, text=("status",)))
    blocks.append(
        Text(
            "bias of N_opt: how far this parabola would miss on a noise-free fitted law. The "
            "minima are a picture of the sweep; the answer above comes from the laws.",
            "note",
        )
    )
    return Section("profiles", "IsoFLOP profiles", tuple(blocks))


def _optimum(fits: Fits, pictures: Collection[str]) -> Section:
    approach = part(fits, "approach2")
    why = reason_of(approach, "no budget has a usable minimum")
    blocks: list[Block] = [_picture("optimum", pictures, why), Text(_exponent_words(fits))]
    rows = [_exponent_row(fits, name) for name in ("approach1", "approach2", "approach3")]
    rows += [
        [_SOURCES[k][0], f"{v:.2f}", f"{1 - v:.2f}", _SOURCES[k][1]] for k, v in EXPONENTS.items()
    ]
    columns = ("", "a in N_opt ~ Cᵃ", "b in D_opt ~ Cᵇ", "")
    blocks.append(table(columns, rows, text=("",)))
    return Section("optimum", "Optimal size and data", tuple(blocks))


_SOURCES = {
    "Kaplan": (
        "Kaplan et al. 2020",
        "arXiv:2001.08361; N without embeddings, one schedule for all D",
    ),
    "Epoch": ("Besiroglu et al. 2024 (Epoch)", "arXiv:2404.10102; Hoffmann's approach 3 refitted"),
    "Hoffmann": ("Hoffmann et al. 2022", "arXiv:2203.15556; approach 1"),
}
_NAMES = {
    "approach1": "approach 1, envelope",
    "approach2": "approach 2, minima",
    "approach3": "approach 3, law",
}


def _exponent_words(fits: Fits) -> str:
    a = part(part(fits, "approach2"), "N_opt")
    law = part(fits, "approach3")
    found = [
        f"{exponent(x, ci)} by {name}"
        for x, ci, name in (
            (a.get("exponent"), a.get("ci"), "the minima"),
            (law.get("a"), part(law, "ci").get("a"), "the parametric law"),
        )
        if known(x) is not None
    ]
    if not found:
        return "No exponent could be fitted."
    return (
        f"N_opt grows as C to the power {' and '.join(found)}. .50 would mean that size and data "
        "grow alike."
    )


def _exponent_row(fits: Fits, name: str) -> list[str]:
    approach = part(fits, name)
    if name == "approach3":
        a, b = approach.get("a"), approach.get("b")
        ends = part(approach, "ci").get("a")
        ends_b = None if not ends or None in ends else [1 - ends[1], 1 - ends[0]]
        shown = [exponent(a, ends), exponent(b, ends_b)]
    else:
        laws = [part(approach, k) for k in ("N_opt", "D_opt")]
        shown = [exponent(law.get("exponent"), law.get("ci")) for law in laws]
    status = str(approach.get("status") or "ok")
    note = "" if status == "ok" else f"{status}: {reason_of(approach, 'no reason given')}"
    if approach.get("undecayed"):
        note = f"{note}; " * bool(note) + "biased: its curves had not decayed their learning rate"
    return [_NAMES[name], *shown, note]


def _surface(fits: Fits, pictures: Collection[str]) -> Section:
    why = "the runs themselves were not given, only the fit"
    blocks: list[Block] = [_picture("surface", pictures, why)]
    law = part(fits, "approach3")
    if "surface" in pictures and law.get("status") not in ("ok", None):
        blocks.append(
            Text(f"The law's status is {law['status']}: {reason_of(law, 'no reason given')}. Between "
                 "the cells its lines interpolate; beyond them they are a guess.")
        )  # fmt: skip
    return Section("surface", "The loss surface", tuple(blocks))


def _residuals(fits: Fits, pictures: Collection[str]) -> Section:
    why = reason_of(part(fits, "approach3"), "it needs a fitted law and the runs themselves")
    return Section("residuals", "Residuals of approach 3", (_picture("residuals", pictures, why),))
