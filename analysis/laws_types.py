"""What a scaling law is: forms, a formula, and what follows from them. The table is in laws.py.

A law is written in *forms*: expressions linear in its internal parameters, such as
s_A = log A - alpha log N. Its loss is a function of the forms alone, so that one fitting engine
serves every law (analysis/engine.py) and a new law is a list of forms and a formula.
Internal parameters are logarithms of the positive public ones (E, A, B, ...) and the exponents
as they are. Loss in nats per token (any positive unit works), N in parameters, D in tokens,
C in FLOPs; all logarithms are natural.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from analysis.laws_formulas import Derivatives, Formula, differentiated
from analysis.laws_optima import Exponent, Optimum, no_exponent, no_optimum, searched

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
        forms: see `Form`. Intercepts called E, A, B or G multiply a term of the loss.
        exponents: the parameters that are not positive by construction; the others are fitted as
            logarithms.
        formula: (forms, columns) -> loss, of arrays or jets (laws_jets has exp, log and others).
        derivatives: of the formula; automatic where absent.
        optimum_rule: (N, D) at fixed C in closed form; searched where absent.
        exponent_rule: of N_opt ~ C^a, where one power holds for all C.
        variables: what the loss depends on.
        needs: columns beyond N, D, C that `loss` wants as keywords (unique_tokens).
    """

    name: str
    parameters: tuple[str, ...]
    source: str
    forms: tuple[Form, ...]
    exponents: frozenset[str]
    formula: Formula = field(repr=False)
    derivatives: Derivatives | None = field(default=None, repr=False)
    optimum_rule: Optimum | None = field(default=None, repr=False)
    exponent_rule: Exponent = field(default=no_exponent, repr=False)
    variables: Literal["ND", "C"] = "ND"
    needs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.derivatives is None:
            object.__setattr__(self, "derivatives", differentiated(self.formula))

    @property
    def has_optimum(self) -> bool:
        """Whether the loss may have an interior minimum in N at fixed C."""
        return self.variables == "ND" and self.optimum_rule is not no_optimum

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

        A law that is searched and needs further columns has them at 1.

        Args:
            theta: (..., p) public parameters; the leading axes broadcast against C.
            C: FLOPs.

        Returns:
            N and D, of the broadcast shape.
        """
        theta, C = np.asarray(theta, dtype=float), np.asarray(C, dtype=float)
        parameters = self._named(theta)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            if not self.has_optimum:
                N, D = no_optimum(parameters, C)
            elif self.optimum_rule is None:
                ones = dict.fromkeys(self.needs, 1.0)  # one expert, all active: the dense model
                N, D = searched(lambda N, D: self.loss(theta, N, D, **ones), theta.shape[:-1], C)
            else:
                N, D = self.optimum_rule(parameters, C)
        sound = np.isfinite(N) & np.isfinite(D) & (N > 0) & (D > 0)
        return np.where(sound, N, np.nan), np.where(sound, D, np.nan)

    def a(self, theta: ArrayLike) -> Array:
        """Exponent of N_opt ~ C^a, (...); NaN for a law without one power for all C."""
        theta = np.asarray(theta, dtype=float)
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.exponent_rule(self._named(theta))

    def _named(self, theta: Array) -> dict[str, Array]:
        return {name: theta[..., i] for i, name in enumerate(self.parameters)}

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
