"""Map a command over items on worker processes of this machine.

A worker is any program that speaks lines of JSON: it reads {"setup": ...} once and then {"item": ...}
on stdin, and writes on its stdout {"kind": "ready"} when it can work, or {"kind": "refused", "reason":
...} when nobody here can, then {"kind": "progress" | "done" | "held", "item": ..., ...}; "held" gives
an item back that somebody else works on, to be asked about again. A message with "free" asks for the
next item. When its stdin ends, because the parent died or was stopped, it saves its work and exits; so
no worker outlives its parent.
"""

import json
import os
import selectors
import signal
import subprocess
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO


@dataclass(frozen=True)
class Event:
    """Something a worker said, or its death ("died") with the item in its hands."""

    kind: str
    item: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class WorkerCommand:
    """How to start a worker."""

    argv: Sequence[str]
    setup: Mapping[str, Any]
    env: Mapping[str, str]  # added to the parent's
    log: Path  # takes what the worker writes on stderr


BAD_DEVICE = 75  # exit status of a worker whose device failed under its item


class WorkerRefused(Exception):
    """A worker says that nothing of this kind can run here, and why."""


class NoWorker(Exception):
    """Workers die before they can work; items are untouched."""


class _Worker:
    def __init__(self, command: WorkerCommand) -> None:
        self.command, self.item, self.ready = command, None, False
        with command.log.open("ab") as log:
            self.process = subprocess.Popen(
                command.argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **command.env},
                start_new_session=True,  # Ctrl-C is for the parent, which tells its workers
            )
        self.unread = b""
        self._send({"setup": dict(command.setup)})

    @property
    def stdout(self) -> BinaryIO:
        return self.process.stdout

    def give(self, item: str) -> None:
        self.item = item
        self._send({"item": item})

    def read(self) -> list[dict[str, Any]]:
        """Whole lines that have arrived; None at the end of its life."""
        chunk = os.read(self.stdout.fileno(), 1 << 16)
        if not chunk:
            raise EOFError
        *lines, self.unread = (self.unread + chunk).split(b"\n")
        return [json.loads(line) for line in lines]

    def stop(self) -> None:
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass

    def _send(self, message: Mapping[str, Any]) -> None:
        try:
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it died: reading from it says so


def map_on_workers(
    items: Iterable[str],
    commands: Sequence[WorkerCommand],
    on_event: Callable[[Event], None],
    *,
    after: Mapping[str, str] | None = None,
    should_stop: Callable[[], bool] | None = None,
    deaths_allowed: int = 2,
    grace_seconds: float = 30.0,
) -> None:
    """Give every item, in order, to the next free worker; returns when all are done.

    `after` names of an item another one that must have ended first, however it ended.

    A worker that dies is replaced and its item tried again, until it has killed `deaths_allowed`
    workers. One that dies before it was ready says nothing about its item, which goes back; a
    command that fails so `deaths_allowed` times in a row is given up, and so is one whose device
    failed as often, in whatever item. On KeyboardInterrupt, and when `should_stop` says so twice a
    second, workers are told to stop and get `grace_seconds` to save.

    Raises:
        WorkerRefused: a worker did.
        NoWorker: every command was given up, with items left.
    """
    crew = _Crew(_Waiting(items, after or {}), on_event, deaths_allowed)
    try:
        for command in commands:
            crew.start(command)
        while crew.workers and not (should_stop and should_stop()):
            crew.listen(0.5 if should_stop else None)
    finally:
        crew.stop(grace_seconds)


