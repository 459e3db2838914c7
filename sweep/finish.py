"""The end of a sweep: collect, fit, report, and tell whoever wants to know.

`python -P -m sweep.finish SUBMISSION.json` runs when all arrays of a launch have ended, however they
did: whether the sweep is complete is read from its own files.
"""

import shlex
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from results.store import StoreError, terminal_cells
from slurm.submit import SAID_WHY
from sweep.errors import UsageError
from sweep.folder import SweepFolder, read_plan
from sweep.frozen import open_submission


@dataclass(frozen=True)
class Tally:
    """What became of a sweep."""

    finished: int
    diverged: int
    planned: int

    @property
    def state(self) -> str:
        """complete: every cell has a result; else incomplete."""
        done = self.finished + self.diverged
        return "complete" if done == self.planned else "incomplete"


def main() -> int:
    """Run the last stage; returns its exit status."""
    folder, submission, _ = open_submission(Path(sys.argv[1]))
    return 0 if finish(folder, submission.settings.get("notify")) else SAID_WHY


def finish(folder: SweepFolder, notify: str | None) -> bool:
    """Collect, fit and report what there is; a part that fails leaves the others.

    Returns:
        Whether every planned cell has a result and all parts worked.
    """
    tally = tally_of(folder)
    print(f"{folder.name} is {tally.state}: {tally.finished} of {tally.planned} cells", flush=True)
    worked = [_isoflop(verb, folder) for verb in ("collect", "fit", "report")]
    if notify:
        worked.append(tell(notify, folder, tally))
    return all(worked) and tally.state == "complete"


def tally_of(folder: SweepFolder) -> Tally:
    """Count planned cells and results, from files alone."""
    plan = [p.cell.id for p in read_plan(folder)]
    try:
        counts = Counter(terminal_cells(folder.records, plan).values())
    except StoreError as e:
        raise UsageError(str(e)) from None
    return Tally(counts["finished"], counts["diverged"] + counts["stopped"], len(plan))


def tell(template: str, folder: SweepFolder, tally: Tally) -> bool:
    """Run the notification command; every field is quoted for the shell."""
    values = {
        "sweep": folder.name,
        "state": tally.state,
        "finished": tally.finished,
        "planned": tally.planned,
        "folder": folder.path,
    }
    command = template.format(**{k: shlex.quote(str(v)) for k, v in values.items()})
    try:
        done = subprocess.run(["bash", "-c", command], timeout=120)
    except subprocess.TimeoutExpired:
        print(f"launch.notify took over two minutes: {command}", flush=True)
        return False
    if done.returncode:
        print(f"launch.notify ended with {done.returncode}: {command}", flush=True)
    return done.returncode == 0


def _isoflop(verb: str, folder: SweepFolder) -> bool:
    """Run a verb on the sweep, from the same code as this."""
    words = [f"root={folder.root}", f"sweep={folder.name}"]
    return subprocess.run([sys.executable, "-P", "-m", "sweep.cli", verb, *words]).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
