"""Cells that share a job: how they are dealt out, what is asked for them, and how a task trains them."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from helpers_cli import environment, tiny_grid

from results.store import read_records
from slurm.mps import shared_gpu
from sweep.arguments import parse
from sweep.cluster import cluster_settings
from sweep.data import prepare_data
from sweep.folder import freeze_plan
from sweep.frozen import Frozen
from sweep.packs import PACK_SECONDS, cells_of, pack_cells
from sweep.resolve import hardware_settings, resolve, run_settings
from sweep.resources import classes, size_cells
from sweep.submissions import new_submission, write_submission
from sweep.trunks import before_it, shared_steps
from sweep.verbs import VERBS

ROOT = Path(__file__).resolve().parent.parent
TRUNKS = {"recipe__schedule": "wsd", "recipe__lr_floor": "null", "grid__trunks": "true"}


class Asked:
    """The tiny grid on SLURM, with some cells' seconds set by hand."""

    def __init__(self, tmp_path, text_folder, **changes) -> None:
        words = [*tiny_grid(tmp_path / "root", text_folder, **changes), "cluster=slurm"]
        self.app = parse("launch", words, VERBS["launch"].reads).app
        self.resolved = resolve(self.app)
        self.hardware = hardware_settings(self.app.hardware)
        self.cluster = cluster_settings(self.app.cluster)
        self.cells = [p.cell for p in self.resolved.planned]

    def packs(self, seconds=None, pack=None, **hardware):
        hardware = replace(self.hardware, device="cpu", **hardware)
        cluster = replace(self.cluster, pack=pack)
        sized = size_cells(self.resolved.planned, self.resolved.rates, hardware, cluster, None,
                           shared_steps(self.cells))  # fmt: skip
        if seconds is not None:
            sized = [replace(s, seconds=x) for s, x in zip(sized, seconds, strict=False)]
        return pack_cells(sized, before_it(self.cells), hardware, cluster, None)


@pytest.fixture
def asked(tmp_path, text_folder):
    return lambda **changes: Asked(tmp_path, text_folder, **changes)


def test_a_cell_has_a_task_of_its_own_unless_it_shares_a_trunk(asked):
    alone = asked(grid__probe="false").packs()
    assert all(len(p.cells) == 1 and p.at_once is None for p in alone)
    trunks = asked(grid__probe="false", **TRUNKS)
    by_trunk = trunks.packs()
    assert len(by_trunk) == len({c.trunk for c in trunks.cells}) < len(trunks.cells)
    for pack in by_trunk:
        cells = [s.planned.cell for s in pack.cells]
        assert len({c.trunk for c in cells}) == 1
        assert [c.steps for c in cells] == sorted(c.steps for c in cells)
        assert pack.at_once == (1 if len(cells) > 1 else None)
        assert pack.seconds == pytest.approx(sum(s.seconds for s in pack.cells))


