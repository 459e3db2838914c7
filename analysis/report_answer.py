"""The first section of a report: what to train at the asked budgets, and how far to trust it."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.figure_data import entries, loss_unit, part, reason_of
from analysis.recipe_transfer import transfer
from analysis.report_change import changes
from analysis.report_document import Block, Points, Section, Table, Text, table
from analysis.report_numbers import (
    DASH,
    count,
    count_with_interval,
    interval_text,
    known,
    known_pair,
    loss,
    percent,
    power,
    ratio,
    significant,
)

Fits = Mapping[str, Any]
IDENTIFIED = 10.0  # an interval wider than this factor names no size

_RECIPE = {
    "not_probed": (
        "The recipe was not probed: nothing here shows that the learning rate and the batch stay "
        "near their best values as compute grows. Drift in them moves N* without a trace in the "
        "fit or in the hold-out, so what follows is the answer for this recipe, not for the "
        "best one."
    ),
    "not_transferred": (
        "The recipe did not transfer: cells were not near their best learning rate or batch at "
        "every size, so none of this is compute-optimal. Retune, then fit again."
    ),
}


def headline(fits: Fits) -> list[Mapping[str, Any]]:
    """One forecast for each target: the average over laws, else approach 3, else the first made."""
    wanted = ("average", part(fits, "approach3").get("law"))
    best: dict[float, Mapping[str, Any]] = {}
    for f in entries(fits, "forecast"):
        C = known(f.get("C"))
        if C is not None and (C not in best or _rank(f, wanted) < _rank(best[C], wanted)):
            best[C] = f
    return [best[C] for C in sorted(best)]


def answer_section(fits: Fits, records: pd.DataFrame | None = None) -> Section:
    """Say what to train, in words and as a table, with its limits first.

    Args:
        fits: parsed fits.json.
        records: every attempt, which say why probes could not tell; or None.
    """
    forecasts = headline(fits)
    made = [f for f in forecasts if known(f.get("loss")) is not None]
    blocks: list[Block] = [Text(w, "warning") for w in _warnings(fits, made, records)]
    blocks += [Text(_sentence(f, fits), "lead") for f in made[:1]]
    if made:
        blocks += [Text(_flatness(made[0])), _table(made, fits)]
        blocks.append(Text(_small_print(fits, made), "note"))
        would = changes(fits, made[0])
        if would:
            blocks += [Text("What would change it:"), Points(would)]
    failed = [f for f in forecasts if f not in made]
    blocks += [Text(_failure(f)) for f in failed]
    groups = part(fits, "groups")
    if groups:
        blocks += _group_blocks(groups)
    elif not forecasts:
        reasons = [str(f["reason"]) for f in entries(fits, "forecast") if f.get("reason")]
        why = reasons[0] if reasons else "the fit gives no reason"
        blocks.append(Text(f"No forecast could be made: {why}.", "warning"))
    return Section("answer", "The answer", tuple(blocks))


def disagree(forecast: Mapping[str, Any]) -> list[str]:
    """Which of loss and N* differ between the default and the plain answer beyond both intervals."""
    plain = part(forecast, "plain")
    return [
        w for w in ("N", "loss") if _outside(forecast, plain, w) and _outside(plain, forecast, w)
    ]


def _rank(forecast: Mapping[str, Any], wanted: tuple[Any, ...]) -> tuple[bool, int]:
    law = forecast.get("law")
    return known(forecast.get("loss")) is None, wanted.index(law) if law in wanted else len(wanted)


def _outside(one: Mapping[str, Any], other: Mapping[str, Any], what: str) -> bool:
    value, ends = known(one.get(what)), known_pair(other.get(f"{what}_interval"))
    return value is not None and ends is not None and not ends[0] <= value <= ends[1]


def _warnings(fits: Fits, made: list[Mapping[str, Any]], records: pd.DataFrame | None) -> list[str]:
    recipes = {str(f.get("recipe")) for f in made}
    words = [_of_recipe(r, records) for r in recipes if r == "not_transferred"]  # before all else
    for f in made:
        for what in disagree(f):
            plain, show = part(f, "plain"), (loss if what == "loss" else count_with_interval)
            words.append(
                f"Two answers that disagree at {power(f['C'])} FLOPs: the default gives "
                f"{'a loss of' if what == 'loss' else 'N* ='} "
                f"{show(f.get(what), f.get(f'{what}_interval'))}, the plain one "
                f"{show(plain.get(what), plain.get(f'{what}_interval'))}. Neither lies in the "
                "other's interval, so the choice of method decides; train more budgets before "
                "acting on either."
            )
    law = part(fits, "approach3")
    if made and law.get("status") not in ("ok", None):
        words.append(
            f"The law of approach 3 is not settled ({law['status']}: "
            f"{reason_of(law, 'no reason given')}), so read the forecast as a guess."
        )
    words += [_of_recipe(r, records) for r in recipes if r == "not_probed"]
    words += [
        f"Beyond what these data validate, at {power(f['C'])} FLOPs: {f.get('reason')}. The "
        "interval is what the laws say, not what has been seen to hold."
        for f in made
        if f.get("status") == "unvalidated"
    ]
    return words


def _of_recipe(verdict: str, records: pd.DataFrame | None) -> str:
    """Say what the fit's verdict on the recipe means; where probes could not tell, why not."""
    if verdict != "not_probed" or records is None or not records["probe"].notna().any():
        return _RECIPE[verdict]
    found = transfer(records)
    if found.verdict != "not_probed":
        return f"This fit is older than the last probes, which say: {found.line}. Fit again."
    return (
        f"Whether the recipe transfers is open: {found.reason}. Drift in the learning rate or the "
        "batch moves N* without a trace in the fit or in the hold-out, so what follows is the "
        "answer for this recipe, not for the best one."
    )


