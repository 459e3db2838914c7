"""Time the launcher's own work: submit, status, collect, and what a cell costs beside a bare sbatch.

Run as root from the checkout, on an idle machine:

    python tests/bench/bench_slurm.py [--quick]

JSON lines on stdout. Sweeps of 100, 1,000 and 10,000 planned cells, with records of 50 curve rows each,
are made on disk without training; a dev cluster is brought up and taken down. Each command is a process
of its own, as a person starts it: `wall` is its seconds, `cpu` those of its user and system time. `load`
is the machine's load average before, because wall-clock seconds of a busy machine say little.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from helpers_cells import write_text
from helpers_cli import ISOFLOP, tiny_grid
from helpers_cluster import Lab
from many_cells import CURVE_ROWS, fail_jobs, make_sweep

from slurm.devcluster.cluster import DevCluster
from slurm.devcluster.down import down
from slurm.devcluster.up import up

SIZES = (100, 1_000, 10_000)


def main() -> None:
    """Run every measurement and print one line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="100 and 1,000 cells, two repeats")
    quick = parser.parse_args().quick
    sizes, repeats = (SIZES[:2], 2) if quick else (SIZES, 5)
    emit("machine", cpus=os.cpu_count(), machine=platform.machine(), python=platform.python_version(),
         curve_rows=CURVE_ROWS)  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for n in sizes:
            make_sweep(root, n, n, f"done{n}")
            status_and_collect(root, n, repeats)
            status_of_failed(root, n, repeats)
        with dev_cluster() as cluster:
            lab = Lab(cluster, root)
            text = write_text(root / "text")
            for n in sizes:
                submit(lab, text, n)
                timed(
                    "launch_again", n, 1, "launch", *_words(lab, text, n, f"queued{n}"), env=lab.env
                )
                status_in_queue(lab, n, repeats)
            overhead(lab, text, 40 if quick else 200)


def status_and_collect(root: Path, n: int, repeats: int) -> None:
    """All cells have a record."""
    words = (f"root={root}", f"sweep=done{n}")
    timed("status", n, repeats, "status", *words)
    timed("collect", n, min(repeats, 3), "collect", *words)


def status_of_failed(root: Path, n: int, repeats: int) -> None:
    """No cell has a record, and each has a job that failed and wrote two logs."""
    folder = make_sweep(root, n, 0, f"failed{n}")
    job_id = fail_jobs(folder, n, root / f"bin{n}")
    for i in range(n):
        for stream in ("out", "err"):
            (folder.path / "logs" / f"{job_id}_{i}_0_log.{stream}").write_text("it broke\n")
    env = {**os.environ, "PATH": f"{root / f'bin{n}'}:{os.environ['PATH']}"}
    timed("status_failed", n, repeats, "status", f"root={root}", f"sweep=failed{n}", env=env)


def submit(lab: Lab, text: Path, n: int) -> None:
    """From the command to ids in the ledger; a quarter of the cells for each of four budgets."""
    words = _words(lab, text, n, f"queued{n}")
    lab.isoflop(
        "prepare", *[w for w in words if not w.startswith(("cluster", "launch", "hardware"))]
    )
    # Held back: what is timed is the launcher, not the training of cells beside it.
    lab.ask("scontrol", "update", "partitionname=main", "state=down")
    wall, cpu = run(lab.env, "launch", *words)
    emit("launch", cells=n, wall=[wall], cpu=[cpu])


def status_in_queue(lab: Lab, n: int, repeats: int) -> None:
    """All cells wait in the queue: one squeue and one sacct, counted."""
    words = (f"root={lab.root}", f"sweep=queued{n}")
    timed("status_in_queue", n, repeats, "status", *words, env=lab.env)
    emit("calls", cells=n, **count_calls(lab, *words))
    lab.clear()
    lab.ask("scontrol", "update", "partitionname=main", "state=up")


