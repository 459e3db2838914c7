"""Evaluate a trained cell by a command of anybody's: export it, run the command, read what it left."""

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweep.errors import UsageError
from sweep.evaluation_targets import NotEvaluated, Target
from sweep.placeholders import listed, names_in
from sweep.task_results import ResultsError, read_results

FIELDS = ("checkpoint", "out", "tasks", "cell")
KEY = "evaluate.command"


@dataclass(frozen=True)
class CommandEvaluator:
    """A command template and the tasks that fill it in.

    Attributes:
        argv: words of the template, before {names} are filled in. No shell ever sees them.
        tasks: what {tasks} stands for, joined by commas.
    """

    argv: tuple[str, ...]
    tasks: tuple[str, ...]
    kind = "tasks"

    @property
    def name(self) -> str:
        """What it is, in a line for a person."""
        return ", ".join(self.tasks) or Path(self.argv[0]).name

    def asked(self, target: Target) -> Mapping[str, Any]:
        """Say what is asked of any cell."""
        return {"command": list(self.argv), "tasks": list(self.tasks)}

    def words(self, target: Target, checkpoint: Path, out: Path) -> list[str]:
        """Fill in the words for one cell."""
        filled = {
            "checkpoint": str(checkpoint),
            "out": str(out),
            "tasks": ",".join(self.tasks),
            "cell": target.cell_id,
        }
        return [word.format(**filled) for word in self.argv]

    def evaluate(self, target: Target, work: Path) -> Mapping[str, Any]:
        """Evaluate one cell.

        Args:
            target: the cell.
            work: folder of this evaluation. `out/` and `log.txt` stay there.

        Returns:
            found, counted and made_by of an Evaluation.

        Raises:
            NotEvaluated: it can't be exported, the command fails, or it leaves no results.
        """
        checkpoint, out, log = work / "checkpoint", work / "out", work / "log.txt"
        for left in (checkpoint, out, *work.glob(".checkpoint.*")):  # by one that was killed
            shutil.rmtree(left, ignore_errors=True)
        try:
            export(target, checkpoint)
            out.mkdir()
            _run(self.words(target, checkpoint, out), log)
            results = read_results(out)
        except ResultsError as e:
            raise NotEvaluated(f"{e}; its output: {log}") from None
        finally:
            shutil.rmtree(checkpoint, ignore_errors=True)
        return {"found": dict(results.values), "counted": results.tasks, "made_by": {}}


def export(target: Target, out: Path) -> None:
    """Write a cell's model as a transformers checkpoint.

    Raises:
        NotEvaluated: it has no such form.
    """
    from sweep.exporting import export_attempt  # late: it imports torch
    from sweep.trained import find_finished

    try:
        attempts = find_finished(target.folder, target.cell_id)
        finished = next(a for a in attempts if a.record["attempt"] == target.attempt)
        export_attempt(finished, target.folder, out)
    except UsageError as e:
        raise NotEvaluated(str(e)) from None


def command_evaluator(command: str, tasks: tuple[str, ...]) -> CommandEvaluator:
    """Check a template, and that its program is there.

    Raises:
        UsageError: what is wrong with it.
    """
    try:
        argv = tuple(shlex.split(command))
        found = frozenset().union(*(names_in(KEY, word, FIELDS) for word in argv))
    except ValueError as e:
        said = str(e)
        raise UsageError(said if said.startswith(KEY) else f"{KEY}: {said}") from None
    missing = [name for name in ("checkpoint", "out") if name not in found]
    if missing:
        raise UsageError(
            f"{KEY} has no {listed(missing)}: the folder of the exported model is {{checkpoint}}, "
            "and results are read from the folder {out}"
        )
    if tasks and "tasks" not in found:
        raise UsageError(f"evaluate.tasks is not used: {KEY} has no {{tasks}}")
    if "tasks" in found and not tasks:
        raise UsageError(f"{KEY} has {{tasks}}: say which with evaluate.tasks=[NAME,...]")
    bad = [t for t in tasks if not t.strip() or "," in t]
    if bad:
        raise UsageError(f"evaluate.tasks: {bad[0]!r} is no name of a task")
    if shutil.which(argv[0]) is None:
        raise UsageError(f"{KEY}: there is no program {argv[0]} here; give its path, or install it")
    return CommandEvaluator(argv, tasks)


def _run(words: list[str], log: Path) -> None:
    """Run a command to its end, what it prints going to a file.

    Raises:
        NotEvaluated: it did not end well.
    """
    with log.open("wb") as output:
        try:
            done = subprocess.run(
                words, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
        except OSError as e:
            raise NotEvaluated(f"{words[0]} can't be run: {e.strerror}") from None
    if done.returncode:
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit {done.returncode}"
        raise NotEvaluated(f"the command ended with {how}: {_last_line(log)}; its output: {log}")


def _last_line(log: Path) -> str:
    with log.open("rb") as f:
        f.seek(max(0, os.fstat(f.fileno()).st_size - 4096))
        lines = f.read().decode(errors="replace").split("\n")
    said = [" ".join(line.split()) for line in lines if line.strip()]
    return "".join(c for c in said[-1] if c.isprintable())[:200] if said else "it said nothing"