def _sentence(f: Mapping[str, Any], fits: Fits) -> str:
    N, D = known(f.get("N")), known(f.get("D"))
    start = f"With C = {power(f.get('C'))} FLOPs{_times_top(f)}"
    unit = loss_unit(fits).replace("/", " a ")
    expected = f"a validation loss of {loss(f.get('loss'), f.get('loss_interval'))} {unit}"
    level = percent(fits.get("level"), signed=False)
    if N is None or D is None:
        return f"{start}, expect {expected} ({level} interval); no optimal N is known."
    ends = known_pair(f.get("N_interval"))
    if ends is not None and ends[1] > IDENTIFIED * ends[0]:
        low, high = count(ends[0], 2), count(ends[1], 2)
        return (
            f"{start}, these runs do not fix N*: the estimate is {count(N, 2)} parameters, its "
            f"{level} interval runs from {low} to {high}. Expect {expected}."
        )
    return (
        f"{start}, train N* = {count_with_interval(N, f.get('N_interval'))} parameters on D* = "
        f"{count_with_interval(D, f.get('D_interval'))} tokens, {significant(D / N, 2)} tokens a "
        f"parameter. Expect {expected} ({level} intervals)."
    )


def _times_top(f: Mapping[str, Any]) -> str:
    far = known(part(f, "extrapolation").get("C"))
    return "" if far is None else f", {ratio(far)} the largest budget trained"


def _flatness(f: Mapping[str, Any]) -> str:
    close, wide = (known_pair(part(f, "N_range").get(k)) for k in ("p1", "p5"))
    if close is None or wide is None:
        return "How flat the loss is around N* is not known."
    return (
        f"The optimum is flat: any N from {count(close[0], 2)} to {count(close[1], 2)} is within "
        f".1% of the lowest loss, and from {count(wide[0], 2)} to {count(wide[1], 2)} within .5%."
    )


def _table(made: list[Mapping[str, Any]], fits: Fits) -> Table:
    rows = []
    for f in made:
        same_C = [g for g in entries(fits, "forecast") if g.get("C") == f.get("C") and g is not f]
        rows.append(
            answer_row(f, power(f.get("C")), _LAW_NAMES.get(str(f.get("law")), str(f.get("law"))))
        )
        rows += [
            answer_row(g, "", str(g.get("law"))) for g in same_C if known(g.get("loss")) is not None
        ]
        plain = part(f, "plain")
        named = {"plain": plain, "through the minima": part(plain, "minima"),
                 "last D/N kept": part(plain, "naive")}  # fmt: skip
        rows += [
            answer_row(g, "", name) for name, g in named.items() if known(g.get("N")) is not None
        ]
    return table(ANSWER_COLUMNS, rows, text=("answer",))


_LAW_NAMES = {"average": "average of laws"}
ANSWER_COLUMNS = ("C (FLOPs)", "answer", "N*", "D*", "D/N", "loss", "N within .1%", "N within .5%")


def answer_row(f: Mapping[str, Any], C: str, name: str) -> list[str]:
    """Show a forecast in ANSWER_COLUMNS."""
    N, D = known(f.get("N")), known(f.get("D"))
    between = [
        interval_text(part(f, "N_range").get(k), lambda v: count(v, 2)) for k in ("p1", "p5")
    ]
    return [
        C,
        name,
        count_with_interval(N, f.get("N_interval")),
        count_with_interval(D, f.get("D_interval")),
        significant(D / N, 2) if N and D else DASH,
        loss(f.get("loss"), f.get("loss_interval")),
        *between,
    ]


def _group_blocks(groups: Mapping[str, Any]) -> list[Block]:
    """One fit per value of a column: their answers under one another, nothing pooled."""
    rows = [
        answer_row(f, power(f.get("C")), name)
        for name, group in groups.items()
        for f in headline(group) or [{}]
    ]
    columns = ("C (FLOPs)", "group", *ANSWER_COLUMNS[2:])
    words = (
        f"These are {len(groups)} separate fits, one for each group of runs. Report one group, with "
        "fit.where=, for its figures."
    )
    return [Text(words, "lead"), table(columns, rows, text=("group",))]


def _small_print(fits: Fits, made: list[Mapping[str, Any]]) -> str:
    points = part(fits, "points")
    text = (
        "plain: Chinchilla's form, Huber 1e-3 on log loss, bootstrap; through the minima: their "
        "own L(C) and N(C); last D/N kept: the top budget's ratio, unchanged. "
        f"N is counted as {points.get('N_convention') or DASH}, C by the rule "
        f"{points.get('flop_rule') or DASH}; both conventions move exponents."
    )
    variance = part(made[0], "variance")
    shares = [(k, known(variance.get(k))) for k in ("sampling", "form", "discrepancy")]
    parts = [f"{k} {percent(v**0.5, signed=False)}" for k, v in shares if v is not None]
    if parts:
        text += f" Standard deviation of the forecast's loss by source: {', '.join(parts)}."
    return text


def _failure(f: Mapping[str, Any]) -> str:
    at = f"At {power(f.get('C'))} FLOPs no forecast was made"
    return f"{at}: {f.get('reason') or f.get('status') or 'no reason given'}."
