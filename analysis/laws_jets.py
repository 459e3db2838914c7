"""Second-order forward differentiation over numpy arrays, for laws without hand-written derivatives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Jet:
    """A value with its first and second derivatives with respect to numbered variables.

    `first[i]` is d/dv_i; `second[i, j]` with i <= j is d2/dv_i dv_j. An absent key is a zero, so that
    an expression in two variables costs nothing for the others. All arrays broadcast together.
    """

    value: Array
    first: dict[int, Array]
    second: dict[tuple[int, int], Array]

    __array_ufunc__ = None  # array - jet is the jet's to compute, not elementwise numpy's

    def chain(self, value: Array, slope: Array, curvature: Array) -> Jet:
        """Return f(self) for a scalar function with this value, first and second derivative."""
        first = {i: slope * d for i, d in self.first.items()}
        second = {key: slope * d for key, d in self.second.items()}
        variables = sorted(self.first)
        for position, i in enumerate(variables):
            bent = curvature * self.first[i]
            for j in variables[position:]:
                second[i, j] = second.get((i, j), 0.0) + bent * self.first[j]
        return Jet(value, first, second)

    def __add__(self, other: Jet | Array | float) -> Jet:
        if not isinstance(other, Jet):
            return Jet(self.value + other, self.first, self.second)
        return Jet(
            self.value + other.value,
            _merge(self.first, other.first),
            _merge(self.second, other.second),
        )

    def __neg__(self) -> Jet:
        return self * -1.0

    def __sub__(self, other: Jet | Array | float) -> Jet:
        return self + (-other)

    def __rsub__(self, other: Array | float) -> Jet:
        return -self + other

    def __mul__(self, other: Jet | Array | float) -> Jet:
        if not isinstance(other, Jet):
            return Jet(
                self.value * other,
                {i: d * other for i, d in self.first.items()},
                {key: d * other for key, d in self.second.items()},
            )
        first = _merge(
            {i: d * other.value for i, d in self.first.items()},
            {i: d * self.value for i, d in other.first.items()},
        )
        second = _merge(
            {key: d * other.value for key, d in self.second.items()},
            {key: d * self.value for key, d in other.second.items()},
        )
        for i, left in self.first.items():
            for j, right in other.first.items():
                key = (min(i, j), max(i, j))
                # d_ii of a product holds the cross term twice; for i < j both orders reach this key.
                second[key] = second.get(key, 0.0) + left * right * (2.0 if i == j else 1.0)
        return Jet(self.value * other.value, first, second)

    __radd__ = __add__
    __rmul__ = __mul__

    def __truediv__(self, other: Jet) -> Jet:
        inverse = 1.0 / other.value
        return self * other.chain(inverse, -(inverse**2), 2.0 * inverse**3)


def _merge(left: dict, right: dict) -> dict:
    merged = dict(left)
    for key, d in right.items():
        merged[key] = merged[key] + d if key in merged else d
    return merged


def exp(x: Jet | Array) -> Jet | Array:
    """Exponential of an array or a jet."""
    if not isinstance(x, Jet):
        return np.exp(x)
    value = np.exp(x.value)
    return x.chain(value, value, value)


def log(x: Jet | Array) -> Jet | Array:
    """Natural logarithm of an array or a jet."""
    if not isinstance(x, Jet):
        return np.log(x)
    inverse = 1.0 / x.value
    return x.chain(np.log(x.value), inverse, -(inverse**2))


def softplus(x: Jet | Array) -> Jet | Array:
    """log(1 + exp(x)) without overflow."""
    if not isinstance(x, Jet):
        return np.logaddexp(0.0, x)
    tanh = np.tanh(0.5 * x.value)
    sigmoid = 0.5 * (1.0 + tanh)
    return x.chain(np.logaddexp(0.0, x.value), sigmoid, 0.25 * (1.0 - tanh**2))


def minimum(x: Jet | Array, bound: Array) -> Jet | Array:
    """Elementwise min(x, bound) for a bound without derivatives."""
    if not isinstance(x, Jet):
        return np.minimum(x, bound)
    inside = (x.value < bound).astype(float)
    return x.chain(np.minimum(x.value, bound), inside, np.zeros_like(inside))


def differentiate(
    formula: Callable[[Sequence], Jet], variables: Sequence[Array]
) -> tuple[Array, list[Array], dict[tuple[int, int], Array]]:
    """Value, gradient list and upper-triangle Hessian of `formula(variables)`, elementwise."""
    jets = [Jet(v, {i: np.ones_like(v)}, {}) for i, v in enumerate(variables)]
    result = formula(jets)
    first = [result.first.get(i, np.zeros_like(result.value)) for i in range(len(variables))]
    return result.value, first, result.second
