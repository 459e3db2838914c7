"""Rows and a law in the coordinates that are searched: centred, of order one, positive for free.

Every form of a law is linear in its parameters, so that what evaluation needs of the rows is a few
matrices that never change; they are assembled here once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from analysis.laws_formulas import coupled_terms
from analysis.laws_types import Law

Array = np.ndarray

# Internal logarithms of terms are centred, hence a few units from the mean log loss; at -14 a term
# is a millionth of the loss and can no longer be told from none.
TERM_RANGE = (-14.0, 25.0)
EXPONENT_RANGE = (-1.0, 8.0)
OTHER_LOG_RANGE = (-6.0, 12.0)
LOG_SIGMA_RANGE = (float(np.log(1e-6)), float(np.log(3.0)))
SIGMA_SLOPE_RANGE = (-3.0, 3.0)


@dataclass(frozen=True)
class Coordinates:
    """Affine maps between the searched vector z, the internal theta and the uncentred phi.

    theta = held + free @ z (parameters held at a value leave the search) and
    phi = centring @ theta + shift, whose entries are the public parameters or their logarithms.
    """

    held: Array
    free: Array
    centring: Array
    shift: Array
    lower: Array
    upper: Array

    def internal(self, z: Array) -> Array:
        """(..., q) searched -> (..., p) internal."""
        return self.held + z @ self.free.T

    def public(self, law: Law, z: Array) -> Array:
        """(..., q) searched -> (..., p) public."""
        phi = self.internal(z) @ self.centring.T + self.shift
        return np.where(law.positive, np.exp(np.where(law.positive, phi, 0.0)), phi)

    def jacobian(self, law: Law, z: Array) -> Array:
        """Differentiate the public parameters with respect to z at one z: (p, q)."""
        scale = np.where(law.positive, self.public(law, z), 1.0)
        return scale[:, None] * (self.centring @ self.free)


@dataclass(frozen=True)
class Problem:
    """Rows and a law in searched coordinates.

    Attributes:
        offsets: per form, its part without parameters, (n,) or (1,); None where it is 0.
        indices: per form, the entries of z in it.
        features: per form, their multipliers, (q_k, n).
        narrow: per form, whether it is the same in every row.
        products: per pair of forms, the products of their features, (n, q_k q_j).
        noise_products: per form, the products of its features with the noise's.
        gradient_scatter, hessian_scatter, noise_scatter: 0-1 matrices from per-form blocks to
            parameters, which several forms may share.
        data: raw log columns for formulas that need them.
        log_loss: (n,).
        noise_features: (2, n): ones and centred log C, for log sigma.
        noise_squares: (n, 3): their products, for the Hessian.
        box: lower and upper bounds of z, and of the noise's two coordinates after it, (q + 2,).
    """

    law: Law
    coordinates: Coordinates
    offsets: tuple[Array | None, ...]
    indices: tuple[Array, ...]
    features: tuple[Array, ...]
    narrow: tuple[bool, ...]
    products: dict[tuple[int, int], Array]
    noise_products: tuple[Array, ...]
    gradient_scatter: Array
    hessian_scatter: Array
    noise_scatter: Array
    data: Mapping[str, Array]
    log_loss: Array
    noise_features: Array
    noise_squares: Array
    box: tuple[Array, Array]

    @property
    def size(self) -> int:
        """Number of searched law parameters, q."""
        return self.coordinates.free.shape[1]

    def free_names(self) -> list[str]:
        """Names of the searched parameters, in the order of z."""
        rows = np.argmax(self.coordinates.free == 1.0, axis=0)
        return [self.law.parameters[i] for i in rows]

    def multipliers(self, extra: int = 0) -> Array:
        """Mask of the searched coordinates in which the loss is nearly linear, (q + extra,)."""
        mask = [name in ("E", "A", "B", "G") for name in self.free_names()]
        return np.array(mask + [False] * extra)

    def forms(self, z: Array) -> list[Array]:
        """Form values for (m, q) z: (m, n) each, or (m, 1) where all rows agree."""
        values = []
        for k, index in enumerate(self.indices):
            feature = self.features[k][:, :1] if self.narrow[k] else self.features[k]
            value = z[:, index] @ feature
            values.append(value if self.offsets[k] is None else value + self.offsets[k])
        return values

    def residuals(self, z: Array) -> Array:
        """Log predicted - log observed, (m, n), for (m, >= q) z."""
        return np.log(self.law.formula(self.forms(z), self.data)) - self.log_loss


def build_problem(
    law: Law,
    data: Mapping[str, Array],
    log_loss: Array,
    *,
    held: Mapping[str, float],
    weights: Array,
) -> Problem:
    """Centre the columns and set up the search.

    Args:
        law: the law. data: its raw log columns, (n,) each. log_loss: (n,).
        held: public values of parameters that are not fitted.
        weights: (n,) of rows; they centre the columns.
    """
    means = {name: float(np.average(column, weights=weights)) for name, column in data.items()}
    p = len(law.parameters)
    centring, shift = np.eye(p), np.zeros(p)
    offsets, rows = [], []
    n = len(log_loss)
    for form in law.forms:
        centre = {name: means[name] if form.intercept else 0.0 for name in data}
        offset, row = np.zeros(n), np.zeros((p, n))
        if form.intercept:
            row[law.index(form.intercept)] = form.sign
        for column, factor in form.fixed:
            offset += factor * (data[column] - centre[column])
            shift[law.index(form.intercept)] -= form.sign * factor * centre[column]
        for name, column, factor in form.slopes:
            row[law.index(name)] += factor * (data[column] - centre[column])
            if form.intercept:
                entry = law.index(form.intercept), law.index(name)
                centring[entry] -= form.sign * factor * centre[column]
        offsets.append(offset)
        rows.append(row)
    coordinates = _coordinates(law, centring, shift, held, log_loss)
    return _assemble(law, coordinates, offsets, rows, data, log_loss)


def _coordinates(
    law: Law, centring: Array, shift: Array, held: Mapping[str, float], log_loss: Array
) -> Coordinates:
    p = len(law.parameters)
    fixed = sorted((law.index(name) for name in held), key=lambda i: np.count_nonzero(centring[i]))
    free_indices = [i for i in range(p) if i not in fixed]
    free, start = np.zeros((p, len(free_indices))), np.zeros(p)
    for column, i in enumerate(free_indices):
        free[i, column] = 1.0
    for i in fixed:  # slopes first: a held intercept is a sum that contains them
        value = held[law.parameters[i]]
        others = centring[i].copy()
        others[i] = 0.0
        start[i] = (np.log(value) if law.positive[i] else value) - shift[i] - others @ start
        free[i] = -others @ free
    lower, upper = _bounds(law, log_loss)
    return Coordinates(start, free, centring, shift, lower[free_indices], upper[free_indices])


def _bounds(law: Law, log_loss: Array) -> tuple[Array, Array]:
    level = float(np.mean(log_loss))
    coupled = law.formula is coupled_terms
    bare = {name for form in law.forms for name, column, _ in form.slopes if column == "one"}
    lower, upper = [], []
    for name in law.parameters:
        if name in law.exponents:
            low, high = EXPONENT_RANGE
            if name in bare:
                low = 1e-3  # a formula that is given an exponent itself may divide by it
            if name == "bend":
                low = -high
        elif name in ("E", "A", "B", "G"):
            low, high = TERM_RANGE[0] + level, TERM_RANGE[1] + level
            if coupled and name != "E":  # their power gamma is what adds to the loss
                low, high = 4 * TERM_RANGE[0], 4 * TERM_RANGE[1]
        elif name == "C_break":
            low, high = -15.0, 15.0
        else:
            low, high = OTHER_LOG_RANGE
        lower.append(low)
        upper.append(high)
    return np.array(lower), np.array(upper)


def _assemble(
    law: Law,
    coordinates: Coordinates,
    offsets: list[Array],
    rows: list[Array],
    data: Mapping[str, Array],
    log_loss: Array,
) -> Problem:
    indices, features, narrow, full_offsets = [], [], [], []
    for offset, row in zip(offsets, rows, strict=True):
        feature = coordinates.free.T @ row
        used = np.flatnonzero(feature.any(axis=1))
        offset = offset + coordinates.held @ row
        same = bool(np.all(offset == offset[0]) and np.all(feature == feature[:, :1]))
        indices.append(used)
        features.append(np.ascontiguousarray(feature[used]))
        narrow.append(same)
        shown = offset[:1] if same else offset
        full_offsets.append(shown if shown.any() else None)
    log_C = data["log_C"]
    noise = np.stack([np.ones_like(log_C), log_C - np.mean(log_C)])
    pairs = [(k, j) for k in range(len(features)) for j in range(k, len(features))]
    size = coordinates.free.shape[1]
    low, high = np.array([LOG_SIGMA_RANGE, SIGMA_SLOPE_RANGE]).T
    return Problem(
        law=law,
        coordinates=coordinates,
        offsets=tuple(full_offsets),
        indices=tuple(indices),
        features=tuple(features),
        narrow=tuple(narrow),
        products={(k, j): _outer(features[k], features[j]) for k, j in pairs},
        noise_products=tuple(_outer(feature, noise) for feature in features),
        gradient_scatter=_scatter([index for index in indices], size),
        hessian_scatter=_symmetric_scatter(indices, pairs, size),
        noise_scatter=_scatter(
            [np.add.outer(2 * index, np.arange(2)).ravel() for index in indices], 2 * size
        ),
        data=data,
        log_loss=log_loss,
        noise_features=noise,
        noise_squares=np.stack([noise[0], noise[1], noise[1] ** 2], axis=1),
        box=(np.append(coordinates.lower, low), np.append(coordinates.upper, high)),
    )


def _outer(left: Array, right: Array) -> Array:
    """Products of every feature of one form with every one of another, (n, q_left * q_right)."""
    products = left[:, None, :] * right[None, :, :]
    return np.ascontiguousarray(products.reshape(-1, products.shape[-1]).T)


def _symmetric_scatter(indices: list[Array], pairs: list[tuple[int, int]], size: int) -> Array:
    """Place the block of each pair of forms, and its mirror image where the forms differ."""
    upper = [np.add.outer(size * indices[k], indices[j]).ravel() for k, j in pairs]
    lower = [np.add.outer(indices[k], size * indices[j]).ravel() for k, j in pairs]
    mirrored = np.concatenate(
        [np.full(len(u), k != j) for u, (k, j) in zip(upper, pairs, strict=True)]
    )
    return _scatter(upper, size * size) + mirrored[:, None] * _scatter(lower, size * size)


def _scatter(targets: list[Array], size: int) -> Array:
    """0-1 matrix that adds concatenated blocks into a flat array of `size`."""
    flat = np.concatenate(targets)
    matrix = np.zeros((len(flat), size))
    matrix[np.arange(len(flat)), flat] = 1.0
    return matrix
