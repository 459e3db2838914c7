"""What a fit says on the terminal: the runs, what is odd about them, the answers and their limits."""

from collections.abc import Iterator, Mapping
from typing import Any

Fits = Mapping[str, Any]
IDENTIFIED = 100.0  # an interval of N wider than this factor names no size
GROUPINGS = {
    "given": "",
    "within_2_percent": "",
    "log_bins": " (bins equal in log C: no budget is really shared)",
}


def summary_lines(fits: Fits) -> list[str]:
    """Say a fit, or each of its groups, in a few lines."""
    lines = list(_points(fits["points"]))
    groups = fits.get("groups") or {}
    for name, group in groups.items():
        lines += [f"{name}:", *(f"  {line}" for line in summary_lines(group))]
    return lines if groups else [*lines, *_answers(fits)]


def _points(points: Mapping[str, Any]) -> Iterator[str]:
    excluded = f", {len(points['excluded'])} left out" if points["excluded"] else ""
    yield (
        f"{_count(points['n'], 'run')} of {_count(points['sizes'], 'size')} at "
        f"{_count(len(points['budgets']), 'budget')}{GROUPINGS.get(points['grouping'], '')}"
        f"{excluded}"
    )
    yield from (f"warning: {text}" for text in points["warnings"])


def _answers(fits: Fits) -> Iterator[str]:
    level = f"{fits['level']:.0%}"
    for i in (1, 2, 3):
        yield _exponent(f"approach {i}", fits[f"approach{i}"], level)
    yield from _hold_out(fits["holdout"][-1], level)
    yield from (f"conflict: {c['text']}" for c in fits["conflicts"] if c.get("text"))
    yield from (line for f in fits["forecast"] for line in forecast_lines(f, level))


def _exponent(name: str, part: Mapping[str, Any], level: str) -> str:
    a, interval = part.get("a"), (part.get("ci") or {}).get("a")
    if part.get("N_opt"):
        a, interval = part["N_opt"]["exponent"], part["N_opt"]["ci"]
    if a is None:
        return f"{name}: {part.get('status')}, {part.get('reason') or 'no reason given'}"
    # Without an interval two digits are already a claim.
    value = f"{a:.3f} ({level}: {interval[0]:.3f} .. {interval[1]:.3f})" if interval else f"{a:.1f}"
    known = "" if interval else " (no interval)"
    reason = f" ({part['reason']})" if part.get("reason") else ""
    return f"{name}: N_opt ~ C^{value}{known}, {part.get('status', 'ok')}{reason}"


def _hold_out(top: Mapping[str, Any], level: str) -> Iterator[str]:
    if "budget" not in top:
        yield f"hold-out: {top['status']}, {top['reason']}"
        return
    at = f"hold-out at C={top['budget']:.3g}"
    if top.get("mean_error") is None:
        yield f"{at}: {top['status']}, {top.get('reason') or 'no reason given'}"
    else:
        within = f", {abs(top['z']):.1f} sd" if top.get("z") is not None else ""
        yield f"{at}: {top['law']} is off by {top['mean_error']:+.2%}{within}"
    if top.get("min_loss_error") is not None:
        low, high = top["min_loss_interval"]
        yield (
            f"{at}: minimum loss {top['min_loss_predicted']:.4f} predicted ({level}: {low:.4f} .. "
            f"{high:.4f}), {top['min_loss_observed']:.4f} observed: {top['min_loss_error']:+.2%}"
        )


def forecast_lines(f: Mapping[str, Any], level: str) -> Iterator[str]:
    """Say an entry of forecast[]; `level` is as it is printed, such as 90%."""
    if "C" not in f:
        yield f"forecast: {f['status']}, {f['reason']}"
        return
    at = f"forecast at C={f['C']:.3g} ({f['law']})"
    limits = "" if f["status"] == "ok" else f", {f['status']}: {f.get('reason')}"
    if f.get("N") is None or not f.get("loss_interval") or not f.get("N_interval"):
        yield f"{at}: {f['status']}, {f.get('reason') or 'no interval, so no number'}"
        return
    (low, high), (few, many) = f["loss_interval"], f["N_interval"]
    tokens = "" if not f.get("D_interval") else " ({:.2g} .. {:.2g})".format(*f["D_interval"])
    size = f"N={f['N']:.3g} ({level}: {few:.2g} .. {many:.2g}), D={f['D']:.3g}{tokens}"
    if many > IDENTIFIED * few:
        size = f"N not identified ({level}: a factor of {many / few:.0e})"
    yield (
        f"{at}: {size}, loss {f['loss']:.4f} ({level}: {low:.4f} .. {high:.4f}); "
        f"recipe {f['recipe']}{limits}"
    )


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"
