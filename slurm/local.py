"""Map a command over items on worker processes of this machine.

A worker is any program that speaks lines of JSON: it reads {"setup": ...} once and then {"item": ...}
on stdin, and writes {"kind": "progress" | "done", "item": ..., ...} on its stdout. When its stdin ends,
because the parent died or was stopped, it saves its work and exits; so no worker outlives its parent.
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
    inherit: tuple[int, ...] = ()  # file descriptors that stay open in it, such as a lock


class _Worker:
    def __init__(self, command: WorkerCommand) -> None:
        self.command, self.item = command, None
        with command.log.open("ab") as log:
            self.process = subprocess.Popen(
                command.argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **command.env},
                pass_fds=command.inherit,
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
    workers. On KeyboardInterrupt workers are told to stop and get `grace_seconds` to save.
    """
    waiting, deaths = deque(items), {}
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
            on_event(Event(message.pop("kind"), message.pop("item"), message))
            if worker.item is not None and message.get("free"):
                worker.item = None
                worker.give(waiting.popleft()) if waiting else worker.stop()

    def _bury(worker: _Worker) -> None:
        selector.unregister(worker.stdout)
        workers.remove(worker)
        code = worker.process.wait()
        if worker.item is None:
            return
        deaths[worker.item] = deaths.get(worker.item, 0) + 1
        again = deaths[worker.item] < deaths_allowed
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        on_event(Event("died", worker.item, {"how": how, "again": again}))
        if again:
            waiting.appendleft(worker.item)
        start(worker.command)

    try:
        for command in commands:
            start(command)
        while workers:
            for key, _ in selector.select():
                handle(key.data)
    finally:
        _stop_all(workers, grace_seconds)
        selector.close()


def _stop_all(workers: Sequence[_Worker], grace_seconds: float) -> None:
    for worker in workers:
        worker.stop()
    for worker in workers:
        try:
            worker.process.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()
