"""The sections behind the answer: profiles, exponents, hold-out, laws, residuals."""

from collections.abc import Collection, Mapping
from typing import Any

from analysis.figure_data import entries, part
from analysis.figures import EXPONENTS
from analysis.report_document import Block, Picture, Points, Section, Text, table
from analysis.report_numbers import (
    DASH,
    NBSP,
    count,
    count_with_interval,
    exponent,
    interval_text,
    known,
    known_pair,
    loss,
    minus,
    parameter,
    percent,
    power,
    ratio,
    significant,
)

Fits = Mapping[str, Any]


def evidence_sections(fits: Fits, pictures: Collection[str]) -> list[Section]:
    """Sections 2 to 6, each with its figure, or with the reason why there is none.

    Args:
        fits: parsed fits.json.
        pictures: names of the figures that could be drawn.
    """
    return [
        _profiles(fits, pictures),
        _optimum(fits, pictures),
        _holdout(fits, pictures),
        _laws(fits),
        _residuals(fits, pictures),
    ]


def reason_of(value: Any, otherwise: str) -> str:
    """Why a part is missing, in words."""
    reason = value.get("reason") if isinstance(value, Mapping) else None
    return str(reason) if reason else otherwise


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
    "approach1": "approach 1, envelope of training curves",
    "approach2": "approach 2, minima of the profiles",
    "approach3": "approach 3, parametric law",
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
    return [_NAMES[name], *shown, note]


def _holdout(fits: Fits, pictures: Collection[str]) -> Section:
    held = entries(fits, "holdout")
    tried = [h for h in held if known(h.get("budget")) is not None]
    if not tried:
        why = reason_of(held[0] if held else None, "fewer than three budgets have a minimum")
        words = Text(f"No budget could be held out and predicted: {why}.")
        return Section("holdout", "Hold-out: was it predicted?", (words,))
    blocks: list[Block] = [Text(_holdout_words(tried[-1], fits))]
    if "holdout" in pictures:
        blocks.append(Picture("holdout"))
    rows = [_min_loss_row(h) for h in tried]
    columns = ("held-out budget", "extrapolated", "predicted", "observed", "error", "in interval")
    caption = "The loss of each minimum, by L(C) through the minima of the budgets below"
    blocks.append(table(columns, rows, text=("in interval",), caption=caption))
    laws = [row for h in tried for row in _law_rows(h)]
    columns = (
        "held-out budget",
        "law",
        "predicted",
        "observed",
        "error",
        "z",
        "effective n",
        "in interval",
    )
    caption = "The mean loss of each held-out budget's cells, by laws fitted to the budgets below"
    blocks.append(table(columns, laws, text=("law", "in interval"), caption=caption))
    note = "One top budget is about one effective test, however many cells it has."
    return Section("holdout", "Hold-out: was it predicted?", (*blocks, Text(note, "note")))


def _holdout_words(top: Mapping[str, Any], fits: Fits) -> str:
    predicted, observed = known(top.get("min_loss_predicted")), known(top.get("min_loss_observed"))
    if predicted is None or observed is None:
        why = top.get("min_loss_reason") or top.get("reason") or "no reason given"
        return f"The top budget's minimum could not be compared with its prediction: {why}."
    inside = top.get("min_loss_inside")
    verdict = {True: "inside", False: "outside"}.get(inside)
    level = percent(fits.get("level"), signed=False)
    return (
        f"From the budgets below it, the lowest loss at {power(top.get('budget'), 3)} FLOPs was "
        f"predicted as {loss(predicted, top.get('min_loss_interval'))}; "
        f"{loss(observed)} was observed, "
        f"{percent(abs(predicted / observed - 1), signed=False)} away"
        + (f" and {verdict} the {level} interval." if verdict else ".")
    )


def _min_loss_row(h: Mapping[str, Any]) -> list[str]:
    return [
        power(h.get("budget"), 3),
        ratio(h.get("ratio")),
        loss(h.get("min_loss_predicted"), h.get("min_loss_interval")),
        loss(h.get("min_loss_observed")),
        percent(h.get("min_loss_error")),
        _yes_no(h.get("min_loss_inside"), h.get("min_loss_reason")),
    ]


def _law_rows(h: Mapping[str, Any]) -> list[list[str]]:
    return [
        [
            power(h.get("budget"), 3),
            str(c.get("law") or DASH),
            loss(c.get("predicted"), c.get("interval")),
            loss(c.get("observed")),
            percent(c.get("mean_error")),
            minus(significant(c.get("z"), 2)),
            significant(c.get("n_eff"), 2),
            _yes_no(c.get("inside_interval"), c.get("reason")),
        ]
        for c in (h, *entries(h, "others"))
    ]


