"""Scaling laws L(N, D) as frozen values: names, sources, loss, optimum at a budget, derivatives.

A law is written in *forms*: expressions linear in its internal parameters, such as
s_A = log A - alpha log N. Its loss is a function of the forms alone, so that one fitting engine
serves every law (analysis/engine.py) and a new law is a list of forms and a formula.
Internal parameters are logarithms of the positive public ones (E, A, B, ...) and the exponents
as they are. Loss in nats per token (any positive unit works), N in parameters, D in tokens,
C in FLOPs; all logarithms are natural.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from analysis.laws_formulas import (
    Derivatives,
    broken_power,
    coupled_terms,
    differentiated,
    repeated_data,
    sum_of_terms,
    sum_of_terms_derivatives,
)
from analysis.laws_optima import (
    Optimum,
    balanced_terms,
    gadre_optimum,
    no_optimum,
    three_terms_optimum,
)

Array = np.ndarray


@dataclass(frozen=True)
class Form:
    """s = sign * log(intercept) + sum of factor * slope * column + sum of factor * column.

    Attributes:
        intercept: name of a parameter that enters alone, or None.
        slopes: (parameter, column, factor) triples; columns as in `columns()`.
        fixed: (column, factor) pairs with no parameter.
        sign: of the intercept.
    """

    intercept: str | None
    slopes: tuple[tuple[str, str, float], ...] = ()
    fixed: tuple[tuple[str, float], ...] = ()
    sign: float = 1.0


@dataclass(frozen=True)
class Law:
    """One scaling law.

    Attributes:
        name: as in `fit.law=` and `fits.json`.
        parameters: public names, in the order of `theta`.
        source: paper and equation.
        has_optimum: whether the loss has an interior minimum in N at fixed C.
        variables: what the loss depends on.
        needs: columns beyond N, D, C that `loss` wants as keywords (unique_tokens).
        forms: see `Form`.
        exponents: the parameters that are not positive by construction; the others are fitted as
            logarithms.
    """

    name: str
    parameters: tuple[str, ...]
    source: str
    has_optimum: bool
    variables: Literal["ND", "N", "D", "C"]
    forms: tuple[Form, ...]
    exponents: frozenset[str]
    formula: Callable[[Sequence, Mapping[str, Array]], Array] = field(repr=False)
    derivatives: Derivatives = field(repr=False)
    optimum_rule: Optimum = field(default=no_optimum, repr=False)
    needs: tuple[str, ...] = ()

    @property
    def positive(self) -> Array:
        """(p,) bool: parameters that are fitted as logarithms."""
        return np.array([name not in self.exponents for name in self.parameters])

    def index(self, name: str) -> int:
        """Position of a parameter in `theta`.

        Raises:
            KeyError: the law has no such parameter; the message lists those it has.
        """
        if name not in self.parameters:
            raise KeyError(f"{self.name} has no parameter {name}; it has {list(self.parameters)}")
        return self.parameters.index(name)

    def loss(
        self,
        theta: ArrayLike,
        N: ArrayLike,
        D: ArrayLike,
        *,
        C: ArrayLike | None = None,
        **extra: ArrayLike,
    ) -> Array:
        """Loss at (N, D).

        Args:
            theta: (..., p) public parameters. The leading axes broadcast against N and D: pass
                `theta[:, None, :]` and N of shape (n,) for every draw at every point.
            N: parameters. D: tokens. C: FLOPs, 6 N D where absent.
            **extra: the columns named in `needs`.

        Returns:
            Loss, of the broadcast shape.
        """
        theta = np.asarray(theta, dtype=float)
        data = columns(N, D, C, **self._required(extra))
        with np.errstate(divide="ignore"):  # a parameter of exactly 0 removes its term
            internal = np.where(self.positive, np.log(np.where(self.positive, theta, 1.0)), theta)
        forms = [self._form(form, internal, data) for form in self.forms]
        return np.asarray(self.formula(forms, data))

    def optimum(self, theta: ArrayLike, C: ArrayLike) -> tuple[Array, Array]:
        """(N, D) that minimise the loss at C = 6 N D; NaN where there is no interior minimum.

        Args:
            theta: (..., p) public parameters; the leading axes broadcast against C.
            C: FLOPs.

        Returns:
            N and D, of the broadcast shape.
        """
        theta = np.asarray(theta, dtype=float)
        parameters = {name: theta[..., i] for i, name in enumerate(self.parameters)}
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            N, D = self.optimum_rule(parameters, np.asarray(C, dtype=float))
        sound = np.isfinite(N) & np.isfinite(D) & (N > 0) & (D > 0)
        return np.where(sound, N, np.nan), np.where(sound, D, np.nan)

    def a(self, theta: ArrayLike) -> Array:
        """Exponent of N_opt ~ C^a, (...); NaN for a law without one power for all C."""
        theta = np.asarray(theta, dtype=float)
        names = self.parameters
        if not self.has_optimum or self.name == "interaction":
            return np.full(theta.shape[:-1], np.nan)
        if "alpha" not in names:
            return np.full(theta.shape[:-1], 0.5)
        alpha = theta[..., self.index("alpha")]
        if self.name in ("kaplan", "kaplan_E"):
            beta = np.ones_like(alpha)
        else:
            beta = theta[..., self.index("beta")] if "beta" in names else alpha
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where((alpha > 0) & (beta > 0), beta / (alpha + beta), np.nan)

    def _required(self, extra: Mapping[str, ArrayLike]) -> dict[str, ArrayLike]:
        missing = [name for name in self.needs if name not in extra]
        if missing:
            raise ValueError(f"law {self.name} needs the column {missing[0]}")
        return {name: extra[name] for name in self.needs}

    def _form(self, form: Form, internal: Array, data: Mapping[str, Array]) -> Array:
        value = sum((factor * data[column] for column, factor in form.fixed), 0.0)
        if form.intercept is not None:
            value = value + form.sign * internal[..., self.index(form.intercept)]
        for name, column, factor in form.slopes:
            value = value + factor * internal[..., self.index(name)] * data[column]
        return np.asarray(value)


def columns(
    N: ArrayLike, D: ArrayLike, C: ArrayLike | None = None, **extra: ArrayLike
) -> dict[str, Array]:
    """Natural logarithms that forms and formulas are written in.

    Args:
        N: parameters. D: tokens. C: FLOPs, 6 N D where absent.
        **extra: further positive columns.

    Returns:
        one, log_N, log_D, log_C, log_6NN and log_6DD (Gadre's terms), and log_<name> per extra.
    """
    log_N, log_D = np.log(np.asarray(N, dtype=float)), np.log(np.asarray(D, dtype=float))
    log_C = np.log(6.0) + log_N + log_D if C is None else np.log(np.asarray(C, dtype=float))
    named = {
        "one": np.ones_like(log_N),
        "log_N": log_N,
        "log_D": log_D,
        "log_C": log_C,
        "log_6NN": np.log(6.0) + 2 * log_N,
        "log_6DD": np.log(6.0) + 2 * log_D,
    }
    more = {f"log_{name}": np.log(np.asarray(v, dtype=float)) for name, v in extra.items()}
    return named | more


_E = Form("E")
_A = Form("A", (("alpha", "log_N", -1.0),))
_B = Form("B", (("beta", "log_D", -1.0),))
_B_TIED = Form("B", (("alpha", "log_D", -1.0),))
_B_KAPLAN = Form("B", fixed=(("log_D", -1.0),))
_AB = frozenset({"alpha", "beta"})
_SUM = {"formula": sum_of_terms, "derivatives": sum_of_terms_derivatives}
_COUPLED = {"formula": coupled_terms, "derivatives": differentiated(coupled_terms)}

_ALL = (
    Law(
        name="chinchilla",
        parameters=("E", "A", "B", "alpha", "beta"),
        source="Hoffmann et al. 2022, arXiv:2203.15556, eq. 2: E + A/N^alpha + B/D^beta",
        has_optimum=True,
        variables="ND",
        forms=(_E, _A, _B),
        exponents=_AB,
        optimum_rule=balanced_terms,
        **_SUM,
    ),
    Law(
        name="tied",
        parameters=("E", "A", "B", "alpha"),
        source="Muennighoff et al. 2023, arXiv:2305.16264, appendix A: chinchilla, alpha = beta",
        has_optimum=True,
        variables="ND",
        forms=(_E, _A, _B_TIED),
        exponents=frozenset({"alpha"}),
        optimum_rule=balanced_terms,
        **_SUM,
    ),
    Law(
        name="no_E",
        parameters=("A", "B", "alpha", "beta"),
        source="chinchilla without an irreducible loss: A/N^alpha + B/D^beta",
        has_optimum=True,
        variables="ND",
        forms=(_A, _B),
        exponents=_AB,
        optimum_rule=balanced_terms,
        **_SUM,
    ),
    Law(
        name="coupled",
        parameters=("E", "A", "B", "alpha", "beta", "gamma"),
        source="Busbridge et al. 2025, arXiv:2502.08606: E + (A/N^alpha + B/D^beta)^gamma",
        has_optimum=True,
        variables="ND",
        forms=(Form("gamma"), _A, _B, _E),
        exponents=_AB,
        optimum_rule=balanced_terms,
        **_COUPLED,
    ),
    Law(
        name="interaction",
        parameters=("E", "A", "B", "G", "alpha", "beta"),
        source="chinchilla with a cross term: E + A/N^alpha + B/D^beta + G N^-alpha D^-beta",
        has_optimum=True,
        variables="ND",
        forms=(
            _E,
            _A,
            _B,
            Form("G", (("alpha", "log_N", -1.0), ("beta", "log_D", -1.0))),
        ),
        exponents=_AB,
        optimum_rule=three_terms_optimum,
        **_SUM,
    ),
    Law(
        name="multiplicative",
        parameters=("E", "A", "alpha", "beta"),
        source="E + A N^-alpha D^-beta; at fixed C it has no interior minimum",
        has_optimum=False,
        variables="ND",
        forms=(_E, Form("A", (("alpha", "log_N", -1.0), ("beta", "log_D", -1.0)))),
        exponents=_AB,
        **_SUM,
    ),
    Law(
        name="kaplan",
        parameters=("A", "B", "alpha", "gamma"),
        source=(
            "Kaplan et al. 2020, arXiv:2001.08361, eq. 1.5, [(N_c/N)^(a_N/a_D) + D_c/D]^a_D, as"
            " (A/N^alpha + B/D)^gamma: N_c = A^(1/alpha), D_c = B, a_N = alpha gamma, a_D = gamma"
        ),
        has_optimum=True,
        variables="ND",
        forms=(Form("gamma"), _A, _B_KAPLAN),
        exponents=frozenset({"alpha"}),
        optimum_rule=balanced_terms,
        **_COUPLED,
    ),
    Law(
        name="kaplan_E",
        parameters=("E", "A", "B", "alpha", "gamma"),
        source="Kaplan et al. 2020, eq. 1.5, plus an irreducible loss: E + (A/N^alpha + B/D)^gamma",
        has_optimum=True,
        variables="ND",
        forms=(Form("gamma"), _A, _B_KAPLAN, _E),
        exponents=frozenset({"alpha"}),
        optimum_rule=balanced_terms,
        **_COUPLED,
    ),
    Law(
        name="envelope",
        parameters=("E", "A", "gamma"),
        source="Hoffmann et al. 2022, approach 1's form in compute: E + A C^-gamma",
        has_optimum=False,
        variables="C",
        forms=(_E, Form("A", (("gamma", "log_C", -1.0),))),
        exponents=frozenset({"gamma"}),
        **_SUM,
    ),
    Law(
        name="broken",
        parameters=("E", "A", "gamma", "bend", "C_break", "width"),
        source=(
            "Caballero et al. 2023, arXiv:2210.14891, eq. 1 with one break:"
            " E + A C^-gamma (1 + (C/C_break)^(1/width))^(-bend width)"
        ),
        has_optimum=False,
        variables="C",
        forms=(
            _E,
            Form("A", (("gamma", "log_C", -1.0),)),
            Form("C_break", fixed=(("log_C", 1.0),), sign=-1.0),
            Form("bend"),
            Form("width"),
        ),
        exponents=frozenset({"gamma", "bend"}),
        formula=broken_power,
        derivatives=differentiated(broken_power),
    ),
    Law(
        name="overtraining",
        parameters=("E", "A", "B", "eta"),
        source=(
            "Gadre et al. 2024, arXiv:2403.08540, eq. 4:"
            " E + (A M^eta + B M^-eta) C^-eta, M = D/N, C = 6 N D"
        ),
        has_optimum=True,
        variables="ND",
        forms=(
            _E,
            Form("A", (("eta", "log_6NN", -1.0),)),
            Form("B", (("eta", "log_6DD", -1.0),)),
        ),
        exponents=frozenset({"eta"}),
        optimum_rule=gadre_optimum,
        **_SUM,
    ),
    Law(
        name="data_constrained",
        parameters=("E", "A", "B", "alpha", "beta", "R_D", "R_N"),
        source=(
            "Muennighoff et al. 2023, arXiv:2305.16264, eqs. 5-6: chinchilla in the effective"
            " N' and D' of repeated data; the optimum is that of unlimited unique data"
        ),
        has_optimum=True,
        variables="ND",
        forms=(
            _E,
            _A,
            _B,
            Form(None, (("alpha", "one", 1.0),)),
            Form(None, (("beta", "one", 1.0),)),
            Form("R_D"),
            Form("R_N"),
        ),
        exponents=_AB,
        formula=repeated_data,
        derivatives=differentiated(repeated_data),
        optimum_rule=balanced_terms,
        needs=("unique_tokens",),
    ),
)

LAWS: dict[str, Law] = {law.name: law for law in _ALL}
