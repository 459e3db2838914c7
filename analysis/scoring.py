"""Predictions against what came: error, z, inside the interval or not, and coverage so far.

A prediction at (N, D) is judged by the runs of that N and D. One at a budget C is judged by the
run nearest to its N at that C, provided that its own N_range calls that size as good as the best:
that model is what it said to train. The best of many runs at C would be chosen by its noise.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.fits_file import NAN
from analysis.points import Points

SAME = 0.02  # difference of log N, log D or log C of what counts as equal
NEAR = 0.4  # of log N from the predicted one, where no N_range is known
Prediction = Mapping[str, Any]


def prediction_of(forecast: Mapping[str, Any], noise: float) -> dict[str, Any]:
    """Take what is registered from an entry of forecast[], or of the same at (N, D).

    Args:
        forecast: as plain values.
        noise: sd of one run's log loss at that C; NaN where unknown.
    """
    at_optimum = "N_range" in forecast
    keys = ("law", "C", "N", "D", "loss", "loss_interval", "N_interval", "D_interval", "N_range",
            "variance", "extrapolation", "flop_rule", "N_convention", "recipe", "status",
            "reason")  # fmt: skip
    target = [forecast["C"]] if at_optimum else [forecast["N"], forecast["D"]]
    return {
        "kind_of_target": "C" if at_optimum else "N, D", "target": target, "noise": noise,
        **{k: forecast[k] for k in keys if k in forecast},
    }  # fmt: skip


def score(prediction: Prediction, points: Points, started: NDArray | None = None) -> dict[str, Any]:
    """Judge one prediction.

    Args:
        prediction: an entry of the registry.
        points: what came.
        started: (n,) ISO dates in UTC at which each run began, where known.

    Returns:
        n runs, their mean N, D, C and loss (`observed`), `error` = log(predicted/observed), `z`
        (the root of the predicted variance and of the runs' own noise is 1), `inside_interval`,
        and a status: ok; late (a run began before the prediction); not_seen, with the reason.
    """
    if prediction["flop_rule"] != points.flop_rule and prediction["kind_of_target"] == "C":
        reason = f"its C counts {prediction['flop_rule']}, that of the runs {points.flop_rule}"
        return {"status": "not_seen", "reason": reason}
    found, reason = _matching(prediction, points)
    if not found.any():
        return {"status": "not_seen", "reason": reason}
    n, observed = int(found.sum()), float(np.mean(points.loss[found]))
    error = float(np.log(prediction["loss"] / observed))
    low, high = prediction["loss_interval"]
    first = None if started is None else min(started[found])
    late = first is not None and first < prediction["date"]
    return {
        "n": n, **{k: float(np.mean(getattr(points, k)[found])) for k in ("N", "D", "C")},
        "observed": observed, "predicted": prediction["loss"], "error": error,
        "z": _z(prediction, error, n), "inside_interval": bool(low <= observed <= high),
        "status": "late" if late else "ok",
        "reason": f"the first run began at {first}, before the prediction" if late else None,
    }  # fmt: skip


def coverage(
    predictions: Sequence[Prediction], scores: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Say how the scored predictions of each law and level did so far; late ones do not count."""
    kept: dict[tuple, list] = {}
    for p in predictions:
        s = scores.get(p["id"])
        if s is not None and s["status"] == "ok":
            kept.setdefault((p["law"], p["level"]), []).append(s)
    return [
        {
            "law": law, "level": level, "n": len(of),
            "inside": sum(s["inside_interval"] for s in of),
            "mean_error": float(np.mean([s["error"] for s in of])),
            "rms_z": _rms([s["z"] for s in of]),
        }
        for (law, level), of in kept.items()
    ]  # fmt: skip


def _matching(p: Prediction, points: Points) -> tuple[NDArray, str | None]:
    """Mask of the runs that judge a prediction, or why there are none."""
    log_N = np.abs(np.log(points.N / p["N"]))
    if p["kind_of_target"] != "C":
        same = (log_N <= SAME) & (np.abs(np.log(points.D / p["D"])) <= SAME)
        return same, f"no run of N={p['N']:.4g} on D={p['D']:.4g} within {SAME:.0%}"
    at_C = np.abs(np.log(points.C / p["C"])) <= SAME
    if not at_C.any():
        nearest = points.C[np.argmin(np.abs(np.log(points.C / p["C"])))]
        return at_C, f"no run at C={p['C']:.4g} within {SAME:.0%}; the nearest is {nearest:.4g}"
    nearest = float(points.N[at_C][np.argmin(log_N[at_C])])
    low, high = _good_sizes(p)
    if not low <= nearest <= high:
        return np.zeros(len(points), dtype=bool), (
            f"the run nearest in size has N={nearest:.4g}, outside the {low:.4g} .. {high:.4g} "
            "that the prediction calls within .5% of the best"
        )
    return at_C & (np.abs(np.log(points.N / nearest)) <= SAME), None


def _good_sizes(p: Prediction) -> tuple[float, float]:
    """N within .5% of the best loss by the prediction; an open end is a factor away."""
    low, high = (p.get("N_range") or {}).get("p5") or (None, None)
    return (
        p["N"] * np.exp(-NEAR) if low is None else low,
        p["N"] * np.exp(NEAR) if high is None else high,
    )


def _z(p: Prediction, error: float, n: int) -> float:
    variance = sum(v for v in p["variance"].values() if v is not None)
    noise = p["noise"] or 0.0
    sd = np.sqrt(variance + noise**2 / n)
    return float(error / sd) if sd > 0 else NAN


def _rms(values: Sequence[float | None]) -> float:
    known = [v for v in values if v is not None and np.isfinite(v)]
    return float(np.sqrt(np.mean(np.square(known)))) if known else NAN
