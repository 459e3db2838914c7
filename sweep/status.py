"""Status: what of a plan is planned, queued, running, done; what does not move, why, what to type."""

import re
import shlex
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite, nan

from rich.console import Console
from rich.table import Table

from results.store import flops_spent, read_record
from sweep.amounts import duration
from sweep.arguments import Arguments
from sweep.cell_state import CellState, State, cell_state
from sweep.explain import Commands, explain_wait, job_name_of
from sweep.folder import SweepFolder
from sweep.launch_words import read_words
from sweep.sweep_facts import SweepFacts, read_facts

_EXAMPLES = 3  # cells that are named of those that wait for the same reason
_KINDS = 12  # reasons that are printed
_SAMPLED = 24  # records from which the speed is taken
_WATCH_SECONDS = 10.0
_SWEEP = ("root", "sweep", "grid")


@dataclass(frozen=True)
class Status:
    """Every cell's state, and what could not be asked."""

    facts: SweepFacts
    cells: Sequence[CellState]

    @property
    def running(self) -> list[tuple[str, int]]:
        """Id and last attempt of each cell in training."""
        pairs = zip(self.facts.cells, self.cells, strict=True)
        return [
            (f.plan.cell_id, f.attempts[-1].number)
            for f, c in pairs
            if c.state is State.RUNNING and f.attempts
        ]

    @property
    def bad(self) -> bool:
        """Whether something went wrong that a person should know of."""
        return any(c.stuck or c.state in (State.FAILED, State.DIVERGED) for c in self.cells)

    @property
    def moves(self) -> bool:
        """Whether anything may change without anybody's doing."""
        return any(c.state in (State.QUEUED, State.RUNNING) and not c.stuck for c in self.cells)


def print_status(folder: SweepFolder, args: Arguments, console: Console, watch: bool) -> int:
    """Print counts by budget, what does not move and why, and the next command.

    Args:
        folder: the sweep.
        args: what was typed, for the next command.
        console: where to print.
        watch: print it again and again until nothing moves.

    Returns:
        0 when all is well, 1 when a cell failed, diverged or is stuck.

    Raises:
        UsageError: the sweep was never launched.
    """
    while True:
        commands = commands_of(folder, args)
        status = read_status(folder, commands)
        if watch and console.is_terminal:
            console.clear()
        _print(status, folder, args, commands, console)
        if not watch or not status.moves:
            return 1 if status.bad else 0
        time.sleep(_WATCH_SECONDS)


def read_status(folder: SweepFolder, commands: Commands) -> Status:
    """Read a sweep's files, ask SLURM once, and say where each cell is.

    Raises:
        UsageError: the sweep was never launched.
    """
    facts = read_facts(folder)
    now = time.time()
    return Status(facts, [cell_state(c, now, commands) for c in facts.cells])


def commands_of(folder: SweepFolder, args: Arguments) -> Commands:
    """Return commands for this sweep: a launch is that of the last one, and named as here."""
    typed = args.words_of(("root", "sweep"))
    last = read_words(folder)
    launch = (
        shlex.join(["isoflop", "launch", *last, *typed]) if last else args.again("launch", _SWEEP)
    )
    return Commands(launch, *(args.again(verb, _SWEEP) for verb in ("cancel", "logs")))


def _reruns(folder: SweepFolder, status: Status) -> list[str]:
    """Say by how much cells that finished more than once differ."""
    spreads = []
    for facts in status.facts.cells:
        numbers = [a.number for a in facts.attempts if a.record == State.FINISHED]
        if len(numbers) > 1:
            paths = [folder.records / f"{facts.plan.cell_id}.{n}.parquet" for n in numbers]
            losses = [read_record(p)["val_loss"] for p in paths]
            spreads.append(max(losses) - min(losses))
    if not spreads:
        return []
    return [f"Reruns of {len(spreads)} cells differ by {max(spreads):.3g} nats at most."]


def _print(
    status: Status, folder: SweepFolder, args: Arguments, commands: Commands, console: Console
) -> None:
    rate = seconds_per_flop(folder, status)
    console.print(_table(status.cells, rate))
    if eta := _eta(status.cells, rate):
        console.print(eta)
    for note in status.facts.notes:
        console.print(f"Note: {note}")
    for line in (
        *_outlooks(folder, status, args),
        *_reasons(status.cells),
        *left_over(status, commands),
        *_lost_nodes(status, commands),
        *_health(status),
        *_reruns(folder, status),
    ):
        console.print(line)
    states = Counter(c.state for c in status.cells)
    if states[State.PLANNED] or states[State.FAILED]:
        console.print(f"Go on: {commands.launch}")
    elif not (states[State.QUEUED] or states[State.RUNNING]):
        console.print(f"Next: {args.again('collect', _SWEEP)}")


def _outlooks(folder: SweepFolder, status: Status, args: Arguments) -> list[str]:
    if not status.running:
        if "status.fits" in args.named:
            return ["status.fits: no cell is in training."]
        return []
    from sweep.status_outlook import outlook_lines  # late: it needs scipy, and most calls don't

    return outlook_lines(folder, status.running, args.app.status.fits)