class _Crew:
    """The workers, and what has gone wrong with each item and command."""

    def __init__(
        self, waiting: "_Waiting", on_event: Callable[[Event], None], deaths_allowed: int
    ) -> None:
        self.workers: list[_Worker] = []
        self._waiting, self._on_event, self._deaths_allowed = waiting, on_event, deaths_allowed
        # nothing to do for them until an item has ended or come back
        self._idle: list[_Worker | WorkerCommand] = []
        self._deaths: Counter[str] = Counter()  # by item
        self._false_starts: Counter[int] = Counter()  # in a row, by id of the command
        self._device_failures: Counter[int] = Counter()  # by id of the command
        self._selector = selectors.DefaultSelector()

    def start(self, command: WorkerCommand) -> None:
        """Start a worker for the next item; where there is none, keep the command at hand."""
        item = self._waiting.take()
        if item is None:
            self._idle.append(command)
            return
        worker = _Worker(command)
        self.workers.append(worker)
        self._selector.register(worker.stdout, selectors.EVENT_READ, worker)
        worker.give(item)

    def listen(self, seconds: float | None) -> None:
        """Wait for somebody to speak or to die, at most so long."""
        for key, _ in self._selector.select(seconds):
            worker: _Worker = key.data
            try:
                messages = worker.read()
            except EOFError:
                self._bury(worker)
                continue
            for message in messages:
                self._hear(worker, message)

    def stop(self, grace_seconds: float) -> None:
        """Have all save and exit; kill who is still there afterwards."""
        for worker in self.workers:
            worker.stop()
        for worker in self.workers:
            try:
                worker.process.wait(grace_seconds)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
        self._selector.close()

    def _hear(self, worker: _Worker, message: dict[str, Any]) -> None:
        if message["kind"] == "refused":
            raise WorkerRefused(message["reason"])
        if message["kind"] == "ready":
            worker.ready, self._false_starts[id(worker.command)] = True, 0
            return
        event = Event(message.pop("kind"), message.pop("item"), message)
        self._on_event(event)
        if worker.item is None or not message.get("free"):
            return
        worker.item = None
        if event.kind == "held":
            self._waiting.put_last(event.item)
        else:
            self._waiting.end(event.item)
            self._wake()
        self._give_next(worker)

    def _give_next(self, worker: _Worker) -> None:
        item = self._waiting.take()
        if item is not None:
            worker.give(item)
        elif self._waiting:
            self._idle.append(worker)
        else:
            worker.stop()

    def _wake(self) -> None:
        """Have those who have nothing to do look again."""
        again, self._idle = self._idle, []
        for one in again:
            self._give_next(one) if isinstance(one, _Worker) else self.start(one)

    def _bury(self, worker: _Worker) -> None:
        self._selector.unregister(worker.stdout)
        self.workers.remove(worker)
        code = worker.process.wait()
        if not worker.ready:
            self._after_false_start(worker)
            return
        if worker in self._idle:
            self._idle.remove(worker)
        if worker.item is not None:
            self._item_killed(worker.item, _how(code))
            if code == BAD_DEVICE and self._gave_up_device(worker):
                return
        # also where it was let go: an item that others had in hand may have come back since
        self.start(worker.command)

    def _item_killed(self, item: str, how: str) -> None:
        self._deaths[item] += 1
        again = self._deaths[item] < self._deaths_allowed
        self._on_event(Event("died", item, {"how": how, "again": again}))
        if again:
            self._waiting.put_first(item)
        else:
            self._waiting.end(item)
        self._wake()

    def _gave_up_device(self, worker: _Worker) -> bool:
        self._device_failures[id(worker.command)] += 1
        if self._device_failures[id(worker.command)] < self._deaths_allowed:
            return False
        if self._waiting and not self.workers:
            raise NoWorker(_last_words(worker))
        return True

    def _after_false_start(self, worker: _Worker) -> None:
        self._waiting.put_first(worker.item)
        self._false_starts[id(worker.command)] += 1
        self._wake()
        if self._false_starts[id(worker.command)] < self._deaths_allowed:
            self.start(worker.command)
        elif not self.workers:
            raise NoWorker(_last_words(worker))


class _Waiting:
    """Items that nobody has in hand, in order; some may have to wait for another one to end."""

    def __init__(self, items: Iterable[str], after: Mapping[str, str]) -> None:
        self._items = deque(items)
        there = set(self._items)
        self._after = {i: other for i, other in after.items() if {i, other} <= there}

    def __bool__(self) -> bool:
        return bool(self._items)

    def take(self) -> str | None:
        """First item that waits for no other; None where there is none."""
        ready = next((i for i in self._items if i not in self._after), None)
        if ready is not None:
            self._items.remove(ready)
        return ready

    def put_first(self, item: str) -> None:
        self._items.appendleft(item)

    def put_last(self, item: str) -> None:
        self._items.append(item)

    def end(self, item: str) -> None:
        self._after = {i: other for i, other in self._after.items() if other != item}


def _how(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit status {code}"


def _last_words(worker: _Worker) -> str:
    lines = worker.command.log.read_text(errors="replace").strip().splitlines()
    said = lines[-1] if lines else "it said nothing"
    return f"{_how(worker.process.returncode)}: {said} (all of it: {worker.command.log})"
