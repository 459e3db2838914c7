"""A soak: 200 small cells that train, checkpoint and resume, and a random fault every few seconds.

The cells are four branches on each of 50 trunks, so that every task has what it shares to lose.
Seeded, so that a failure can be tried again: ISOFLOP_SOAK_SEED=7. Ends when every cell has finished;
then each has exactly one finished record, and the loss of the undisturbed sweep.
"""

import json
import os
import random
import subprocess
import time
from collections import Counter

import pytest
from helpers_cells import write_text
from helpers_cli import tiny_grid
from helpers_cluster import Lab

from results.store import read_records
from slurm.devcluster.up import client

pytestmark = pytest.mark.slow

CELLS, LONGEST = 200, 3600.0  # seconds
SIZES = "[{n_layer:1,d_model:8,n_head:1},{n_layer:1,d_model:12,n_head:1}]"


class Faults:
    """Every kind of fault, on whatever runs at the moment; False where nothing was there to hurt."""

    def __init__(self, lab: Lab, sweep: str, dice: random.Random) -> None:
        self.lab, self.sweep, self.dice, self.done = lab, sweep, dice, Counter()

    def one(self) -> None:
        """Draw a fault and inflict it."""
        kinds = {self.kill: 6, self.cancel_a_task: 2, self.preempt: 4, self.requeue: 2, self.stepd: 2,
                 self.node_daemon: 1, self.node_down: 1, self.controller: 1}  # fmt: skip
        fault = self.dice.choices(list(kinds), list(kinds.values()))[0]
        running = list(self.lab.running(self.sweep).values())
        try:
            if running and fault(self.dice.choice(running)) is not False:
                self.done[fault.__name__] += 1
        except (AssertionError, ProcessLookupError, StopIteration, subprocess.TimeoutExpired):
            pass  # what it aimed at ended meanwhile

    def kill(self, status) -> None:
        self.lab.kill_process(status)

    def cancel_a_task(self, status) -> None:
        self.lab.ask("scancel", self.lab.job_of(status))

    def requeue(self, status) -> None:
        self.lab.ask("scontrol", "requeue", self.lab.job_of(status))

    def stepd(self, status) -> None:
        step = self.dice.choice(["batch", "0"])
        os.kill(self.lab.step_daemon(status, step).pid, 9)

    def preempt(self, status) -> None:
        node = self.lab.node_of(status)
        self.lab.ask("sbatch", "--partition=main", f"--nodelist={node}", "--output=/dev/null",
                     f"--gres=gpu:{self.lab.cluster.gpus}", "--wrap=sleep 3")  # fmt: skip

    def node_daemon(self, status) -> None:
        self.lab.kill_node_daemon(self.lab.node_of(status))

    def node_down(self, status) -> None:
        node = self.lab.node_of(status)
        self.lab.ask("scontrol", "update", f"nodename={node}", "state=down", "reason=soak")

    def controller(self, status) -> None:
        self.lab.kill_controller()


def test_soak(lab, tmp_path):
    seed = int(os.environ.get("ISOFLOP_SOAK_SEED", "1"))
    text = write_text(tmp_path / "text")
    right = _undisturbed(lab, text)
    faults = Faults(lab, "soak", random.Random(seed))
    began, launches = time.monotonic(), 0
    while True:
        if not lab.queue():
            if _finished(lab) == CELLS:
                break
            done = lab.isoflop("launch", *_words(lab, text, "soak", "cluster.partition=preempt"))
            assert done.returncode == 0, done.stdout + done.stderr
            launches += 1
        assert time.monotonic() - began < LONGEST, lab.status("soak")
        time.sleep(faults.dice.uniform(2, 5))
        faults.one()
        _mend(lab)
    seconds = time.monotonic() - began
    lab.check("soak", right)
    records = read_records(lab.folder("soak").records)
    figures = {
        "seed": seed,
        "cells": CELLS,
        "seconds": round(seconds),
        "faults": sum(faults.done.values()),
        "by_kind": dict(faults.done),
        "launches": launches,
        "resumed_cells": int((records["restarts"] > 0).sum()),
        "resumes": int(records["restarts"].sum()),
        "failed_records": int((records["status"] == "failed").sum()),
        "load": os.getloadavg()[1],
    }
    print(json.dumps(figures))
    (lab.root / "soak.json").write_text(json.dumps(figures))


def _words(lab: Lab, text, sweep: str, *more: str) -> list[str]:
    seeds = ",".join(map(str, range(CELLS // 8)))
    grid = tiny_grid(lab.root, text, budgets="[1e9,1.5e9,2.2e9,3e9]", sweep=sweep, model__ladder=SIZES, grid__probe="false",
                     grid__window=30, grid__tokens_per_param=150, grid__tokens_per_param_range="[1,2000]",
                     grid__seeds=f"[{seeds}]", recipe__schedule="wsd", grid__trunks="true", run__checkpoint_seconds=1, run__lease_seconds=15,
                     launch__finish="false")  # fmt: skip
    if not more:
        return grid
    return [*grid, "cluster=slurm", "cluster.gpus=1", "launch.canary=false", "hardware=cpu", *more]


def _undisturbed(lab: Lab, text) -> dict[str, float]:
    done = lab.isoflop("launch", *_words(lab, text, "calm"))
    assert done.returncode == 0, done.stdout + done.stderr
    right = lab.losses("calm")
    assert len(right) == CELLS
    return right


def _finished(lab: Lab) -> int:
    records = lab.folder("soak").records
    return len(lab.losses("soak")) if records.is_dir() and any(records.glob("*.parquet")) else 0


def _mend(lab: Lab) -> None:
    """Do what an administrator does now and then, and what status tells its reader to."""
    try:
        lab.mend()
        for line in lab.queue():
            if "held" in line.lower():
                client(lab.cluster, "scontrol", "release", line.split()[0])
    except subprocess.TimeoutExpired:
        pass  # the controller comes back
