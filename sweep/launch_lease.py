"""One launcher of a sweep at a time freezes plans and submits, on whatever machine it is."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from slurm.lease import Holder, Lease, Watch
from sweep.errors import UsageError
from sweep.folder import SweepFolder

SECONDS = 20.0  # of silence after which a launcher is taken for dead
_PATIENCE = 300.0


@contextlib.contextmanager
def launch_lease(folder: SweepFolder, say: Callable[[str], None]) -> Iterator[Lease]:
    """Hold the right to plan and submit; waits for another launcher, which takes seconds.

    Raises:
        UsageError: another launcher is at it for minutes, or the folder can't be written.
    """
    place, watch, told = folder.path / "launch", Watch(SECONDS), False
    give_up = time.monotonic() + _PATIENCE
    while isinstance(held := _take(watch, place), Holder):
        if not told:
            say(f"sweep={folder.name} is being launched by {held.in_words()}: waiting for it.")
            told = True
        if time.monotonic() > give_up:
            raise UsageError(
                f"sweep={folder.name} is being launched by {held.in_words()} for minutes: "
                "see what it does there, or launch under another name with sweep=NAME"
            )
        time.sleep(0.2)
    held.keep(SECONDS, lambda: None)
    try:
        yield held
    finally:
        held.release()


def _take(watch: Watch, place: Path) -> Lease | Holder:
    try:
        return watch.take(place)
    except OSError as e:
        raise UsageError(
            f"can't write {place} ({e.strerror}): ask whose it is for the right"
        ) from None
