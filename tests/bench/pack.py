"""What it costs to give each small cell a job of its own: N tasks of one cell beside one of all of them.

    python tests/bench/pack.py [at_once]

The tasks are those that SLURM would start (sweep/job.py), on the cells of grid=smoke, `at_once` at a time;
what SLURM itself takes to start a job is not in it. Prints wall-clock and CPU seconds of both, and of the
training in them (the records' `train_seconds`).
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from results.store import read_records
from sweep.arguments import parse
from sweep.data import prepare_data
from sweep.folder import SweepFolder, freeze_plan
from sweep.frozen import Frozen
from sweep.resolve import Resolved, hardware_settings, resolve, run_settings
from sweep.submissions import new_submission, write_submission
from sweep.verbs import VERBS

ROOT = Path(__file__).resolve().parent.parent.parent


def start(path: Path, index: int) -> subprocess.Popen:
    env = {**os.environ, "SLURM_JOB_ID": "1", "SLURM_ARRAY_TASK_ID": str(index), "OMP_NUM_THREADS": "1",
           "PYTHONPATH": str(ROOT)}  # fmt: skip
    return subprocess.Popen([sys.executable, "-P", "-m", "sweep.job", str(path)], env=env,
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip


def train(root: Path, name: str, at_once: int, packed: bool) -> None:
    words = ["grid=smoke", f"root={root}", f"sweep={name}", "hardware.device=cpu"]
    app = parse("launch", words, VERBS["launch"].reads).app
    resolved: Resolved = resolve(app)
    folder: SweepFolder = resolved.folder
    folder.make()
    (folder.path / "logs").mkdir()
    shards = prepare_data(resolved.data, folder.data_cache, lambda line: None)
    plan = sorted(freeze_plan(folder, resolved.planned), key=lambda p: -p.cell.flops)
    ids = tuple(p.cell.id for p in plan)
    settings = Frozen(
        shards, None, replace(hardware_settings(app.hardware)), run_settings(app.run), 0, 0
    )
    more = {"at_once": at_once} if packed else {}
    tasks = (ids,) if packed else tuple((i,) for i in ids)
    one = new_submission(folder, "cells", code="here", tasks=tasks,
                         settings={**settings.to_dict(), **more})  # fmt: skip
    path = write_submission(folder, one)
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    waiting, running = list(range(len(tasks))), []
    while waiting or running:
        while waiting and len(running) < (1 if packed else at_once):
            running.append(start(path, waiting.pop(0)))
        running = [r for r in running if r.poll() is None]
        time.sleep(0.05)
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    rows = read_records(folder.records)
    assert sorted(rows.loc[rows["status"] == "finished", "cell_id"]) == sorted(ids)
    print(f"{name}: {len(tasks)} tasks, {wall:.1f} s, {cpu:.1f} s of CPU, of which training took "
          f"{rows['train_seconds'].sum():.1f} s of wall clock", flush=True)  # fmt: skip


if __name__ == "__main__":
    together = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    with tempfile.TemporaryDirectory() as place:
        for turn in range(2):
            train(Path(place), f"apart-{turn}", together, packed=False)
            train(Path(place), f"packed-{turn}", together, packed=True)
