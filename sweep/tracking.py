"""Trackers follow an attempt's curve: what train.jsonl gains, they are told, each in its own thread.

The file stays the truth. A tracker reads it from its first line, is told what it was not told yet,
and so misses nothing of a resumed attempt. One that fails or hangs says so in one line and is off;
training neither waits for it nor ends with it.

    cells/<cell_id>/<attempt>/tracking.json    the run's id and name there, and the step each knows
"""

import json
import math
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweep.cells import cell_to_row
from sweep.checkpoint import write_json
from sweep.claim import Attempt
from sweep.folder import SweepFolder
from sweep.settings import RunSettings
from sweep.tracked_run import TrackedRun

_PATIENCE = 20.0  # seconds that the end of a process waits for what a tracker still has to send
SUMMARY = ("val_loss", "val_loss_se", "bpb", "train_loss", "tokens_per_second", "mfu",
           "mfu_of_measured_peak", "seconds", "status", "reason")  # fmt: skip


@dataclass(frozen=True)
class Speed:
    """How tokens a second become a utilisation.

    Attributes:
        column: mfu, or mfu_of_measured_peak where no datasheet says a peak.
        of_rate: utilisation of one token a second.
    """

    column: str
    of_rate: float


class Tracking:
    """The trackers of one attempt; of none, it does nothing."""

    def __init__(self, followers: Sequence["_Follower"] = ()) -> None:
        self._followers = followers

    def nudge(self) -> None:
        """Say that the curve has grown; returns at once."""
        for follower in self._followers:
            follower.wake.set()

    def end(self, record: Mapping[str, Any] | None = None) -> None:
        """Say that nothing more comes; returns at once.

        The process will not end before the trackers have, but for one that takes too long.

        Args:
            record: of the attempt; None where it goes on later.
        """
        for follower in self._followers:
            follower.leave({k: (record or {}).get(k) for k in SUMMARY if record})


def follow(
    attempt: Attempt,
    folder: SweepFolder,
    settings: RunSettings,
    resumed_from: int | None,
    speed: Speed,
    say: Callable[[str], None],
) -> Tracking:
    """Start the trackers that are asked for.

    Args:
        attempt: whose curve is followed, which holds nothing that will be taken back.
        folder: its sweep.
        settings: run.trackers and run.tracker_project.
        resumed_from: attempt whose checkpoint this one went on from.
        speed: of the device.
        say: takes a line for a person.
    """
    if not settings.trackers:
        return Tracking()
    notes = [_Notes(attempt.path / "tracking.json")]
    try:
        if resumed_from is not None:
            notes.append(_Notes(attempt.path.parent / str(resumed_from) / "tracking.json"))
        known = next((n.values for n in notes if n.values), None)
        run = _run_of(attempt, folder, settings, known)
        notes[0].begin(run, known)
    except Exception as e:
        say(f"no tracker is told of {attempt.cell.id}: {_in_a_line(e)}")
        return Tracking()
    return Tracking(
        [_Follower(name, run, attempt.curve, notes[0], speed, say) for name in settings.trackers]
    )


def values_of(
    row: Mapping[str, Any], before: Mapping[str, Any] | None, speed: Speed
) -> dict[str, float]:
    """Make of a row of train.jsonl what trackers show: finite numbers only.

    Tokens a second are of the training seconds since the row before.
    """
    values = {k: row.get(k) for k in ("train_loss", "eval_loss", "lr", "tokens", "flops")}
    last = before or {"tokens": 0, "seconds": 0.0}
    seconds = row["seconds"] - last["seconds"]
    if seconds > 0:  # else the row before is of another attempt at the same trunk
        rate = (row["tokens"] - last["tokens"]) / seconds
        values |= {"tokens_per_second": rate, speed.column: rate * speed.of_rate}
    return {k: v for k, v in values.items() if v is not None and math.isfinite(v)}


class _Notes:
    """tracking.json of an attempt; several threads write it."""

    def __init__(self, path: Path) -> None:
        self.path, self._writing = path, threading.Lock()
        try:
            self.values: dict[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError):
            self.values = {}

    def begin(self, run: TrackedRun, known: Mapping[str, Any] | None) -> None:
        """Write which run it is, and what trackers know of it already."""
        self.values = {"id": run.id, "name": run.name, "told": dict((known or {}).get("told", {}))}
        write_json(self.values, self.path)

    def told(self, tracker: str) -> int:
        """Last step that a tracker was told of."""
        return self.values["told"].get(tracker, 0)

    def tell(self, tracker: str, step: int) -> None:
        """Note that a tracker was told of a step."""
        with self._writing:
            self.values["told"][tracker] = step
            write_json(self.values, self.path)


class _Follower:
    """One tracker, and the thread that tells it."""

    def __init__(
        self,
        name: str,
        run: TrackedRun,
        curve: Path,
        notes: _Notes,
        speed: Speed,
        say: Callable[[str], None],
    ) -> None:
        self.name, self.run, self.curve, self.notes = name, run, curve, notes
        self.speed, self.say = speed, say
        self.wake, self._summary = threading.Event(), None
        self._thread = threading.Thread(target=self._guard, name=f"tracker-{name}", daemon=True)
        self._thread.start()

    def leave(self, summary: Mapping[str, Any]) -> None:
        """Have the thread end; a second one, which a process waits for, gives it time."""
        self._summary = summary
        self.wake.set()
        threading.Thread(target=self._wait, name=f"end-of-tracker-{self.name}").start()

    def _wait(self) -> None:
        self._thread.join(_PATIENCE)
        if self._thread.is_alive():
            self.say(f"tracker {self.name} did not end in {_PATIENCE:.0f} s and is left")

    def _guard(self) -> None:
        try:
            self._follow()
        except (Exception, SystemExit) as e:
            self.say(f"tracker {self.name} is off for {self.run.name}: {_in_a_line(e)}")

    def _follow(self) -> None:
        from sweep.trackers import OPEN  # and a tracker its package: an attempt without needs none

        tracker = OPEN[self.name](self.run)
        rows, before, told = _Rows(self.curve), None, self.notes.told(self.name)
        while True:
            summary = self._summary  # before the look at rows, which are all there by then
            for row in rows.new():
                if row["step"] > told:
                    tracker.tell(row["step"], values_of(row, before, self.speed))
                    told = row["step"]
                    self.notes.tell(self.name, told)
                before = row
            if summary is not None:
                return tracker.end(summary)
            self.wake.wait()
            self.wake.clear()


class _Rows:
    """Lines of a growing file of JSON, each once, when it is whole."""

    def __init__(self, path: Path) -> None:
        self.path, self._read = path, 0

    def new(self) -> Iterator[dict[str, Any]]:
        """Rows that came since the last call."""
        if not self.path.exists():
            return
        with self.path.open("rb") as f:
            f.seek(self._read)
            for line in f:
                if not line.endswith(b"\n"):
                    return
                self._read += len(line)
                yield json.loads(line)


def _run_of(
    attempt: Attempt, folder: SweepFolder, settings: RunSettings, known: Mapping[str, Any] | None
) -> TrackedRun:
    again = f".{attempt.number}" if attempt.number else ""  # a rerun is a run of its own
    return TrackedRun(
        id=known["id"] if known else secrets.token_hex(8),
        name=known["name"] if known else f"{attempt.cell.id}{again}",
        group=folder.name,
        project=settings.tracker_project or "isoflop",
        folder=folder.path / "tracking",
        config={"sweep": folder.name, **cell_to_row(attempt.cell)},
    )


def _in_a_line(e: BaseException) -> str:
    return f"{type(e).__name__}: {' '.join(str(e).split())[:300]}"
