"""What status knows of each cell, with a SLURM that says what the test wants."""

import os

import pytest
from many_cells import make_sweep

from sweep.folder import read_plan
from sweep.submissions import new_submission, submitted
from sweep.sweep_facts import read_facts

N = 30


@pytest.fixture
def failed(tmp_path, monkeypatch):
    """Return a sweep whose jobs failed, all without a record."""
    folder = make_sweep(tmp_path, N, 0)
    cells = [p.cell.id for p in read_plan(folder)]
    array = new_submission(folder, "cells", code="abc", tasks=tuple((c,) for c in cells))
    submitted(folder, array, "7")
    rows = "".join(
        f"7_{i}|FAILED|None|n1|10|10|100|110|120|9:0|0:0|main|{array.job_name}\n" for i in range(N)
    )
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, text in (("squeue", ""), ("sacct", rows)):
        (commands / f"{name}.txt").write_text(text)
        (commands / name).write_text(f"#!/bin/sh\nexec cat {commands / name}.txt\n")
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    (folder.path / "logs").mkdir(exist_ok=True)
    return folder


def test_a_log_that_speaks_of_memory_is_its_own_job_s_alone(failed):
    logs = failed.path / "logs"
    for i in range(N):
        (logs / f"7_{i}_0_log.err").write_text("Traceback ...\n")
    (logs / "7_1_3_log.err").write_text("slurmstepd: error: Exceeded job memory limit\n")  # rank 3
    (logs / "7_20_0_log.err").write_text("x" * 9000 + "\nDetected 1 oom-kill event(s)\n")
    (logs / "7_21_0_log.err").write_text("out of memory\n" + "x" * 9000)  # long before its end
    (logs / "8_2_0_log.err").write_text("out of memory\n")  # of another job
    (logs / "7_2_again").write_text("out of memory\n")
    facts = read_facts(failed)
    short = [i for i, cell in enumerate(facts.cells) if cell.job.out_of_memory]
    assert short == [1, 20]


def test_logs_are_listed_once_however_many_jobs_failed(failed, monkeypatch):
    """Each looked for its own: a status of 2,000 such cells took a quarter of a minute."""
    listed, plain = [], os.listdir
    looked, scandir = [], os.scandir
    monkeypatch.setattr(os, "listdir", lambda path: listed.append(str(path)) or plain(path))
    monkeypatch.setattr(os, "scandir", lambda path: looked.append(str(path)) or scandir(path))
    read_facts(failed)
    assert [*listed, *looked].count(str(failed.path / "logs")) == 1
