"""Five faults of ordinary days on the smoke grid: nothing is lost, trained twice, or changed."""

import os
import signal
import time

from sweep.submissions import read_submissions


def test_a_killed_process_a_preemption_and_a_cancelled_cell(lab, right):
    """Three faults in one sweep: kill -9 of a process, a preemption, scancel of a task."""
    sweep = "hurt"
    lab.launch(sweep, "cluster.partition=preempt")
    killed, first = lab.hold(sweep)
    cancelled, second = lab.hold(sweep, but=[killed])
    preempted, third = lab.hold(sweep, but=[killed, cancelled])
    lab.kill_process(first)
    lab.ask("scancel", lab.job_of(second))
    # also: SLURM queues a job again that it preempts while it ends, though somebody cancelled it
    lab.hold_until_gone(second)
    lab.take_room_of(third)
    lab.wait_until_idle()
    said = lab.wait_to_be_told(sweep, "was cancelled")
    assert cancelled not in lab.losses(sweep)
    assert f"{cancelled} (failed)" in said
    assert {c: lab.losses(sweep)[c] for c in (killed, preempted)} == {
        c: right[c] for c in (killed, preempted)
    }
    lab.launch(sweep)
    lab.wait_until_idle()
    lab.check(sweep, right)
    assert "lost with exit status 137: queued again" in lab.logs(sweep)
    assert "saved; queued again" in lab.logs(sweep)


def test_a_launcher_killed_before_sbatch_and_two_launchers_at_once(lab, right, tmp_path):
    """A launcher is stopped inside sbatch; two that come after it submit every cell once."""
    sweep = "fought-over"
    stuck = tmp_path / "sbatch"
    stuck.write_text("#!/bin/sh\nexec sleep 600\n")
    stuck.chmod(0o755)
    first = lab.start(sweep, PATH=f"{tmp_path}:{os.environ['PATH']}")
    frozen = lab.wait_for("the ledger", lambda: read_submissions(lab.folder(sweep)))
    time.sleep(0.5)  # into sbatch
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert [s.state for s in frozen] == ["frozen"]
    assert "ended before sbatch" in lab.status(sweep)
    two = [lab.start(sweep), lab.start(sweep)]
    said = [p.communicate(timeout=240)[0] for p in two]
    assert [p.returncode for p in two] == [0, 0], said
    lab.wait_until_idle()
    ledger = read_submissions(lab.folder(sweep))
    assert sorted(s.state for s in ledger) == ["refused", "submitted"]
    lab.check(sweep, right)
