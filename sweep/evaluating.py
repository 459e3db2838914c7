"""The evaluate verb: every finished cell, by a command or on sets, each once."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from results.provenance import environment, now
from slurm.lease import Lease, LeaseLost, Watch
from sweep.amounts import duration
from sweep.collect import read_sweep_records
from sweep.data_resolve import eval_sets
from sweep.errors import UsageError
from sweep.evaluate_command import command_evaluator
from sweep.evaluation_targets import NotEvaluated, Target, targets_of
from sweep.evaluations import Evaluation, key_of, path_of, write_evaluation
from sweep.folder import SweepFolder, sweep_folder
from sweep.resolve import hardware_settings

if TYPE_CHECKING:
    from rich.console import Console

    from sweep.arguments import Arguments

_LEASE_SECONDS = 60.0
_MADE_BY = ("host", "git_sha", "git_dirty", "code_sha256")


class Evaluator(Protocol):
    """A way to evaluate a trained cell."""

    kind: str
    name: str

    def asked(self, target: Target) -> Mapping[str, Any]:
        """Plain values that say what is asked, the same for all cells whose numbers compare."""

    def evaluate(self, target: Target, work: Path) -> Mapping[str, Any]:
        """Return found, made_by and, of tasks, counted."""


def evaluate_sweep(args: Arguments, console: Console) -> int:
    """Evaluate what is asked for; returns the exit status.

    Raises:
        UsageError: nothing to evaluate, or by nothing.
    """
    folder = sweep_folder(args.app)
    watch, bad, done = Watch(_LEASE_SECONDS), 0, 0
    for evaluators, targets in _prepare(args, folder, console):
        for target, evaluator in product(targets, evaluators):  # a model is loaded once
            try:
                line, new = _one(target, evaluator, watch)
            except (NotEvaluated, LeaseLost) as e:
                line, new, bad = f"not evaluated: {e}", False, bad + 1
            except UsageError:  # of what is asked of all cells
                raise
            except Exception as e:  # whatever it is, the next cell deserves its turn
                said = " ".join(str(e).split())[:300]
                line, new, bad = f"not evaluated: {type(e).__name__}: {said}", False, bad + 1
            done += new
            again = f" attempt {target.attempt}" if target.attempt else ""
            console.print(f"{target.cell_id}{again}  {evaluator.name}: {line}")
    console.print(
        f"{done} evaluations are new"
        + (f", {bad} did not work: typed again, they alone are tried" if bad else "")
    )
    return 1 if bad else 0


def _prepare(
    args: Arguments, folder: SweepFolder, console: Console
) -> list[tuple[Sequence[Evaluator], Sequence[Target]]]:
    """Check all that can be known to fail; returns who is evaluated by what."""
    app, asked = args.app, []
    if app.evaluate.command is None and app.evaluate.tasks:
        raise UsageError("evaluate.tasks is read with evaluate.command only: leave it out")
    if app.evaluate.command is None and not app.eval:
        raise UsageError(
            "evaluate needs evaluate.command='PROGRAM ... {checkpoint} ... {out}', or sets: "
            "eval=[{name:NAME,path:FILE}]"
        )
    if not app.eval:
        unused = sorted(args.groups_named("hardware", "data"))
        if unused:
            raise UsageError(f"{unused[0]} is read with eval= only: a command says its own")
    if app.evaluate.command is not None:
        asked.append([command_evaluator(app.evaluate.command, tuple(app.evaluate.tasks))])
    sets, hardware = eval_sets(app), hardware_settings(app.hardware)
    records = read_sweep_records(folder)
    found = [(e, targets_of(folder, records, app.cell, every=False)) for e in asked]
    if sets:
        from sweep.evaluate_sets import set_evaluators  # imports torch: after cheap checks

        targets = targets_of(folder, records, app.cell, every=True)
        workers = app.data.workers
        found.append((set_evaluators(sets, targets, hardware, workers, console.print), targets))
    return found


def _one(target: Target, evaluator: Evaluator, watch: Watch) -> tuple[str, bool]:
    """Evaluate a cell, unless that is done or another process is at it.

    Returns:
        What to say, and whether it was done now.
    """
    checkpoint, asked = target.sha256, evaluator.asked(target)
    key = key_of(evaluator.kind, asked, checkpoint)
    path = path_of(target.folder, target.cell_id, target.attempt, key)
    if path.exists():
        return "done before", False
    work = target.path / "evaluations" / key
    work.mkdir(parents=True, exist_ok=True)
    lease = watch.take(work)
    if not isinstance(lease, Lease):
        return f"{lease.in_words()} is at it", False
    try:
        lease.keep(_LEASE_SECONDS, lambda: None)
        if path.exists():  # by whoever held it just before
            return "done before", False
        start = time.perf_counter()
        found = evaluator.evaluate(target, work)
        evaluation = Evaluation(
            cell_id=target.cell_id,
            attempt=target.attempt,
            kind=evaluator.kind,
            asked=asked,
            checkpoint_sha256=checkpoint,
            at=now(),
            seconds=time.perf_counter() - start,
            **{**found, "made_by": {**_made_by(), **found["made_by"]}},
        )
        write_evaluation(evaluation, path, lease)
    finally:
        lease.release()
    return f"{_said(evaluation)} in {duration(evaluation.seconds)}", True


def _made_by() -> dict[str, Any]:
    env = environment()
    return {k: env[k] for k in _MADE_BY}


def _said(evaluation: Evaluation) -> str:
    """Say the first numbers of an evaluation."""
    if evaluation.kind == "set":
        return f"{evaluation.found['loss']:.4f} nats/token"
    names = [n for n in evaluation.found if not n.partition("@")[0].endswith("_stderr")]
    shown = ", ".join(f"{n} {evaluation.found[n]:.4g}" for n in names[:4])
    return shown + (f" and {len(names) - 4} more" if len(names) > 4 else "")
