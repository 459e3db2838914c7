"""Many small linear systems at once, where some may be singular and must not stop the others."""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def solved(matrices: Array, vectors: Array) -> Array:
    """Solve each of (m, q, q) for its (m, q); NaN where a matrix is singular or not finite."""
    try:
        return np.linalg.solve(matrices, vectors[:, :, None])[:, :, 0]
    except np.linalg.LinAlgError:
        return np.stack([_one(a, b) for a, b in zip(matrices, vectors, strict=True)])


def _one(matrix: Array, vector: Array) -> Array:
    try:
        return np.linalg.solve(matrix, vector)
    except np.linalg.LinAlgError:
        return np.full_like(vector, np.nan)
