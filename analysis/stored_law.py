"""What a fits.json predicts of a run without its runs being fitted again: milliseconds, not seconds.

The headline law at (N, D), with an interval by the delta method on the covariance that the file
holds, spread as a forecast is (analysis/predict.py): sampling, between the averaged forms,
discrepancy beyond the top budget; and the noise of one cell, since it is one cell that is judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from analysis.cell_noise import noise_at
from analysis.discrepancy import discrepancy_factor
from analysis.fits_file import NAN, UNKNOWN, FitsError, Pair, read_fits
from analysis.laws import LAWS

CLAIM = 10.0  # times the largest ratio that was validated, as in analysis/forecast.py
PASSED = 2.0  # sd between a held-out budget and its prediction, likewise
_ROUNDING = 1.05  # cells of the top budget are not beyond it
_STEP = 1e-5  # of a parameter, relative: central differences


@dataclass(frozen=True)
class Expected:
    """Final loss of one cell by a law, in the fit's unit; UNKNOWN where no interval is claimed."""

    loss: float
    interval: Pair
    reason: str | None = None  # why there is no interval


@dataclass(frozen=True, eq=False)
class StoredLaw:
    """The laws of a fits.json, ready to be asked.

    Attributes:
        path: of the file. law: the headline's name. N_convention, flop_rule, loss_unit: of its
            points. level: of its intervals.
    """

    path: Path
    law: str
    N_convention: str
    flop_rule: str
    loss_unit: str
    level: float
    _rows: Mapping[str, Mapping[str, Any]]  # of the headline, and of the forms that are averaged
    _budgets: tuple[float, ...]
    _top_z: float
    _validated: float
    _flat: str | None  # what the headline does not identify

    def expected(self, N: float, D: float, C: float) -> Expected:
        """Predict the final loss of N parameters on D tokens.

        Args:
            N: parameters under N_convention. D: tokens. C: FLOPs under flop_rule.
        """
        row = self._rows[self.law]
        log_loss = float(np.log(_loss(row, N, D, C)))
        sampling = _sampling(row, N, D, C)
        variance = (sampling + self._form(log_loss, N, D, C)) * self._stretch(C) ** 2
        variance += float(noise_at(_known(row["noise"]), np.array([self._inside(C)]))[0]) ** 2
        reason = self._unvalidated(C)
        if reason is None and not (np.isfinite(variance) and sampling > 0):
            reason = f"{self.law} has no usable covariance in {self.path}"
        if reason is not None:
            return Expected(float(np.exp(log_loss)), UNKNOWN, reason)
        reach = float(ndtri((1 + self.level) / 2)) * float(np.sqrt(variance))
        ends = (float(np.exp(log_loss - reach)), float(np.exp(log_loss + reach)))
        return Expected(float(np.exp(log_loss)), ends)

    def _form(self, log_loss: float, N: float, D: float, C: float) -> float:
        """Variance of log loss between the averaged forms, about the headline."""
        forms = [r for r in self._rows.values() if r.get("weight")]
        if not forms:
            return 0.0
        values = np.array([np.log(_loss(r, N, D, C)) for r in forms])
        return float(np.average((values - log_loss) ** 2, weights=[r["weight"] for r in forms]))

    def _stretch(self, C: float) -> float:
        return discrepancy_factor(C / self._budgets[-1])

    def _inside(self, C: float) -> float:
        """C, or the end of the budgets that it lies beyond: noise is not extrapolated."""
        return float(np.clip(C, self._budgets[0], self._budgets[-1]))

    def _unvalidated(self, C: float) -> str | None:
        """Why an interval at C would claim more than hold-outs showed; None where it would not."""
        if not np.isfinite(self._top_z):
            return "the top budget could not be predicted from the lower ones"
        if abs(self._top_z) > PASSED:
            return f"the held-out top budget was missed by {abs(self._top_z):.1f} sd"
        ratio = C / self._budgets[-1]
        if self._flat is not None and ratio > _ROUNDING:
            return f"{ratio:.3g}x the top budget of the fit: {self._flat}"
        if ratio > CLAIM * self._validated or not np.isfinite(self._validated):
            return f"{ratio:.3g}x the top budget of the fit, which passed {self._validated:.3g}x"
        return None


def read_stored_law(path: Path) -> StoredLaw:
    """Read the laws of a fits.json.

    Raises:
        FitsError: it can't be read, has one fit a group, or no headline law in (N, D) with
            constants; the text is one line.
    """
    path = Path(path)
    content = read_fits(path)
    if content.get("groups"):
        raise FitsError(f"{path} has one fit a group ({', '.join(content['groups'])}): fit one of them alone")  # fmt: skip
    points, headline = content["points"], content["approach3"]
    name = headline.get("law")
    rows = {r["name"]: r for r in content["laws"] if r.get("parameters")}
    usable = {n: r for n, r in rows.items() if _usable(n, r) and (n == name or r.get("weight"))}
    if name not in usable:
        why = headline.get("reason") or headline.get("status")
        raise FitsError(f"{path} has no headline law that predicts a run ({why}): fit more cells first")  # fmt: skip
    validated = [(f.get("extrapolation") or {}).get("validated_C") for f in content["forecast"]]
    top = content["holdout"][-1] if content["holdout"] else {}
    return StoredLaw(
        path, name, points["N_convention"], points["flop_rule"], points["loss_unit"],
        float(content["level"]), usable, tuple(points["budgets"]),
        _number(top.get("z")), _number(next(iter(validated), None)),
        None if headline["status"] == "ok" else headline.get("reason") or headline["status"],
    )  # fmt: skip


def _usable(name: str, row: Mapping[str, Any]) -> bool:
    """Whether a row of laws[] gives a loss at (N, D) alone."""
    law = LAWS.get(name)
    known = all(v is not None for v in row["parameters"].values())
    return law is not None and law.variables == "ND" and not law.needs and known


def _loss(row: Mapping[str, Any], N: float, D: float, C: float, theta: NDArray | None = None):
    law = LAWS[row["name"]]
    theta = _theta(row) if theta is None else theta
    return law.loss(theta, N, D, C=C)


def _theta(row: Mapping[str, Any]) -> NDArray:
    return np.array([row["parameters"][name] for name in LAWS[row["name"]].parameters])


def _sampling(row: Mapping[str, Any], N: float, D: float, C: float) -> float:
    """Variance of log loss by the delta method; NaN without a covariance."""
    if row.get("covariance") is None or any(v is None for r in row["covariance"] for v in r):
        return NAN
    theta = _theta(row)
    steps = np.diag(_STEP * np.maximum(np.abs(theta), 1e-12))
    up, down = (np.log(_loss(row, N, D, C, theta + sign * steps)) for sign in (1, -1))
    gradient = (up - down) / (2 * np.diag(steps))
    return float(gradient @ np.array(row["covariance"]) @ gradient)


def _known(values: Mapping[str, Any]) -> dict[str, float]:
    return {k: _number(v) for k, v in values.items()}


def _number(value: Any) -> float:
    return NAN if value is None else float(value)