def _yes_no(inside: Any, reason: Any) -> str:
    if isinstance(inside, bool):
        return "yes" if inside else "no"
    return str(reason) if reason else DASH


def _laws(fits: Fits) -> Section:
    blocks: list[Block] = [Text(_headline_law(fits))]
    conflicts = [_conflict(c) for c in entries(fits, "conflicts") if c.get("text")]
    if conflicts:
        blocks.append(Text("Where the approaches disagree beyond their intervals:", "warning"))
        blocks.append(Points(tuple(conflicts)))
    else:
        blocks.append(Text("No two approaches disagree beyond their intervals."))
    laws = [e for e in entries(fits, "laws") if e.get("name")]
    if laws:
        columns = ("law", "AICc", "weight", "objective", "a", "status")
        caption = "Forms fitted to the same cells, best first"
        ordered = sorted(
            laws, key=lambda e: (known(e.get("aicc")) is None, known(e.get("aicc")) or 0)
        )
        rows = [_law_row(e) for e in ordered]
        columns = ("law", "parameters", "AICc", "weight", "objective", "status")
        blocks.append(table(columns, rows, text=("law", "parameters", "status"), caption=caption))
    refits = [r for r in entries(fits, "refits") if known(r.get("a")) is not None]
    if refits:
        rows = [
            [str(r.get("flop_rule")), str(r.get("N_convention")),
             exponent(r.get("a"), r.get("a_interval")), exponent(r.get("approach2_exponent"))]
            for r in refits
        ]  # fmt: skip
        columns = ("FLOPs counted as", "N counted as", "a by the law", "a by the minima")
        caption = "The same runs under other conventions: the exponent moves, the loss does not"
        blocks.append(table(columns, rows, text=columns[:2], caption=caption))
    blocks += _leverage(fits)
    return Section("laws", "Laws side by side", tuple(blocks))


def _headline_law(fits: Fits) -> str:
    law = part(fits, "approach3")
    status = str(law.get("status") or "failed")
    if known(law.get("E")) is None and known(law.get("alpha")) is None:
        return f"Approach 3 was not fitted ({status}): {reason_of(law, 'no reason given')}."
    ci = part(law, "ci")
    shown = ", ".join(
        f"{k} = {_parameter(law.get(k), ci.get(k))}"
        for k in ("E", "A", "B", "alpha", "beta")
        if known(law.get(k)) is not None
    )
    starts = part(law, "starts")
    share, n = known(starts.get("at_optimum")), known(starts.get("n"))
    agree = ""
    if share is not None and n:
        agree = f" {share * n:.0f} of {n:.0f} starts ended at this optimum."
    trouble = (
        "" if status == "ok" else f" Its status is {status}: {reason_of(law, 'no reason given')}."
    )
    return f"Approach 3, {law.get('law')} by {law.get('estimator')}: {shown}.{agree}{trouble}"


def _parameter(value: Any, interval: Any) -> str:
    ends = known_pair(interval)
    return parameter(value) + ("" if ends is None else f"{NBSP}{interval_text(ends, parameter)}")


def _conflict(c: Mapping[str, Any]) -> str:
    """Both answers with their intervals, in the digits that tell them apart."""
    quantity, values, intervals = str(c.get("quantity")), c.get("values"), c.get("intervals")
    if not isinstance(values, list) or not isinstance(intervals, list):
        return str(c.get("text"))
    show = (
        exponent if quantity in ("a", "b") else loss if "loss" in quantity else count_with_interval
    )
    first, second = (show(v, i) for v, i in zip(values, intervals, strict=True))
    return f"{quantity}: {first} by {c.get('first')}, {second} by {c.get('second')}."


def _law_rows(h: Mapping[str, Any]) -> list[list[str]]:
    return [
        [
            power(h.get("budget"), 3),
            str(c.get("law") or DASH),
            loss(c.get("predicted"), c.get("interval")),
            loss(c.get("observed")),
            percent(c.get("mean_error")),
            minus(significant(c.get("z"), 2)),
            significant(c.get("n_eff"), 2),
            _yes_no(c.get("inside_interval"), c.get("reason")),
        ]
        for c in (h, *entries(h, "others"))
    ]


