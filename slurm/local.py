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
from collections import deque
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
    waiting, deaths = _Waiting(items, after or {}), {}
    free: list[_Worker | WorkerCommand] = []  # have nothing to do until an item has ended
    false_starts: dict[int, int] = {}  # in a row, by command
    device_failures: dict[int, int] = {}  # by command
    selector = selectors.DefaultSelector()
    workers: list[_Worker] = []

    def start(command: WorkerCommand) -> None:
        item = waiting.take()
        if item is not None:
            worker = _Worker(command)
            workers.append(worker)
            selector.register(worker.stdout, selectors.EVENT_READ, worker)
            worker.give(item)
        elif waiting:
            free.append(command)

    def give_next(worker: _Worker) -> None:
        item = waiting.take()
        if item is not None:
            worker.give(item)
        elif waiting:
            free.append(worker)
        else:
            worker.stop()

    def wake() -> None:
        """Have those who have nothing to do look again."""
        again, free[:] = list(free), []
        for one in again:
            give_next(one) if isinstance(one, _Worker) else start(one)

    def handle(worker: _Worker) -> None:
        try:
            messages = worker.read()
        except EOFError:
            _bury(worker)
            return
        for message in messages:
            if message["kind"] == "refused":
                raise WorkerRefused(message["reason"])
            if message["kind"] == "ready":
                worker.ready, false_starts[id(worker.command)] = True, 0
                continue
            event = Event(message.pop("kind"), message.pop("item"), message)
            on_event(event)
            if worker.item is not None and message.get("free"):
                worker.item = None
                if event.kind == "held":
                    waiting.put_last(event.item)
                else:
                    waiting.end(event.item)
                    wake()
                give_next(worker)

    def _bury(worker: _Worker) -> None:
        selector.unregister(worker.stdout)
        workers.remove(worker)
        code = worker.process.wait()
        if not worker.ready:
            _forget_start(worker)
            return
        if worker in free:
            free.remove(worker)
            start(worker.command)
        if worker.item is None:
            return
        deaths[worker.item] = deaths.get(worker.item, 0) + 1
        again = deaths[worker.item] < deaths_allowed
        on_event(Event("died", worker.item, {"how": _how(code), "again": again}))
        if again:
            waiting.put_first(worker.item)
        else:
            waiting.end(worker.item)
        wake()
        if code == BAD_DEVICE:
            key = id(worker.command)
            device_failures[key] = device_failures.get(key, 0) + 1
            if device_failures[key] >= deaths_allowed:
                if waiting and not workers:
                    raise NoWorker(_last_words(worker))
                return
        start(worker.command)

    def _forget_start(worker: _Worker) -> None:
        waiting.put_first(worker.item)
        key = id(worker.command)
        false_starts[key] = false_starts.get(key, 0) + 1
        wake()
        if false_starts[key] < deaths_allowed:
            start(worker.command)
        elif not workers:
            raise NoWorker(_last_words(worker))

    try:
        for command in commands:
            start(command)
        while workers and not (should_stop and should_stop()):
            for key, _ in selector.select(0.5 if should_stop else None):
                handle(key.data)
    finally:
        _stop_all(workers, grace_seconds)
        selector.close()


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


def _stop_all(workers: Sequence[_Worker], grace_seconds: float) -> None:
    for worker in workers:
        worker.stop()
    for worker in workers:
        try:
            worker.process.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()
