"""Checks of the rows given to a fit, with texts that name the column and the row."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from analysis.laws import LAWS, Law, columns

Array = np.ndarray


def law_named(law: Law | str) -> Law:
    if isinstance(law, Law):
        return law
    if law not in LAWS:
        raise ValueError(f"law {law!r} is not one of {list(LAWS)}")
    return LAWS[law]


def checked_rows(
    law: Law,
    N: ArrayLike,
    D: ArrayLike,
    loss: ArrayLike,
    C: ArrayLike | None,
    extra: Mapping[str, ArrayLike],
) -> tuple[dict[str, Array], Array]:
    given = {"N": N, "D": D, "loss": loss} | ({} if C is None else {"C": C})
    missing = [name for name in law.needs if name not in extra]
    if missing:
        raise ValueError(f"law {law.name} needs the column {missing[0]}")
    given |= {name: extra[name] for name in law.needs}
    arrays = {name: np.asarray(value, dtype=float) for name, value in given.items()}
    n = arrays["N"].size
    for name, array in arrays.items():
        if array.shape != (n,):
            raise ValueError(f"{name} has shape {array.shape} where N has ({n},)")
        bad = np.flatnonzero(~(np.isfinite(array) & (array > 0)))
        if len(bad):
            raise ValueError(f"{name} must be finite and positive; row {bad[0]} is {array[bad[0]]}")
    log_loss = np.log(arrays.pop("loss"))
    return columns(**arrays), log_loss


def distinct_points(law: Law, data: Mapping[str, Array]) -> int:
    axes = ("log_C",) if law.variables == "C" else ("log_N", "log_D")
    axes += tuple(f"log_{name}" for name in law.needs)
    return len(np.unique(np.stack([data[name] for name in axes], axis=1), axis=0))