def _yes_no(inside: Any, reason: Any) -> str:
    if isinstance(inside, bool):
        return "yes" if inside else "no"
    return str(reason) if reason else DASH


def _laws(fits: Fits) -> Section:
    blocks: list[Block] = [Text(_headline_law(fits))]
    conflicts = [_conflict(c) for c in entries(fits, "conflicts") if c.get("text")]
    if conflicts:
        blocks.append(Text("Where the approaches disagree beyond their intervals:", "warning"))
        blocks.append(Points(tuple(conflicts)))
    else:
        blocks.append(Text("No two approaches disagree beyond their intervals."))
    laws = [e for e in entries(fits, "laws") if e.get("name")]
    if laws:
        columns = ("law", "AICc", "weight", "objective", "a", "status")
        caption = "Forms fitted to the same cells, best first"
        ordered = sorted(
            laws, key=lambda e: (known(e.get("aicc")) is None, known(e.get("aicc")) or 0)
        )
        rows = [_law_row(e) for e in ordered]
        columns = ("law", "parameters", "AICc", "weight", "objective", "status")
        blocks.append(table(columns, rows, text=("law", "parameters", "status"), caption=caption))
    refits = [r for r in entries(fits, "refits") if known(r.get("a")) is not None]
    if refits:
        rows = [
            [str(r.get("flop_rule")), str(r.get("N_convention")),
             exponent(r.get("a"), r.get("a_interval")), exponent(r.get("approach2_exponent"))]
            for r in refits
        ]  # fmt: skip
        columns = ("FLOPs counted as", "N counted as", "a by the law", "a by the minima")
        caption = "The same runs under other conventions: the exponent moves, the loss does not"
        blocks.append(table(columns, rows, text=columns[:2], caption=caption))
    blocks += _leverage(fits)
    return Section("laws", "Laws side by side", tuple(blocks))


def _headline_law(fits: Fits) -> str:
    law = part(fits, "approach3")
    status = str(law.get("status") or "failed")
    if known(law.get("E")) is None and known(law.get("alpha")) is None:
        return f"Approach 3 was not fitted ({status}): {reason_of(law, 'no reason given')}."
    ci = part(law, "ci")
    shown = ", ".join(
        f"{k} = {_parameter(law.get(k), ci.get(k))}"
        for k in ("E", "A", "B", "alpha", "beta")
        if known(law.get(k)) is not None
    )
    starts = part(law, "starts")
    share, n = known(starts.get("at_optimum")), known(starts.get("n"))
    agree = ""
    if share is not None and n:
        agree = f" {share * n:.0f} of {n:.0f} starts ended at this optimum."
    trouble = (
        "" if status == "ok" else f" Its status is {status}: {reason_of(law, 'no reason given')}."
    )
    return f"Approach 3, {law.get('law')} by {law.get('estimator')}: {shown}.{agree}{trouble}"


def _parameter(value: Any, interval: Any) -> str:
    if not interval or None in interval:
        return significant(value)
    return f"{significant(value)} [{significant(interval[0])}, {significant(interval[1])}]"


def _law_row(e: Mapping[str, Any]) -> list[str]:
    values = part(e, "parameters")
    status = " – ".join(str(v) for v in (e.get("status"), e.get("reason")) if v)
    return [
        str(e["name"]),
        ", ".join(f"{k} {parameter(v)}" for k, v in values.items() if known(v) is not None) or DASH,
        minus(f"{known(e.get('aicc')):.1f}") if known(e.get("aicc")) is not None else DASH,
        percent(e.get("weight"), signed=False),
        minus(significant(e.get("objective"), 4)),
        status,
    ]


def _leverage(fits: Fits) -> list[Block]:
    rows = [r for r in entries(fits, "leverage") if known(r.get("change_in_N")) is not None][:8]
    if not rows:
        return []
    shown = [
        [str(r.get("name") or r.get("row")), minus(f"{known(r.get('change_in_a')) or 0:+.3f}"),
         percent(r.get("change_in_N")), percent(r.get("change_in_loss"))]
        for r in rows
    ]  # fmt: skip
    columns = ("without the run", "a moves by", "N* by", "loss by")
    caption = "Runs that move the answer most"
    return [table(columns, shown, text=columns[:1], caption=caption)]


def _residuals(fits: Fits, pictures: Collection[str]) -> Section:
    why = reason_of(part(fits, "approach3"), "it needs a fitted law and the runs themselves")
    return Section("residuals", "Residuals of approach 3", (_picture("residuals", pictures, why),))
