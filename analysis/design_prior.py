"""Laws known before a sweep: published ones by name, or an earlier fit. They centre and judge grids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.design_form import FREE, Superset, free_directions, superset_of
from analysis.design_information import Noise, noise_of
from analysis.fits_file import FitsError, read_fits
from analysis.laws import LAWS

_PLAIN = ("E", "A", "B", "alpha", "beta")


class PriorError(ValueError):
    """A prior law that can't be used; the text is one line that says what to do."""


@dataclass(frozen=True, eq=False)
class Prior:
    """A law with its noise.

    Attributes:
        name: for people. law: one of design_form.FREE. parameters: its public constants.
        noise: of one cell. budgets: FLOPs of the sweep it was fitted to; empty where not known.
        covariance: (p, p) of the parameters, or None where not known.
        fits: the fits.json that it comes from.
    """

    name: str
    law: str
    parameters: Mapping[str, float]
    noise: Noise
    source: str
    budgets: tuple[float, ...] = ()
    covariance: NDArray | None = None
    fits: Mapping[str, Any] = field(default_factory=dict)

    def form(self, N: float, D: float) -> Superset:
        """Write the law as a superset whose terms are given at (N, D)."""
        return superset_of(self.law, self.parameters, N, D)

    def N_opt(self, C: float) -> float:
        """Optimal parameters at C, in the law's own count of N."""
        return float(self.form(*_middle(C)).N_opt(C))

    def spread(self, C: float) -> float:
        """Give the standard error of log N_opt at C by the law's own covariance; 0 where it has none."""
        if self.covariance is None:
            return 0.0
        form = self.form(*_middle(C))
        P = free_directions(self.law)
        gradient = P.T @ form.gradients_at_optimum(C)["N_opt"]
        return float(np.sqrt(max(0.0, gradient @ self.covariance_at(*_middle(C)) @ gradient)))

    def covariance_at(self, N: float, D: float) -> NDArray:
        """Covariance (q, q) in the coordinates that the law fits, its terms given at (N, D).

        Raises:
            PriorError: there is none, or it is not one.
        """
        if self.covariance is None:
            raise PriorError(f"{self.name}: {self.law} has no covariance")
        jacobian = _jacobian(self.law, self.parameters, float(np.log(N)), float(np.log(D)))
        covariance = jacobian @ self.covariance @ jacobian.T
        if not (np.isfinite(covariance).all() and (np.diag(covariance) >= 0).all()):
            raise PriorError(f"{self.name}: the covariance of {self.law} is not one")
        return covariance

    def information_at(self, form: Superset) -> NDArray:
        """Turn what the law's covariance says into information on the superset, (7, 7).

        Of what the law lacks it says nothing.

        Directions that the covariance calls known (a constant at a bound has variance 0) are given
        the superset's own prior instead: nobody measured them.
        """
        N, D = np.exp(form.middle)
        P, covariance = free_directions(self.law), self.covariance_at(N, D)
        wide = np.diag(P.T @ np.diag(form.prior_precision() ** -1.0) @ P)
        root = np.sqrt(wide)
        value, vector = np.linalg.eigh(covariance / np.outer(root, root))
        told = np.where(value > 1e-10, 1 / np.maximum(value, 1e-10), 0.0)
        inner = (vector * told) @ vector.T / np.outer(root, root)
        back = np.linalg.pinv(P)
        return back.T @ inner @ back


_OTHER_NOISE = "effective sd of the t4 fit's noise"
PUBLISHED = {
    "epoch": Prior(
        "epoch", "chinchilla",
        dict(zip(_PLAIN, (1.8172, 482.01, 2085.43, 0.3478, 0.3658), strict=True)), Noise(0.0053),
        "Besiroglu et al. 2024, arXiv:2404.10102: 240 runs of Hoffmann et al.; noise: " + _OTHER_NOISE,
    ),
    "hoffmann": Prior(
        "hoffmann", "chinchilla",
        dict(zip(_PLAIN, (1.69, 406.4, 410.7, 0.34, 0.28), strict=True)), Noise(0.0053),
        "Hoffmann et al. 2022, arXiv:2203.15556, appendix D.3; noise as of epoch",
    ),
    "demo": Prior(
        "demo", "chinchilla",
        dict(zip(_PLAIN, (1.0705, 68.42, 359.4, 0.5101, 0.5019), strict=True)), Noise(0.0108),
        "t4 fit to the demo's 69 cells of seeds 0, 1, 2 (LOG.md), N = C/(6D); noise: " + _OTHER_NOISE,
    ),
}  # fmt: skip


