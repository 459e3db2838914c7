"""Rows far off the law are named, stay in the fit, and are blamed where they spoil a hold-out."""

import numpy as np
import pandas as pd
import pytest

from analysis.fit import fit
from analysis.fits_file import Skipped
from analysis.fitted import Resampling, fit_points
from analysis.outliers import outliers
from analysis.points import points_from_frame
from tests.planted import planted_sweep


def sweep(noise: float = 0.002, bad: dict[int, float] | None = None) -> pd.DataFrame:
    s = planted_sweep("chinchilla", noise=noise)
    loss = s.loss.copy()
    for row, share in (bad or {}).items():
        loss[row] *= 1 + share
    return pd.DataFrame({"N": s.N, "D": s.D, "loss": loss})


def found(frame: pd.DataFrame, law: str = "chinchilla") -> tuple:
    points = points_from_frame(frame)
    return outliers(points, fit_points(points, law, "t4", 1e-3, Resampling("size", 0, 0.9)))


def test_bad_runs_are_named_with_their_distance():
    rows = found(sweep(bad={3: 0.3, 20: -0.05, 44: 0.02}))
    assert [o.row for o in rows] == [3, 20, 44]
    assert np.expm1([o.residual for o in rows]) == pytest.approx([0.3, -0.05, 0.02], abs=0.008)
    assert all(abs(o.sds) > 6 for o in rows)


def test_a_sweep_without_bad_runs_has_none():
    assert found(sweep()) == ()
    assert found(sweep(noise=0.0)) == ()


def test_a_law_that_was_not_fitted_has_no_outliers():
    (skipped,) = found(sweep().head(4))
    assert isinstance(skipped, Skipped)


def test_a_hold_out_that_bad_rows_spoil_says_which():
    """Rows 36 to 44 are the top budget's."""
    fits = fit(sweep(bad={40: 0.3, 41: 0.2}), draws=60)
    assert [o.row for o in fits.outliers] == [40, 41]
    assert fits.points.n == 45
    for f in fits.forecast:
        assert f.status == "unvalidated"
        assert f.reason.endswith("where rows 40, 41 lie far off the law")
