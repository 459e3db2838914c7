"""A task of an array without SLURM around it: its environment is set, scontrol answers or is not there."""

import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from helpers_cells import CPU, RUN, data_settings, tiny_cell
from helpers_cli import environment

from results.provenance import CHECKOUT
from results.record import Record
from results.store import read_records, write_record
from slurm.preempt import Notice, exclude_nodes
from slurm.submit import SAID_WHY
from sweep.bad_devices import bad_nodes
from sweep.cells import cell_to_row
from sweep.claim import read_status
from sweep.folder import PlannedCell, SweepFolder, freeze_plan
from sweep.frozen import Frozen
from sweep.job import LOST, _Task, main
from sweep.submissions import new_submission, submitted, write_submission

NOWHERE = "/nowhere"  # a PATH without scontrol, as in a container
CELL = tiny_cell(steps=800)


@pytest.fixture
def job(tmp_path, shards, text_folder, monkeypatch):
    """Return a submission of one cell, and ways to run its task."""
    folder = SweepFolder(tmp_path, "s")
    folder.make()
    (planned,) = freeze_plan(folder, [PlannedCell(CELL, data_settings(text_folder))])
    run = replace(RUN, lease_seconds=15.0, evaluations=0)
    frozen = Frozen(shards, None, CPU, run, max_requeues=3, retries=2)
    one = new_submission(folder, "cells", code="c", tasks=((CELL.id,),), settings=frozen.to_dict())
    path = write_submission(folder, submitted(folder, one, "7"))
    (folder.path / "logs").mkdir()
    slurm = {"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "0",
             "SLURMD_NODENAME": "n3", "PATH": NOWHERE}  # fmt: skip
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["job", str(path)])
    argv = [sys.executable, "-P", "-m", "sweep.job", str(path)]
    env = environment(PYTHONPATH=str(CHECKOUT))

    def start() -> subprocess.Popen:
        return subprocess.Popen(
            argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def task(**hardware) -> _Task:
        asked = replace(frozen, hardware=replace(CPU, **hardware))
        return _Task(folder, planned, asked, Notice())

    return SimpleNamespace(folder=folder, start=start, task=task)


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """Put an scontrol on the path that takes note of what it is asked; returns that file."""
    tool, asked = tmp_path / "bin" / "scontrol", tmp_path / "asked"
    tool.parent.mkdir()
    tool.write_text(
        f'#!/bin/sh\necho "$@" >>"{asked}"\n'
        'case "$4" in 8) echo "JobId=8 ExcNodeList=(null)";; *) echo "JobId=7 ExcNodeList=n9";; esac\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:/bin:/usr/bin")
    return asked


def last_status(folder: SweepFolder) -> dict:
    return read_status(folder.cell(CELL.id) / "0")


@pytest.mark.slow
def test_without_scontrol_a_task_saves_leaves_a_wish_and_goes_on_in_its_next_life(job, capsys):
    life = job.start()
    end = time.monotonic() + 120
    while last_status(job.folder).get("state") != "running":
        assert life.poll() is None, life.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)
    life.send_signal(signal.SIGUSR2)
    out, _ = life.communicate(timeout=120)
    assert life.returncode == 0, out
    assert "SIGUSR2: saved; there is no scontrol here" in out
    assert last_status(job.folder)["state"] == "stopped"
    assert (job.folder.path / "logs" / "7_0_again").exists()
    assert job.task().run() == 0  # the next life
    assert f"{CELL.id} finished, loss" in capsys.readouterr().out
    assert read_records(job.folder.records)["restarts"].tolist() == [1]


def failed(reason: str, attempt: int = 0):
    return Record(**cell_to_row(CELL), sweep="s", attempt=attempt, unique_tokens=1, epochs=1.0,
                  status="failed", reason=reason, micro_batch=6, slurm_job_id="7")  # fmt: skip


def test_a_cell_that_is_done_is_left_alone(job, capsys):
    write_record(replace(failed("x"), status="diverged", reason="loss is nan"), job.folder.records)
    assert main() == 0
    assert f"{CELL.id} is diverged already" in capsys.readouterr().out
    assert not job.folder.cell(CELL.id).exists()


@pytest.mark.parametrize(
    ("error", "code", "bad"),
    [
        (OSError(116, "Stale file handle"), LOST, []),
        (
            RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable"),
            LOST,
            ["n3"],
        ),
        (ValueError("no such size"), SAID_WHY, []),
    ],
)
def test_a_failure_before_training_is_left_to_another_life_where_it_may_pass(
    job, monkeypatch, error, code, bad
):
    def fails(*args, **kwargs):
        raise error

    monkeypatch.setattr("sweep.data.open_data", fails)
    for _ in range(2):
        assert job.task().run() == code
    assert str(error) in last_status(job.folder)["reason"]
    assert not job.folder.records.exists()
    assert bad_nodes(job.folder) == bad


@pytest.mark.parametrize(
    ("reason", "again"),
    [
        ("DistBackendError: NCCL error", True),
        ("OutOfMemoryError: CUDA out of memory", True),
        ("ValueError: lr", False),
    ],
)
def test_what_may_pass_is_tried_by_all_ranks_in_a_new_life(job, scontrol, reason, again):
    """The other ranks have left: rank 0 alone would wait for them."""
    record = failed(reason)
    write_record(record, job.folder.records)
    assert job.task(ranks=2)._after(record) == (0 if again else SAID_WHY)
    asked = scontrol.read_text().split("\n") if scontrol.exists() else []
    assert ("requeue 7_0" in asked) is again


def test_nodes_are_added_to_those_that_a_person_excluded(scontrol):
    exclude_nodes(["7", "8"], ["n3", "n4"])
    asked = scontrol.read_text().splitlines()
    assert "update jobid=7 excnodelist=n9,n3,n4" in asked
    assert "update jobid=8 excnodelist=n3,n4" in asked
