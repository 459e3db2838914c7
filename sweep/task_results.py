"""What an evaluation command left: numbers by task and metric, from JSON files in its folder.

Two forms are read. The results of lm-eval (EleutherAI), whose keys are `metric,filter`; and a plain
object of names and numbers, each name `task/metric`.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SAMPLES = "sample_len"  # lm-eval's count of what a task or group asked, beside its numbers
MOST_BYTES = 100_000_000  # of one file: results, not samples


class ResultsError(Exception):
    """No results, or none that can be read; the text says which file and why."""


@dataclass(frozen=True)
class TaskResults:
    """Numbers that a command found.

    Attributes:
        values: by `task/metric`; of lm-eval `task/metric@filter` where a filter was at work. What is
            not finite is left out.
        tasks: those that stand for themselves. A task whose group has numbers of its own is not
            among them, so that a mean counts nothing twice.
    """

    values: Mapping[str, float]
    tasks: tuple[str, ...]


def read_results(folder: Path) -> TaskResults:
    """Read every result in a folder and below.

    Raises:
        ResultsError: none is there, one can't be read, or two give one name different numbers.
    """
    found = [(path, _read(path)) for path in sorted(folder.rglob("*.json"))]
    values: dict[str, float] = {}
    tasks: dict[str, None] = {}
    for path, results in found:
        for name, value in results.values.items():
            if values.setdefault(name, value) != value:
                raise ResultsError(
                    f"{path} gives {name} as {value:g}, another file {values[name]:g}"
                )
        tasks |= dict.fromkeys(results.tasks)
    if not values:
        there = ", ".join(p.name for p, _ in found[:3]) or "it has no JSON file"
        raise ResultsError(f"no results in {folder} ({there}): does the command write to {{out}}?")
    return TaskResults(values, tuple(tasks))


def _read(path: Path) -> TaskResults:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError("it is too large for results")
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as e:
        raise ResultsError(f"{path} can't be read: {' '.join(str(e).split())[:200]}") from None
    if isinstance(content, dict) and isinstance(content.get("results"), dict):
        return _of_lm_eval(content)
    if isinstance(content, dict) and content and all(_is_number(v) for v in content.values()):
        values = {str(k): float(v) for k, v in content.items() if math.isfinite(v)}
        return TaskResults(values, tuple(dict.fromkeys(map(task_of, values))))
    return TaskResults({}, ())  # some other JSON, such as a config beside the results


def _of_lm_eval(content: Mapping[str, Any]) -> TaskResults:
    values = dict(_numbers(content["results"]))
    tasks = dict.fromkeys(map(task_of, values))
    groups = content.get("group_subtasks")
    for group, members in groups.items() if isinstance(groups, dict) else ():
        if group in tasks and isinstance(members, list):
            tasks = {t: None for t in tasks if t not in members}
    return TaskResults(values, tuple(tasks))


def _numbers(results: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for task, metrics in results.items():
        for key, value in metrics.items() if isinstance(metrics, dict) else ():
            metric, _, by = key.partition(",")
            if metric != SAMPLES and _is_number(value) and math.isfinite(value):
                yield f"{task}/{metric}{'' if by in ('', 'none') else f'@{by}'}", float(value)


def task_of(name: str) -> str:
    """Return the task of a name `task/metric`; a name without a metric is one."""
    return name.rpartition("/")[0] or name


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
