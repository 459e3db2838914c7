"""The runs inside fits.json: what a forecast at another target is fitted to again."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from analysis.fits_file import FitsError
from analysis.grouping import Grouping
from analysis.points import Points

NUMBERS = ("N", "D", "C", "loss", "budget")
OPTIONAL = ("unique_tokens", "weight")


def rows_of(points: Points) -> dict[str, list]:
    """Columns of the runs that were fitted, floats in full precision."""
    rows = {name: getattr(points, name).tolist() for name in NUMBERS}
    rows["size_id"] = [str(v) for v in points.size_id]
    if points.trunk is not None:
        rows["trunk"] = [str(v) for v in points.trunk]
    for name in OPTIONAL:
        values = getattr(points, name)
        if values is not None:
            rows[name] = values.tolist()
    return rows


def points_of(summary: Mapping[str, Any]) -> Points | None:
    """Make points of the part `points` of a fits.json; None where it holds no rows.

    Raises:
        FitsError: rows that are not what rows_of gives.
    """
    rows = summary.get("rows")
    if not rows:
        return None
    try:
        numbers = {name: np.array(rows[name], dtype=float) for name in NUMBERS}
        more = {k: np.array(rows[k], dtype=float) for k in OPTIONAL if rows.get(k) is not None}
        sizes = np.array(rows["size_id"], dtype=object)
        trunks = np.array(rows["trunk"], dtype=object) if rows.get("trunk") is not None else None
    except (KeyError, TypeError, ValueError):
        raise FitsError("its points.rows can't be read: run isoflop fit again") from None
    n = summary["n"]
    texts = [sizes] if trunks is None else [sizes, trunks]
    if any(v.shape != (n,) for v in (*numbers.values(), *more.values(), *texts)):
        raise FitsError(f"its points.rows are not the {n} runs of points.n: run isoflop fit again")
    if not all(np.isfinite(v).all() and (v > 0).all() for v in numbers.values()):
        raise FitsError("its points.rows are not all positive numbers: run isoflop fit again")
    points = Points(
        **numbers, size_id=sizes, row=np.arange(n), name=sizes,
        grouping=Grouping(summary["grouping"]), flop_rule=summary["flop_rule"],
        N_convention=summary["N_convention"],
    )  # fmt: skip
    return replace(points, **more, trunk=trunks, loss_unit=summary["loss_unit"])
