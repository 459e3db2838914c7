"""The section that says how well held-out budgets were predicted from the ones below."""

from collections.abc import Collection, Mapping
from typing import Any

from analysis.figure_data import entries, reason_of
from analysis.report_document import Block, Picture, Section, Text, table
from analysis.report_numbers import DASH, known, loss, minus, percent, power, ratio, significant

Fits = Mapping[str, Any]


def holdout_section(fits: Fits, pictures: Collection[str]) -> Section:
    """Predicted against observed: in words, as a figure, and as two tables."""
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