def load_prior(name: str, noise: float | None = None) -> Prior:
    """Return a published law by its name, or the law of a fits.json.

    Args:
        name: one of PUBLISHED, or a path.
        noise: standard deviation of one cell's log loss, in place of the law's own.

    Raises:
        PriorError: no such law or file, or nothing usable in it.
    """
    prior = PUBLISHED.get(name)
    if prior is None:
        if "/" not in name and not name.endswith(".json"):
            raise PriorError(f"{name} is no law; it may be {', '.join(PUBLISHED)} or a fits.json")
        prior = prior_from_fits(Path(name).expanduser())
    return prior if noise is None else replace(prior, noise=Noise(noise))


def prior_from_fits(path: Path) -> Prior:
    """Take the law of an earlier fit: its headline, or the best of the others that can be used.

    Raises:
        PriorError: it can't be read, or no law in it has constants, noise and an optimum.
    """
    try:
        content = read_fits(path)
    except FitsError as e:
        raise PriorError(str(e)) from None
    if content.get("groups"):
        raise PriorError(f"{path} has one fit a group ({', '.join(content['groups'])}): fit one of them alone")  # fmt: skip
    rows = {r["name"]: r for r in content["laws"] if "name" in r}
    headline = content["approach3"].get("law")
    weight = {name: r.get("weight") or -1.0 for name, r in rows.items()}
    order = [
        n for n in (headline, *sorted(rows, key=lambda n: -weight[n])) if n in rows and n in FREE
    ]
    reasons = []
    budgets = tuple(content["points"]["budgets"] or ())
    for name in dict.fromkeys(order):
        try:
            return _prior_of(path, rows[name], budgets, content)
        except ValueError as e:
            reasons.append(str(e) if name in str(e) else f"{name}: {e}")
    said = "; ".join(reasons[:3]) or f"it has no law of {', '.join(n for n in FREE if n in LAWS)}"
    raise PriorError(f"{path} has no law that a design can use ({said}): fit more cells first")


def _prior_of(
    path: Path, row: Mapping[str, Any], budgets: tuple[float, ...], content: Mapping[str, Any]
) -> Prior:
    parameters = {k: float("nan") if v is None else float(v) for k, v in row["parameters"].items()}
    prior = Prior(str(path), row["name"], parameters, noise_of(row["noise"], budgets),
                  str(path), budgets, _matrix(row["covariance"]), content)  # fmt: skip
    C = 10 * max(budgets)
    if not np.isfinite(prior.N_opt(C)):
        raise ValueError(f"{row['name']} has no interior optimum at C = {C:.3g}")
    return prior


def _matrix(covariance: Any) -> NDArray | None:
    if covariance is None:
        return None
    values = np.array(covariance, dtype=float)
    return values if np.isfinite(values).all() else None


def _middle(C: float) -> tuple[float, float]:
    """Give N and D at D/N = 20: a place near most optima, at which terms are of order one."""
    N = float(np.sqrt(C / 120))
    return N, 20 * N


def _jacobian(law: str, p: Mapping[str, float], log_N: float, log_D: float) -> NDArray:
    """Differentiate the superset's coordinates in a law's public constants: (q, p).

    log t_N = log A - alpha log N, log t_D = log B - beta log D; E and exponents as they are; gamma
    by its logarithm; cross = G/(A B) t_N t_D over the reducible loss, in G alone (the rest is of
    second order where cross is small).
    """
    names = list(p)
    rows = {
        name: np.zeros(len(names)) for name in ("E", "A", "B", "alpha", "beta", "gamma", "cross")
    }
    for name in ("E", "alpha", "beta"):
        if name in p:
            rows[name][names.index(name)] = 1.0
    for term, exponent, log_x in (("A", "alpha", log_N), ("B", "beta", log_D)):
        rows[term][names.index(term)] = 1 / p[term]
        own = exponent if exponent in p else ("alpha" if law == "tied" else None)
        if own is not None:
            rows[term][names.index(own)] -= log_x
    if "gamma" in p:
        rows["gamma"][names.index("gamma")] = 1 / p["gamma"]
    if "G" in p:
        t = np.exp(-p["alpha"] * log_N - p["beta"] * log_D)
        reducible = p["A"] * np.exp(-p["alpha"] * log_N) + p["B"] * np.exp(-p["beta"] * log_D)
        rows["cross"][names.index("G")] = t / reducible
    wanted = [name[0] if isinstance(name, tuple) else name for name in FREE[law]]
    return np.stack([rows[name] for name in wanted])
