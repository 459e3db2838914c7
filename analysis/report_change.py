"""What would change the answer: the weakest links of a fit, each with what to do about it."""

from collections.abc import Mapping
from typing import Any

from analysis.figure_data import entries, part
from analysis.figure_tables import conventions
from analysis.report_document import Section, Text, table
from analysis.report_numbers import (
    DASH,
    exponent,
    known,
    minus,
    percent,
    power,
    ratio,
    significant,
)

Fits = Mapping[str, Any]
MOST_RUNS = 8
FAR_IN_D_PER_N = 1.05
_SOURCES = {
    "sampling": "the luck of the runs; more sizes and seeds at the dearest budgets narrow it",
    "form": "the choice of law; budgets farther apart tell the laws apart",
    "discrepancy": "what such forecasts have missed beyond their own intervals elsewhere; only a "
    "dearer budget narrows it",
}


def changes(fits: Fits, forecast: Mapping[str, Any]) -> tuple[str, ...]:
    """Sentences on what would change a forecast most, each with its size, largest lever first.

    Args:
        fits: parsed fits.json.
        forecast: the entry of forecast[] that the report leads with.
    """
    found = (
        _distance(forecast), _variance(forecast), _one_run(fits), _way_of_counting(fits),
        _ratio(forecast),
    )  # fmt: skip
    return tuple(w for w in found if w)


def leverage_section(fits: Fits) -> Section:
    """List the runs without which the answer moves most."""
    rows = [r for r in entries(fits, "leverage") if known(r.get("change_in_N")) is not None]
    title = "Runs that move the answer"
    if not rows:
        why = next((e["reason"] for e in entries(fits, "leverage") if e.get("reason")), None)
        words = Text(f"No run could be left out in turn: {why or 'the fit gives no reason'}.")
        return Section("leverage", title, (words,))
    shown = [
        [str(r.get("name") or r.get("row")), _signed(r.get("change_in_a")),
         percent(r.get("change_in_N")), percent(r.get("change_in_loss"))]
        for r in rows[:MOST_RUNS]
    ]  # fmt: skip
    columns = ("without the run", "a moves by", "N* by", "loss by")
    words = (
        "Each run was left out in turn. A run high up here is one to look at, or to train again "
        "with another seed; it is no reason to drop it."
    )
    return Section("leverage", title, (Text(words), table(columns, shown, text=columns[:1])))


def _distance(f: Mapping[str, Any]) -> str:
    far, tested = (known(part(f, "extrapolation").get(k)) for k in ("C", "validated_C"))
    if far is None or far <= 1:
        return ""
    C = known(f.get("C"))
    if tested is not None and tested >= far:
        return (
            f"Distance: the forecast reaches {ratio(far)} beyond the data, and predictions of held-"
            f"out budgets passed at up to {ratio(tested)}."
        )
    seen = f"passed at up to {ratio(tested)}" if tested else "passed at no distance"
    step = (
        ""
        if C is None
        else f" A budget at {power(C / far * far**0.5)} FLOPs would test half of the way."
    )
    return (
        f"Distance: the forecast reaches {ratio(far)} beyond the data; predictions of held-out "
        f"budgets {seen}.{step}"
    )


def _variance(f: Mapping[str, Any]) -> str:
    shares = {k: known(part(f, "variance").get(k)) for k in _SOURCES}
    shares = {k: v for k, v in shares.items() if v is not None and v > 0}
    if not shares:
        return ""
    most = max(shares, key=shares.__getitem__)
    total = sum(shares.values())
    return (
        f"The loss's interval: {percent(shares[most] / total, signed=False)} of its variance is "
        f"{_SOURCES[most]}."
    )


def _one_run(fits: Fits) -> str:
    rows = entries(fits, "leverage")
    largest = max(rows, key=lambda r: abs(known(r.get("change_in_N")) or 0), default=None)
    if largest is None or known(largest.get("change_in_N")) is None:
        return ""
    return (
        f"One run: without {largest.get('name') or largest.get('row')}, N* moves by "
        f"{percent(largest['change_in_N'])} and the loss by "
        f"{percent(largest.get('change_in_loss'))}."
    )


def _way_of_counting(fits: Fits) -> str:
    found = sorted((known(c["a"]), c["name"]) for c in conventions(fits) if known(c["a"]))
    if len(found) < 2:
        return ""
    (low, one), (high, other) = found[0], found[-1]
    return (
        f"The way of counting: the exponent of N_opt runs from {exponent(low)} ({one}) to "
        f"{exponent(high)} ({other}) for the same runs."
    )


def _ratio(f: Mapping[str, Any]) -> str:
    over = known(part(f, "extrapolation").get("tokens_per_param"))
    N, D = known(f.get("N")), known(f.get("D"))
    if not over or not N or not D or 1 / FAR_IN_D_PER_N < over < FAR_IN_D_PER_N:
        return ""
    side, far = ("above", over) if over > 1 else ("below", 1 / over)
    return (
        f"D/N: the answer trains at {significant(D / N, 2)} tokens a parameter, {ratio(far)} "
        f"{side} every run."
    )


def _signed(value: Any) -> str:
    x = known(value)
    return DASH if x is None else minus(f"{x:+.3f}")
