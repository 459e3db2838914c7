"""Columns of the record that evaluations after training fill in, joined by `collect`.

Numbers of one name are compared only where one question asked for them: the last one does.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweep.evaluations import Evaluation, latest_by

ACCURACY = ("acc", "exact_match")  # metrics in this order; the first that a task has
LOSS = ("loss", "bits_per_byte", "bpb")
SET_NUMBERS = ("loss", "se", "bpb", "bpb_se", "tokens")

Attempt = tuple[str, int]  # cell id and number


@dataclass(frozen=True)
class Joined:
    """What evaluations say of attempts, by column.

    Attributes:
        columns: values of each column by attempt.
        line: in words, what task_accuracy is of; None where there is none.
    """

    columns: Mapping[str, Mapping[Attempt, Any]]
    line: str | None = None


def join_evaluations(
    evaluations: Sequence[Evaluation], val_sets: Mapping[Attempt, str | None]
) -> Joined:
    """Make columns of evaluations.

    Args:
        evaluations: the oldest first.
        val_sets: the column of that name by attempt, as training left it; only these attempts count.
    """
    by = latest_by(evaluations)
    tasks: dict[Attempt, dict[str, float]] = {}
    counted: dict[Attempt, set[str]] = {}
    sets: dict[Attempt, dict[str, Any]] = {}
    for e in evaluations:
        attempt = (e.cell_id, e.attempt)
        if attempt not in val_sets:
            continue
        if e.kind == "set":
            name = str(e.asked["name"])
            if by["set", name] == e.by:
                numbers = {k: e.found.get(k) for k in SET_NUMBERS}
                sets.setdefault(attempt, {})[name] = {"kind": "extra", **numbers}
            continue
        asked_last = {k: v for k, v in e.found.items() if by["tasks", k] == e.by}
        tasks.setdefault(attempt, {}).update(asked_last)
        counted.setdefault(attempt, set()).update(e.counted)
    means, line = _means(tasks, counted)
    return Joined(
        {
            "tasks": {a: json.dumps(v, sort_keys=True) for a, v in tasks.items() if v},
            **means,
            "val_sets": {a: _with_sets(val_sets[a], new) for a, new in sets.items()},
        },
        line,
    )


def _with_sets(text: str | None, new: Mapping[str, Any]) -> str:
    """Add sets to those that training judged on, which stay as they are."""
    known = json.loads(text or "{}")
    return json.dumps(known | {name: s for name, s in new.items() if name not in known})


def _means(
    tasks: Mapping[Attempt, Mapping[str, float]], counted: Mapping[Attempt, set[str]]
) -> tuple[dict[str, dict[Attempt, float]], str | None]:
    """Means over the tasks that every evaluated attempt has, so that all are of the same."""
    accuracy = {a: _by_task(v, counted[a], ACCURACY) for a, v in tasks.items()}
    accuracy = {a: v for a, v in accuracy.items() if v}
    if not accuracy:
        return {}, None
    shared = sorted(set.intersection(*map(set, accuracy.values())))
    left_out = sorted(set().union(*accuracy.values()) - set(shared))
    but = f"; not in it, since not every evaluated cell has them: {', '.join(left_out)}"
    if not shared:
        return {}, f"task_accuracy is unknown: no task was put to every evaluated cell{but}"
    loss = {a: _by_task(tasks[a], set(shared), LOSS) for a in accuracy}
    whole = {a: v for a, v in loss.items() if len(v) == len(shared)}
    means = {a: _mean([v[t] for t in shared]) for a, v in accuracy.items()}
    columns = {
        "task_accuracy": means,
        "task_error": {a: 1 - v for a, v in means.items()},
        "task_loss": {a: _mean(list(v.values())) for a, v in whole.items()},
    }
    line = f"task_accuracy of {len(means)} attempts: mean over {', '.join(shared)}"
    return columns, line + (but if left_out else "")


def _by_task(
    values: Mapping[str, float], tasks: set[str], metrics: Sequence[str]
) -> dict[str, float]:
    """Value of each task by the first of some metrics that it has."""
    found = {}
    for task in tasks:
        names = [f"{task}/{m}" for m in metrics if f"{task}/{m}" in values]
        if names:
            found[task] = values[names[0]]
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
