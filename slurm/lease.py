"""A lease on a folder: one process at a time may write there, on whatever machine it is.

    <folder>/lease/000003/owner.json      held: who, and (its time of change) when it last beat
    <folder>/lease/000003.free            given back; the number stays, so that none is used twice

A lease is a folder with the next number, made by mkdir, which on any filesystem one process wins. Who
takes over from a holder that is dead, or silent, moves the holder's folder away: what the holder has
staged there can't reach its place any more, however long it lives on (a fence; Kleppmann, "How to do
distributed locking", 2016). Clocks of two machines are never compared: a holder is silent when its
beat did not change for a while on the watcher's own clock.
"""

import contextlib
import errno
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

BEATS = 6  # in the time after which silence counts as death


class LeaseLost(Exception):
    """Somebody else holds it now: this process must write nothing more."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lease, as it said when it took it; empty where it had no time to say."""

    number: int
    path: Path
    owner: Mapping[str, Any]

    def in_words(self) -> str:
        """Host, process and job."""
        job = self.owner.get("slurm_job_id")
        return (
            f"process {self.owner.get('pid', '?')} on {self.owner.get('host', 'another machine')}"
            f"{f', job {job}' if job else ''}"
        )

    def beat(self) -> int | None:
        """Time of its last beat, by the file server's clock; None when it is gone."""
        try:
            return self.path.stat().st_mtime_ns
        except OSError:
            return None

    def is_dead(self) -> bool:
        """Whether it can be known, here and now, that the process is no more."""
        return _is_dead(self.owner)

    def is_earlier_life(self) -> bool:
        """Whether it is an earlier life of the job that this process runs in.

        After a node failure SLURM starts a job again while its first process may live on.
        """
        mine = me()
        return (
            mine["slurm_job_id"] is not None
            and self.owner.get("slurm_job_id") == mine["slurm_job_id"]
            and self.owner.get("restart_count", 0) < mine["restart_count"]
        )


class Lease:
    """Held until `release`, or until somebody takes it over."""

    def __init__(self, folder: Path, number: int) -> None:
        self.folder, self.number = folder, number
        self.path = _leases(folder) / _name(number)
        self._stop = threading.Event()

    def check(self) -> None:
        """Make sure that it is still held.

        Raises:
            LeaseLost: it is not.
        """
        numbers = _numbers(self.folder)  # lists the folder: NFS asks the server for that
        if not numbers or max(numbers) != self.number or numbers[self.number] is None:
            raise LeaseLost(f"{self.folder} was taken over by another process")

    def stage(self, name: str) -> Path:
        """Where to write a file that `put` then moves to its place."""
        return self.path / name

    def put(self, staged: Path, place: Path, only_once: bool = False) -> None:
        """Move a staged file to its place, unless the lease is lost.

        Args:
            staged: made by `stage`.
            place: on the same filesystem.
            only_once: leave a file alone that is there already.

        Raises:
            LeaseLost: it was lost; the place is as it was.
            FileExistsError: only_once, and the place is taken.
        """
        self.check()
        try:
            _link(staged, place) if only_once else staged.replace(place)
        except FileNotFoundError:
            self.check()
            raise

    def keep(
        self,
        seconds: float,
        on_lost: Callable[[], None],
        on_beat: Callable[[], None] = lambda: None,
    ) -> None:
        """Beat in a thread, BEATS times in `seconds`, until it is released or lost."""
        beat = threading.Thread(target=self._beat, args=(seconds, on_lost, on_beat), daemon=True)
        beat.start()

    def release(self) -> None:
        """Let the next one have it; no harm where it is lost."""
        self._stop.set()
        with contextlib.suppress(OSError):
            self.path.rename(self.path.with_suffix(".free"))

    def _beat(self, seconds: float, on_lost: Callable, on_beat: Callable) -> None:
        last = time.monotonic()
        while not self._stop.wait(seconds / BEATS):
            try:
                os.utime(self.path)
                self.check()
                last = time.monotonic()
                on_beat()
            except (FileNotFoundError, LeaseLost):
                break
            except OSError:  # the filesystem hangs: others can't see a beat, and will take over
                if time.monotonic() - last > seconds:
                    break
        if not self._stop.is_set():
            on_lost()


def holder(folder: Path) -> Holder | None:
    """Return who holds the lease on a folder, if anybody."""
    numbers = _numbers(folder)
    if not numbers or numbers[max(numbers)] is None:
        return None
    path = numbers[max(numbers)]
    try:
        owner = json.loads((path / "owner.json").read_text())
    except (OSError, ValueError):
        owner = {}
    return Holder(max(numbers), path, owner)