def test_packed_tasks_are_filled_to_an_hour_and_hold_every_cell_once(asked):
    sweep = asked(grid__probe="true")
    n = len(sweep.cells)
    packs = sweep.packs([PACK_SECONDS / 4] * n, pack=2)
    assert sorted(i for p in packs for i in p.ids) == sorted(c.id for c in sweep.cells)
    assert len(packs) == -(-n // 8)  # eight quarters of an hour in two processes
    assert all(p.seconds <= PACK_SECONDS for p in packs)
    assert all(p.at_once == 2 and p.resources.cpus == 2 for p in packs)
    few = sweep.packs([1.0] * n, pack=64)
    assert [(p.at_once, p.resources.cpus, p.resources.tasks_per_node) for p in few] == [(n, n, 1)]


def test_no_task_waits_for_less_than_its_longest_cell(asked):
    sweep = asked(grid__probe="true")
    seconds = [5 * PACK_SECONDS] + [60.0] * (len(sweep.cells) - 1)
    packs = sweep.packs(seconds, pack=2)
    assert max(p.seconds for p in packs) == 5 * PACK_SECONDS
    assert packs[0].cells[0].seconds == 5 * PACK_SECONDS  # the longest first
    assert 60 * packs[0].resources.minutes > 5 * PACK_SECONDS * sweep.cluster.margin


def test_memory_is_that_of_the_cells_that_run_at_once(asked):
    sweep = asked()
    memory = [sweep.packs(pack=k)[0].resources.memory_mb for k in (1, 2, 5)]
    assert memory == sorted(memory)
    assert memory[0] < memory[2]


def test_on_a_gpu_sharing_is_not_taken_to_win_time(asked):
    sweep = asked()
    cluster = replace(sweep.cluster, pack=4)
    gpu = replace(sweep.hardware, device="cuda", dtype="bfloat16")
    sized = size_cells(sweep.resolved.planned, sweep.resolved.rates, gpu, cluster, None)
    (pack,) = pack_cells(sized, {}, gpu, cluster, None)
    assert (pack.resources.gpus, pack.at_once) == (1, 4)
    assert pack.seconds == pytest.approx(sum(s.seconds for s in sized))


def test_cells_of_a_trunk_stay_together_and_in_order_in_a_pack(asked):
    sweep = asked(**TRUNKS)
    packs = sweep.packs(pack=2)
    assert len(cells_of(packs)) == len(sweep.cells)
    for later, sooner in before_it(sweep.cells).items():
        (pack,) = (p for p in packs if later in p.ids)
        assert pack.ids.index(sooner.id) < pack.ids.index(later)
    assert len(classes(packs)) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"cluster__pack": 0}, "cluster.pack=0 must be at least 1"),
        (
            {"cluster__pack": 2, "hardware__ranks": 2},
            "cluster.pack=2 is for cells that are smaller",
        ),
        ({"cluster__nodes": 2, "hardware__ranks": 2, **TRUNKS}, "cluster.nodes=2 with grid.trunks"),
    ],
)
def test_what_can_not_share_a_job_is_refused(tmp_path, text_folder, command, words, message):
    asked = tiny_grid(tmp_path / "root", text_folder, **words)
    code, _, err = command("launch", *asked, "cluster=slurm", "launch.dry_run=true")
    assert code == 2
    assert message in err
    assert not (tmp_path / "root").exists()


def test_a_launch_here_does_not_read_pack(tmp_path, text_folder, command):
    code, _, err = command("launch", *tiny_grid(tmp_path / "root", text_folder), "cluster.pack=2")
    assert code == 2
    assert "cluster.pack is read by cluster=slurm only" in err


# a task, as SLURM would start it


@pytest.fixture
def task(tmp_path, text_folder):
    """Return a function that starts the task of a submission that holds all cells."""

    def start(at_once=2, **changes) -> tuple[subprocess.Popen, Asked]:
        asked = Asked(tmp_path, text_folder, **changes)
        folder = asked.resolved.folder
        folder.make()
        shards = prepare_data(asked.resolved.data, folder.data_cache, lambda line: None)
        freeze_plan(folder, asked.resolved.planned)
        settings = Frozen(shards, None, replace(asked.hardware, device="cpu"),
                          run_settings(asked.app.run), 3, 1)  # fmt: skip
        (pack,) = asked.packs(pack=at_once)
        one = new_submission(folder, "cells", code="abc", tasks=(pack.ids,),
                             settings={**settings.to_dict(), "at_once": at_once})  # fmt: skip
        path = write_submission(folder, one)
        (folder.path / "logs").mkdir()
        more = {"SLURM_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "0", "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "sweep.job", str(path)], env=environment(**more),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        return process, asked

    return start


def test_a_task_trains_its_queue_and_each_cell_has_its_own_record(task):
    process, asked = task(**TRUNKS)
    said = process.communicate(timeout=240)[0]
    assert process.returncode == 0, said
    rows = read_records(asked.resolved.folder.records)
    assert set(rows["status"]) == {"finished"}
    assert sorted(rows["cell_id"]) == sorted(c.id for c in asked.cells)
    assert set(rows["slurm_job_id"]) == {"7"}
    assert dict(zip(rows["cell_id"], rows["shared_steps"], strict=True)) == shared_steps(
        asked.cells
    )
    assert all(f"{c.id} finished, loss" in said for c in asked.cells)


