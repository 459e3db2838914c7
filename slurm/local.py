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
    deaths_allowed: int = 2,
    grace_seconds: float = 30.0,
) -> None:
    """Give every item, in order, to the next free worker; returns when all are done.

    A worker that dies is replaced and its item tried again, until it has killed `deaths_allowed`
    workers. One that dies before it was ready says nothing about its item, which goes back; a
    command that fails so `deaths_allowed` times in a row is given up, and so is one whose device
    failed as often, in whatever item. On KeyboardInterrupt workers are told to stop and get `grace_seconds` to save.

    Raises:
        WorkerRefused: a worker did.
        NoWorker: every command was given up, with items left.
    """
    waiting, deaths = deque(items), {}
    false_starts: dict[int, int] = {}  # in a row, by command
    device_failures: dict[int, int] = {}  # by command
    selector = selectors.DefaultSelector()
    workers: list[_Worker] = []

    def start(command: WorkerCommand) -> None:
        if waiting:
            worker = _Worker(command)
            workers.append(worker)
            selector.register(worker.stdout, selectors.EVENT_READ, worker)
            worker.give(waiting.popleft())

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
                    waiting.append(event.item)
                worker.give(waiting.popleft()) if waiting else worker.stop()

    def _bury(worker: _Worker) -> None:
        selector.unregister(worker.stdout)
        workers.remove(worker)
        code = worker.process.wait()
        if not worker.ready:
            _forget_start(worker)
            return
        if worker.item is None:
            return
        deaths[worker.item] = deaths.get(worker.item, 0) + 1
        again = deaths[worker.item] < deaths_allowed
        on_event(Event("died", worker.item, {"how": _how(code), "again": again}))
        if again:
            waiting.appendleft(worker.item)
        if code == BAD_DEVICE:
            key = id(worker.command)
            device_failures[key] = device_failures.get(key, 0) + 1
            if device_failures[key] >= deaths_allowed:
                if waiting and not workers:
                    raise NoWorker(_last_words(worker))
                return
        start(worker.command)

    def _forget_start(worker: _Worker) -> None:
        waiting.appendleft(worker.item)
        key = id(worker.command)
        false_starts[key] = false_starts.get(key, 0) + 1
        if false_starts[key] < deaths_allowed:
            start(worker.command)
        elif not workers:
            raise NoWorker(_last_words(worker))

    try:
        for command in commands:
            start(command)
        while workers:
            for key, _ in selector.select():
                handle(key.data)
    finally:
        _stop_all(workers, grace_seconds)
        selector.close()


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
