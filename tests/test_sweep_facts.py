"""What status knows of each cell, with a SLURM that says what the test wants."""

import os

import pytest
from many_cells import fail_jobs, make_sweep

from sweep.sweep_facts import read_facts

N = 30


@pytest.fixture
def failed(tmp_path, monkeypatch):
    """Return a sweep whose jobs failed, all without a record."""
    folder = make_sweep(tmp_path, N, 0)
    fail_jobs(folder, N, tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
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