def count_calls(lab: Lab, *words: str) -> dict[str, int]:
    """How often status calls squeue, sacct and scontrol."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("squeue", "sacct", "scontrol"):
            script = Path(folder) / name
            script.write_text(
                f'#!/bin/sh\necho {name} >> {folder}/calls\nexec /usr/bin/{name} "$@"\n'
            )
            script.chmod(0o755)
        run({**lab.env, "PATH": f"{folder}:{lab.env['PATH']}"}, "status", *words)
        calls = (Path(folder) / "calls").read_text().split()
    return {name: calls.count(name) for name in ("squeue", "sacct", "scontrol")}


def overhead(lab: Lab, text: Path, n: int) -> None:
    """From launch to an empty queue, for cells of a few steps, against `python -c 'import torch'`.

    Both are arrays of n tasks with one GPU and one core each; what differs is the launcher's work and
    the training itself, whose seconds the records hold.
    """
    python = Path(sys.executable)
    began = time.monotonic()
    lab.ask("sbatch", f"--array=0-{n - 1}", "--gres=gpu:1", "--mem=900M", "--output=/dev/null",
            f"--wrap={python} -c 'import torch'")  # fmt: skip
    lab.wait_until_idle(3600)
    bare = time.monotonic() - began
    words = _words(lab, text, n, "overhead")
    began = time.monotonic()
    run(lab.env, "launch", *words)
    lab.wait_until_idle(3600)
    ours = time.monotonic() - began
    emit("overhead", cells=n, bare_seconds=bare, isoflop_seconds=ours, per_cell=(ours - bare) / n,
         ratio=ours / bare)  # fmt: skip


def _words(lab: Lab, text: Path, n: int, sweep: str) -> list[str]:
    grid = dict(w.split("=", 1) for w in tiny_grid(lab.root, text, sweep=sweep))
    grid |= {"grid.budgets": "[2e8,4e8]", "grid.probe": "false"}
    of_seed = _cells_of(lab, text, grid)
    seeds = -(-n // of_seed)
    grid |= {"grid.seeds": f"[{','.join(map(str, range(seeds)))}]", "cluster": "slurm",
             "cluster.gpus": "1", "launch.canary": "false", "launch.finish": "false"}  # fmt: skip
    return [f"{k}={v}" for k, v in grid.items()]


def _cells_of(lab: Lab, text: Path, grid: dict[str, str]) -> int:
    done = lab.isoflop("plan", *(f"{k}={v}" for k, v in grid.items()), "plan.format=json")
    return json.loads(done.stdout[done.stdout.index("{") :])["totals"]["cells"]


def timed(name: str, n: int, repeats: int, verb: str, *words: str, env=None) -> None:
    """Run a command again and again; print every time and the median."""
    load = os.getloadavg()[0]
    times = [run(env or dict(os.environ), verb, *words) for _ in range(repeats)]
    walls, cpus = zip(*times, strict=True)
    emit(name, cells=n, wall=walls, cpu=cpus, median_wall=statistics.median(walls),
         median_cpu=statistics.median(cpus), load=load)  # fmt: skip


def run(env: dict[str, str], verb: str, *words: str) -> tuple[float, float]:
    """Run a command; returns its wall-clock and its CPU seconds."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run([ISOFLOP, verb, *words], env=env, capture_output=True, text=True)
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in (0, 1):
        raise SystemExit(f"{verb} failed: {done.stderr}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@contextmanager
def dev_cluster():
    """Bring up a cluster of the benchmark's own."""
    cluster = DevCluster(root=Path("/tmp/isoflop-bench"), port=20810, prefix="b")
    up(cluster, lambda line: None)
    try:
        yield cluster
    finally:
        down(cluster, lambda line: None)


def emit(name: str, **values: object) -> None:
    """Print one line."""
    print(json.dumps({"bench": name, **values}), flush=True)


if __name__ == "__main__":
    main()