def try_take(folder: Path, over: Holder | None = None) -> Lease | None:
    """Take a lease that nobody holds, or take it over from a holder.

    Args:
        folder: what to lease.
        over: the holder that may be pushed aside; None: only a free lease is taken.

    Returns:
        The lease, or None where somebody else was faster or holds it.
    """
    _leases(folder).mkdir(parents=True, exist_ok=True)
    numbers = _numbers(folder)
    top = max(numbers, default=0)
    if top and numbers[top] is not None and (over is None or over.number != top):
        return None
    lease = Lease(folder, top + 1)
    try:
        lease.path.mkdir()
    except FileExistsError:
        return None
    if max(_numbers(folder)) != lease.number or lease.path.with_suffix(".free").exists():
        lease.path.rmdir()  # the number was used while we looked
        return None
    part = lease.stage("owner.part")
    part.write_text(json.dumps(me()) + "\n")
    part.replace(lease.stage("owner.json"))
    _push_aside(folder, lease.number)
    return lease


class Watch:
    """Remembers the beats of holders, to know which have fallen silent."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._seen: dict[Path, tuple[int | None, float]] = {}

    def take(self, folder: Path) -> Lease | Holder:
        """Take the lease of a folder if that is right by now; else return who holds it."""
        now = holder(folder)
        if now is None:
            taken = try_take(folder)
        elif now.is_dead() or now.is_earlier_life() or self.is_silent(now):
            taken = try_take(folder, over=now)
        else:
            return now
        return taken or holder(folder) or now or Holder(0, folder, {})

    def is_silent(self, of: Holder) -> bool:
        """Whether its beat has not changed for `seconds`, as far as this watch has seen."""
        beat, at = of.beat(), time.monotonic()
        known, since = self._seen.get(of.path, (None, at))
        if beat is None or beat != known:
            self._seen[of.path] = (beat, at)
            return False
        return at - since > self.seconds


def me() -> dict[str, Any]:
    """Who this process is: host, process, job."""
    return {
        "host": os.environ.get("SLURMD_NODENAME") or os.uname().nodename,
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "machine": _machine(),
        "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
        "restart_count": int(os.environ.get("SLURM_RESTART_COUNT", "0")),
    }


def _link(staged: Path, place: Path) -> None:
    """Give a file its place unless that is taken."""
    try:
        os.link(staged, place)
    except OSError as e:
        if e.errno not in (errno.EXDEV, errno.EPERM, errno.ENOTSUP):
            raise
        near = place.with_name(f"{place.name}.{os.getpid()}.part")  # links within a folder only
        staged.replace(near)
        try:
            os.link(near, place)
        finally:
            near.unlink()


def _leases(folder: Path) -> Path:
    return folder / "lease"


def _name(number: int) -> str:
    return f"{number:06d}"


def _numbers(folder: Path) -> dict[int, Path | None]:
    """Return numbers in use, each with its folder where it is held."""
    found: dict[int, Path | None] = {}
    try:
        names = os.listdir(_leases(folder))
    except FileNotFoundError:
        return found
    for name in names:
        digits, _, rest = name.partition(".")
        if digits.isdigit() and rest in ("", "free"):
            held = _leases(folder) / name if not rest else None
            found[int(digits)] = held or found.get(int(digits))
    return found


def _push_aside(folder: Path, number: int) -> None:
    """Move away what is lower than a number, held or not."""
    for name in os.listdir(_leases(folder)):
        path = _leases(folder) / name
        if name.partition(".")[0].isdigit() and int(name.partition(".")[0]) < number:
            lost = path.with_name(f"{name}.lost")
            with contextlib.suppress(OSError):  # or a third process does
                path.rename(lost)
            shutil.rmtree(lost, ignore_errors=True)


@cache
def _machine() -> str | None:
    """Name of the running kernel and of the space of process ids; None where it can't be told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _started(pid: int) -> str | None:
    """Start of a process in clock ticks; None where it is gone or a zombie, or can't be told."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return None if fields[0] in "ZX" else fields[19]


def _is_dead(owner: Mapping[str, Any]) -> bool:
    here = _machine()
    if here is None or owner.get("machine") != here or owner.get("started") is None:
        return False
    return _started(owner["pid"]) != owner["started"]
