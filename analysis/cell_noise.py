"""The noise of one cell, from what a fit says of it: arithmetic on numbers of fits.json."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

NAN = float("nan")


def noise_at(noise: Mapping[str, float], C: NDArray) -> NDArray:
    """Return the standard deviation of one cell's log loss at C, (n,); t4's scale is less.

    Args:
        noise: of a fit, as fits.json has it; NaN is returned where it has none.
        C: (n,) FLOPs.
    """
    if "scale" not in noise:
        return np.full(len(C), noise.get("rms", NAN))
    dof = noise["dof"]
    scale = noise["scale"] * np.exp(noise["slope"] * (np.log(C) - noise["log_C"]))
    return scale * np.sqrt(dof / (dof - 2))