@pytest.mark.slow
def test_a_task_that_is_told_to_save_and_not_ended_goes_on_to_the_end(task):
    """No scontrol answers here, so nobody takes the job back: it must not stop in the middle."""
    process, asked = task(budgets="[4e9]", grid__probe="false", run__checkpoint_steps=20)
    folder = asked.resolved.folder
    give_up = time.monotonic() + 200
    while not any(_trains(p) for p in folder.path.glob("cells/*/*/status.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < give_up
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGUSR2)
    said = process.communicate(timeout=240)[0]
    assert process.returncode == 0, said
    assert "SIGUSR2: saved" in said
    rows = read_records(folder.records)
    assert set(rows["status"]) == {"finished"}
    assert set(rows["attempt"]) == {0}


def _trains(path: Path) -> bool:
    try:
        status = json.loads(path.read_text())
    except ValueError:
        return False
    return status["state"] == "running" and status["step"] > 0


def test_a_cell_that_fails_leaves_the_others_and_the_task_says_so(task, text_folder):
    process, asked = task(budgets="[2e8]", grid__probe="false", data__val_tokens=4096)
    process.kill()
    process.communicate()
    folder = asked.resolved.folder
    bad = asked.cells[0]
    (folder.cell(bad.id) / "0").mkdir(parents=True, exist_ok=True)
    other = {"data_sha256": "0" * 64}
    (folder.cell(bad.id) / "0" / "env.json").write_text(json.dumps(other))
    (path,) = (folder.path / "submissions").glob("*.json")
    more = {"SLURM_JOB_ID": "8", "SLURM_ARRAY_TASK_ID": "0", "PYTHONPATH": str(ROOT)}
    again = subprocess.run([sys.executable, "-P", "-m", "sweep.job", str(path)], text=True,
                           env=environment(**more), capture_output=True, timeout=240)  # fmt: skip
    assert again.returncode == 3, again.stdout + again.stderr
    assert f"{bad.id} failed" in again.stdout
    done = read_records(folder.records)
    assert set(done["cell_id"]) == {c.id for c in asked.cells} - {bad.id}


# MPS: the service itself needs a GPU; here a stand-in for its control program notes what it is told


def stand_in(folder: Path, code: int = 0) -> Path:
    folder.mkdir()
    program = folder / "nvidia-cuda-mps-control"
    program.write_text(f'#!/bin/sh\necho "$@ $(cat) $CUDA_MPS_PIPE_DIRECTORY" >> {folder}/told\n'
                       f"echo not permitted >&2\nexit {code}\n")  # fmt: skip
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    return folder


def test_a_service_of_our_own_is_started_and_ended(tmp_path, monkeypatch):
    here = stand_in(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{here}:/bin:/usr/bin")
    monkeypatch.delenv("CUDA_MPS_PIPE_DIRECTORY", raising=False)
    with shared_gpu() as (env, found):
        assert Path(env["CUDA_MPS_PIPE_DIRECTORY"]).is_dir()
        assert "started" in found
    first, last = (here / "told").read_text().splitlines()
    assert first.startswith("-d")
    assert "quit" in last
    assert env["CUDA_MPS_PIPE_DIRECTORY"] in first
    assert not Path(env["CUDA_MPS_PIPE_DIRECTORY"]).exists()


def test_without_the_service_processes_take_turns(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_MPS_PIPE_DIRECTORY", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    with shared_gpu() as (env, found):
        assert env == {}
        assert "is not here): processes take turns" in found
    monkeypatch.setenv("PATH", f"{stand_in(tmp_path / 'bin', code=1)}:/bin:/usr/bin")
    with shared_gpu() as (env, found):
        assert env == {}
        assert "not permitted" in found


def test_a_service_of_the_site_is_used_as_it_is(monkeypatch):
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", "/run/mps")
    with shared_gpu() as (env, found):
        assert env == {}
        assert "the site's, at /run/mps" in found
