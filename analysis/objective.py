"""The quantity a fit minimises, with gradient and exact Hessian, for many parameter vectors at once.

Batches: m parameter vectors (starts, or bootstrap draws with their own row weights) times n rows;
the gradient and the Hessian are a few matrix products of (m, n) arrays with the problem's columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.estimators import SLOPE_PRIOR_SD, Estimator, Residuals
from analysis.problem import Problem

Array = np.ndarray


@dataclass(frozen=True)
class Evaluation:
    """Objective (m,), gradient (m, r), Hessian (m, r, r); r = q, plus 2 with a noise model."""

    value: Array
    gradient: Array
    hessian: Array


def evaluate(
    problem: Problem,
    estimator: Estimator,
    z: Array,
    weights: Array,
    *,
    gauss_newton: bool = False,
) -> Evaluation:
    """Objective and derivatives at (m, r) z under (m, n) or (1, n) row weights.

    With rho(log L - y) the chain rule needs d/dL = rho'/L and d2/dL2 = (rho'' - rho')/L^2; a law
    gives L and its derivatives with respect to the forms, and features turn those into parameters.
    `gauss_newton` leaves the curvature of log L out of the Hessian, which is then never indefinite.
    """
    q = problem.size
    loss, slopes, bends = problem.law.derivatives(problem.forms(z[:, :q]), problem.data)
    residual = np.log(loss)
    residual -= problem.log_loss
    log_sigma = z[:, q:] @ problem.noise_features if estimator.has_noise else None
    terms = estimator.terms(residual, log_sigma)
    relative = np.reciprocal(loss)
    pull = weights * terms.first
    bend = weights * terms.second
    if not gauss_newton:
        bend -= pull
    pull *= relative
    bend *= relative
    bend *= relative
    first_blocks, second_blocks = [], []
    pulls = [pull * slope for slope in slopes]
    for k, feature in enumerate(problem.features):
        first_blocks.append(pulls[k] @ feature.T)
        bent = bend * slopes[k]
        for j in range(k, len(slopes)):
            block = bent * slopes[j]
            curvature = bends.get((k, j))
            if gauss_newton:
                pass
            elif curvature is slopes[k]:  # an exponential: its product with pull is there already
                block += pulls[k]
            elif curvature is not None:
                block += pull * curvature
            second_blocks.append(block @ problem.products[k, j])
    gradient = np.concatenate(first_blocks, axis=1) @ problem.gradient_scatter
    hessian = np.concatenate(second_blocks, axis=1) @ problem.hessian_scatter
    hessian = hessian.reshape(len(z), q, q)
    value = np.einsum("ij,ij->i", np.broadcast_to(weights, residual.shape), terms.value)
    if not estimator.has_noise:
        return Evaluation(value, gradient, hessian)
    return _with_noise(problem, terms, weights, relative, slopes, z, value, gradient, hessian)


def _with_noise(
    problem: Problem,
    terms: Residuals,
    weights: Array,
    relative: Array,
    slopes: list[Array],
    z: Array,
    value: Array,
    gradient: Array,
    hessian: Array,
) -> Evaluation:
    """Append the derivatives for log sigma and the prior on its slope."""
    q, features = problem.size, problem.noise_features
    full = np.empty((len(z), q + 2, q + 2))
    full[:, :q, :q] = hessian
    cross = weights * terms.noise_cross
    cross *= relative
    blocks = [
        cross * slope @ wide for slope, wide in zip(slopes, problem.noise_products, strict=True)
    ]
    block = (np.concatenate(blocks, axis=1) @ problem.noise_scatter).reshape(len(z), q, 2)
    full[:, :q, q:], full[:, q:, :q] = block, block.transpose(0, 2, 1)
    a, b, c = ((weights * terms.noise_second) @ problem.noise_squares).T
    full[:, q, q], full[:, q, q + 1], full[:, q + 1, q] = a, b, b
    slope, precision = z[:, q + 1], SLOPE_PRIOR_SD**-2
    full[:, q + 1, q + 1] = c + precision
    noise_gradient = (weights * terms.noise_first) @ features.T
    noise_gradient[:, 1] += precision * slope
    return Evaluation(
        value + 0.5 * precision * slope**2,
        np.concatenate([gradient, noise_gradient], axis=1),
        full,
    )
