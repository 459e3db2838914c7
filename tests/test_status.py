"""status, logs and cancel on sweeps without SLURM."""

import json
import shlex
import signal
import time
from dataclasses import replace

import pytest
from helpers_cli import isoflop, start, tiny_grid
from many_cells import make_sweep

from slurm.queue import JobState
from sweep.cell_state import State
from sweep.explain import Commands
from sweep.folder import SweepFolder
from sweep.status import left_over, read_status

COMMANDS = Commands("isoflop launch", "isoflop cancel", "isoflop logs")


def where(root, name="tiny"):
    return [f"root={root}", f"sweep={name}"]


def test_a_sweep_that_was_never_launched_is_said_to_be_so(tmp_path):
    done = isoflop("status", *where(tmp_path))
    assert done.returncode == 2
    assert "launch it first" in done.stderr


def test_states_are_those_of_the_records_whatever_a_status_says(tmp_path):
    folder = make_sweep(tmp_path, 6, 4)
    cells = [c.plan.cell_id for c in read_status(folder, COMMANDS).facts.cells]
    # Killed between its record and its status: the record counts.
    status = folder.cell(cells[0]) / "0" / "status.json"
    status.write_text(json.dumps({"state": "running", "step": 3, "steps": 24}))
    (folder.cell(cells[1]) / "0" / "status.json").unlink()
    found = read_status(folder, COMMANDS)
    assert [c.state for c in found.cells] == [State.FINISHED] * 4 + [State.PLANNED] * 2
    assert not found.bad


def test_a_record_that_cannot_be_read_is_no_traceback(tmp_path):
    folder = make_sweep(tmp_path, 2, 2)
    first = read_status(folder, COMMANDS).cells[0].cell_id
    (folder.cell(first) / "0" / "status.json").unlink()
    (folder.records / f"{first}.0.parquet").write_bytes(b"cut off")
    state = read_status(folder, COMMANDS).cells[0]
    assert state.state is State.FAILED
    assert "can't be read" in state.explanation.why


def test_cells_that_wait_for_the_same_reason_are_said_together(tmp_path, command):
    folder = make_sweep(tmp_path, 30, 0)
    for cell in read_status(folder, COMMANDS).facts.cells:
        path = folder.cell(cell.plan.cell_id) / "0"
        path.mkdir(parents=True)
        (path / "status.json").write_text(json.dumps({"state": "stopped", "step": 3, "steps": 24}))
    code, out, _ = command("status", *where(tmp_path, "many"))
    assert out.count("it was stopped at step 3") == 3
    assert "and 27 more cells for the same reason" in out
    assert code == 1


def test_jobs_that_are_held_after_their_cells_ended_are_named(tmp_path):
    status = read_status(make_sweep(tmp_path, 3, 2), COMMANDS)
    job = JobState("12", 0, "cells", "PENDING", reason="launch failed requeued held", active=True)
    jobs = (job, replace(job, index=1, state="RUNNING", reason=None), replace(job, index=2))
    cells = [replace(f, job=j) for f, j in zip(status.facts.cells, jobs, strict=True)]
    found = replace(status, facts=replace(status.facts, cells=cells))
    assert left_over(found, COMMANDS)[1:] == ["    scancel 12_0"]
    assert left_over(status, COMMANDS) == []


@pytest.mark.slow
def test_a_launch_that_is_cancelled_saves_and_goes_on_where_it_was(tmp_path, text_folder):
    """Cancel, logs and status of a launch on this machine, then the rest of it."""
    words = tiny_grid(
        tmp_path,
        text_folder,
        budgets="[4e9]",
        grid__seeds="[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15]",
    )
    launch = start("launch", *words, "launch.finish=false")
    try:
        cells = SweepFolder(tmp_path, "tiny").path / "cells"
        end = time.monotonic() + 120
        while not any(json.loads(p.read_text())["step"] for p in cells.glob("*/*/status.json")):
            assert launch.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
        assert "running" in isoflop("status", *where(tmp_path)).stdout
        done = isoflop("cancel", *where(tmp_path))
        assert done.returncode == 0, done.stderr
        assert "to save and stop" in done.stdout
        assert launch.wait(60) in (-signal.SIGTERM, 130)
    finally:
        launch.kill()
    end = time.monotonic() + 60
    while "stopped at step" not in (said := isoflop("status", *where(tmp_path)).stdout):
        assert time.monotonic() < end, said
        time.sleep(0.5)
    cell_id = said.split("stopped at step")[0].splitlines()[-1].split()[0]
    logs = isoflop("logs", *where(tmp_path), f"cell={cell_id}")
    assert logs.returncode == 0, logs.stderr
    assert "goes on from there" in logs.stdout
    assert "Nothing of sweep=tiny" in isoflop("cancel", *where(tmp_path)).stdout
    again = next(line for line in said.splitlines() if line.startswith("Go on: "))
    assert shlex.split(again.removeprefix("Go on: "))[:2] == ["isoflop", "launch"]


def test_a_cell_without_a_job_cannot_be_cancelled(tmp_path):
    folder = make_sweep(tmp_path, 2, 1)
    cell_id = read_status(folder, COMMANDS).cells[1].cell_id
    done = isoflop("cancel", *where(tmp_path, "many"), f"cell={cell_id}")
    assert done.returncode == 2
    assert "no job in the queue" in done.stderr