def _table(cells: Sequence[CellState], rate: float | None) -> Table:
    shown = [s for s in State if s not in (State.DIVERGED, State.STOPPED)]
    shown += [s for s in (State.DIVERGED, State.STOPPED) if any(c.state is s for c in cells)]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("budget", *map(str, shown), "steps", "cell time left"):
        table.add_column(name, justify="right")
    by_budget: dict[float, list[CellState]] = defaultdict(list)
    for cell in cells:
        by_budget[cell.budget].append(cell)
    for budget, of_it in sorted(by_budget.items()):
        counts = Counter(c.state for c in of_it)
        steps, total = sum(c.step for c in of_it), sum(c.steps for c in of_it)
        left = "?" if rate is None else duration(rate * _flops_left(of_it))
        table.add_row(
            f"{budget:.3g}",
            *(f"{counts[s]:,}" if counts[s] else "·" for s in shown),
            f"{100 * steps // total}%",
            left if _flops_left(of_it) else "·",
        )
    return table


def _flops_left(cells: Iterable[CellState]) -> float:
    going = (State.PLANNED, State.QUEUED, State.RUNNING, State.FAILED)
    return sum(c.flops * (1 - min(c.step / c.steps, 1)) for c in cells if c.state in going)


def _eta(cells: Sequence[CellState], rate: float | None) -> str | None:
    """Say when the sweep will be done, if it goes on as it went."""
    running = sum(c.state is State.RUNNING for c in cells)
    left = _flops_left(c for c in cells if c.state in (State.QUEUED, State.RUNNING))
    if not running or rate is None or not left:
        return None
    return f"About {duration(rate * left / running)} to go with {running} running at once."


def seconds_per_flop(folder: SweepFolder, status: Status) -> float | None:
    """Return seconds of an attempt over its FLOPs, from records of finished cells here and there."""
    finished = [f for f, c in zip(status.facts.cells, status.cells, strict=True)
                if c.state is State.FINISHED]  # fmt: skip
    rows = []
    for facts in finished[:: max(1, len(finished) // _SAMPLED)]:
        number = next(a.number for a in facts.attempts if a.record == State.FINISHED)
        rows.append(read_record(folder.records / f"{facts.plan.cell_id}.{number}.parquet"))
    rows = [row for row in rows if isfinite(nan if row["seconds"] is None else row["seconds"])]
    flops = sum(map(flops_spent, rows))
    return sum(row["seconds"] for row in rows) / flops if flops else None


def _reasons(cells: Iterable[CellState]) -> list[str]:
    """Name cells with an explanation, those of the same reason together."""
    alike: dict[str, list[CellState]] = defaultdict(list)
    for cell in cells:
        if cell.explanation is not None:
            alike[re.sub(r"\d[\d_,]*", "#", f"{cell.state} {cell.explanation.why}")].append(cell)
    groups = sorted(alike.values(), key=lambda group: (not group[0].stuck, -len(group)))
    lines = []
    for group in groups[:_KINDS]:
        for cell in group[:_EXAMPLES]:
            mend = cell.explanation.mend
            lines.append(f"{cell.cell_id} ({cell.state}): {cell.explanation.why}")
            lines += [f"    {mend}"] if mend else []
        if len(group) > _EXAMPLES:
            lines.append(f"    and {len(group) - _EXAMPLES:,} more cells for the same reason")
    if len(groups) > _KINDS:
        lines.append(f"and {len(groups) - _KINDS} other reasons; one cell: isoflop logs cell=ID")
    return lines


def left_over(status: Status, commands: Commands) -> list[str]:
    """Name jobs that are held although their cell is done, by a life that SLURM had lost sight of."""
    pairs = zip(status.facts.cells, status.cells, strict=True)
    held = [
        job_name_of(f.job)
        for f, c in pairs
        if c.state in (State.FINISHED, State.DIVERGED) and f.job is not None and f.job.active
        and not f.shares_job and (why := explain_wait(f.job, commands)) is not None and why.stuck
    ]  # fmt: skip
    if not held:
        return []
    jobs = "1 job is held in the queue though its cell is" if len(held) == 1 else (
        f"{len(held)} jobs are held in the queue though their cells are")  # fmt: skip
    return [f"{jobs} done:",
            f"    scancel {' '.join(held)}"]  # fmt: skip


def _lost_nodes(status: Status, commands: Commands) -> list[str]:
    """Name nodes that failed under more than one cell."""
    lost = Counter(n for job in status.facts.queue.values() for n in job.lost_nodes)
    known = commands.value_of("cluster.exclude")
    lines = []
    for node, n in lost.most_common():
        if n > 1:
            without = commands.launch_with(f"cluster.exclude={f'{known},' if known else ''}{node}")
            lines.append(f"node {node} failed under {n} jobs: {without}")
    return lines


def _health(status: Status) -> list[str]:
    """Say which finished cells to look at before a law is drawn through them, and why."""
    noted = [
        (facts.plan.cell_id, attempt.status["notes"])
        for facts in status.facts.cells
        for attempt in facts.attempts
        if attempt.record == State.FINISHED and attempt.status.get("notes")
    ]
    lines = [f"{cell_id}: {'; '.join(notes)}" for cell_id, notes in noted[:_KINDS]]
    if len(noted) > _KINDS:
        lines.append(f"and {len(noted) - _KINDS:,} more cells with such notes")
    return lines
