"""What else happens to a cluster: after each, every cell has one result or a reason, and right losses.

Minutes in all: `make test-cluster`.
"""

import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from helpers_cluster import PATIENCE, Lab, was_told

from slurm.devcluster.processes import job_processes
from slurm.devcluster.up import up
from slurm.preempt import exclude_nodes
from slurm.queue import NoSlurm, read_queue
from sweep.canary_words import canary_words
from sweep.submissions import read_submissions

pytestmark = pytest.mark.slow

FEW = ("grid.budgets=[1.4e10]", "grid.window=2")

PREEMPTION = [
    pytest.param(True, 30, id="user signal, grace"),
    pytest.param(False, 30, id="SIGTERM, grace"),
    pytest.param(True, 0, id="no grace"),
]


@pytest.fixture
def few(right) -> dict[str, float]:
    """Return the losses of FEW, two cells of the smoke grid."""
    few = {c: loss for c, loss in right.items() if c.startswith(("c1.4e10-n11k", "c1.4e10-n16k"))}
    assert len(few) == 2
    return few


@pytest.fixture
def configured(lab):
    """Return a function that changes how the site preempts; it is put back at the end."""

    def configure(user_signal: bool, grace: int) -> None:
        up(replace(lab.cluster, user_signal=user_signal, grace=grace), lambda line: None)

    yield configure
    up(lab.cluster, lambda line: None)


@pytest.mark.parametrize(("user_signal", "grace"), PREEMPTION)
def test_preemption_as_each_kind_of_site_does_it(lab, few, configured, user_signal, grace):
    configured(user_signal, grace)
    sweep = f"preempted-{user_signal}-{grace}"
    lab.launch(sweep, *FEW, "cluster.partition=preempt")
    _, status = lab.hold(sweep)
    lab.take_room_of(status)
    lab.wait_until_idle()
    lab.check(sweep, few)
    if grace:
        assert "saved; queued again" in lab.logs(sweep)


def test_a_cancelled_sweep_does_not_come_back(lab, few):
    """Scancel sends SIGTERM, as a preemption does on some sites: nothing may queue itself again."""
    sweep = "cancelled"
    lab.launch(sweep, *FEW)
    _, status = lab.hold(sweep)  # so that one at least is not done before it is cancelled
    done = lab.isoflop("cancel", f"root={lab.root}", f"sweep={sweep}")
    assert done.returncode == 0, done.stderr
    lab.hold_until_gone(status)
    lab.wait_until_idle()
    time.sleep(12)  # a requeued job would start again after 7 s
    assert not lab.queue()
    before = lab.losses(sweep) if any(lab.folder(sweep).records.glob("*.parquet")) else {}
    assert len(before) < len(few)
    lab.wait_to_be_told(sweep, "was cancelled")
    lab.launch(sweep, *FEW)
    lab.wait_until_idle()
    lab.check(sweep, few)


def test_a_node_that_is_lost_while_its_process_lives_on(lab, few):
    """Slurmd is killed: SLURM runs the job again elsewhere while the first process goes on."""
    sweep = "lost-node"
    lab.launch(sweep, *FEW)
    _, status = lab.hold(sweep)
    lab.kill_node_daemon(lab.node_of(status))
    lab.go_on(status)
    lab.wait_until_idle()
    lab.mend()
    lab.check(sweep, few)


@pytest.mark.parametrize("state", ["down", "drain"])
def test_a_node_that_is_taken_down_or_drained(lab, few, state):
    sweep = f"node-{state}"
    lab.launch(sweep, *FEW)
    _, status = lab.hold(sweep)
    node = lab.node_of(status)
    lab.ask("scontrol", "update", f"nodename={node}", f"state={state}", "reason=test")
    lab.go_on(status)
    time.sleep(2)
    lab.mend()  # an administrator puts it back to work
    _release_what_is_held(lab, sweep)
    lab.check(sweep, few)


def _release_what_is_held(lab: Lab, sweep: str) -> None:
    """Wait for the end; do what status says where SLURM holds a job (NOTES: Duplicate jobid)."""
    end = time.monotonic() + PATIENCE
    while lab.queue():
        assert time.monotonic() < end, lab.status(sweep)
        time.sleep(1)
        if not any("held" in line.lower() for line in lab.queue()):
            continue
        for line in lab.status(sweep).splitlines():
            if line.strip().startswith(("scontrol release", "scancel")):
                lab.mend()
                lab.ask(*line.split())


@pytest.mark.parametrize("step", ["batch", "0"])
def test_a_step_daemon_is_killed(lab, few, step):
    """SLURM loses sight of the process: it says COMPLETED or NODE_FAIL while the process trains."""
    sweep = f"stepd-{step}"
    lab.launch(sweep, *FEW)
    _, status = lab.hold(sweep)
    os.kill(lab.step_daemon(status, step).pid, 9)
    lab.go_on(status)
    _release_what_is_held(lab, sweep)
    lab.launch(sweep, *FEW)
    lab.wait_until_idle()
    lab.check(sweep, few)


def test_the_controller_is_killed(lab, few):
    sweep = "controller"
    lab.launch(sweep, *FEW)
    lab.a_running_cell(sweep)
    lab.kill_controller()
    said = lab.status(sweep)
    assert "Note: squeue" in said
    lab.mend()
    lab.wait_until_idle()
    lab.check(sweep, few)


def test_a_time_limit_shorter_than_a_cell(lab, few):
    """The job saves, queues itself again, and goes on; it alone, though it has the array's id."""
    sweep = "limit"
    lab.launch(sweep, *FEW)
    _meet_time_limit(lab, sweep, index=len(few) - 1)
    assert "saved; queued again" in lab.logs(sweep)
    lives = lab.ask("sacct", "-n", "-X", "-D", "-o", "JobID", "-j", _array(lab, sweep)).split()
    assert len(lives) == len(few) + 1, lives
    lab.check(sweep, few)


def test_a_memory_limit_is_named_and_mended_by_what_status_says(lab, few):
    sweep = "memory"
    lab.launch(sweep, *FEW, "cluster.memory_gb=0.25", "launch.retries=0")
    lab.wait_until_idle()
    said = lab.wait_to_be_told(sweep, "hit its memory limit")
    assert "cluster.memory_gb=" in said
    lab.launch(sweep, *FEW, "cluster.memory_gb=1")
    lab.wait_until_idle()
    lab.check(sweep, few)


EXITS = [
    pytest.param(
        "cluster.setup=['exit 3']", "ended with exit status 3", id="the batch file, with 3"
    ),
    pytest.param("cluster.python={exits_7}", "ended with exit status 7", id="sys.exit(7)"),
    pytest.param("cluster.python={exits_0}", "ended without an error", id="sys.exit(0)"),
]


@pytest.mark.parametrize(("word", "said"), EXITS)
def test_a_process_that_exits_without_a_word(lab, few, tmp_path, word, said):
    """SLURM says FAILED or COMPLETED; there is no record, and status says so in words."""
    sweep = f"exits-{tmp_path.name}"
    programs = {f"exits_{n}": _program(tmp_path / f"exits_{n}", f"exit {n}") for n in (0, 7)}
    lab.launch(sweep, word.format(**programs), *FEW)
    lab.wait_until_idle()
    lab.wait_to_be_told(sweep, said)
    assert "without a record" in lab.status(sweep)
    if "exits_7" in word:
        assert lab.logs(sweep).count("lost with exit status 7: queued again") == 2 * len(few)
    lab.launch(sweep, *FEW)
    lab.wait_until_idle()
    lab.check(sweep, few)


def _meet_time_limit(lab: Lab, sweep: str, index: int | None = None) -> None:
    """Set a limit by hand under a running job, which is held still until SLURM has told it."""
    _, status = lab.hold(sweep, index=index)
    clock = lab.ask(
        "squeue", "-h", "-o", "%M", "-j", lab.job_of(status)
    )  # minutes:seconds at its end
    minutes, seconds = map(int, clock.split(":")[-2:])
    limit = minutes + (1 if seconds < 30 else 2)
    lab.ask("scontrol", "update", f"jobid={lab.job_of(status)}", f"timelimit={limit}")
    try:
        lab.wait_for("the signal before the limit", lambda: was_told(status["pid"]))
    finally:
        lab.go_on(status)
    lab.wait_for("its second life", lambda: "Restarts=1" in lab.shown(status))
    # It keeps its limit, which a busy machine may need for the start alone.
    lab.ask("scontrol", "update", f"jobid={lab.job_of(status)}", "timelimit=60")
    lab.wait_until_idle()


def _array(lab: Lab, sweep: str) -> str:
    (one,) = [s.job_id for s in read_submissions(lab.folder(sweep)) if s.kind == "cells"]
    return one


def _program(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(["#!/bin/bash", *lines, ""]))
    path.chmod(0o755)
    return path


def test_a_time_limit_in_a_container(lab, few, tmp_path):
    """No scontrol in there: the task leaves a wish, and its batch file queues the job again."""
    sweep = "contained"
    inside = f"PATH=/nowhere exec {sys.executable}"
    apptainer = [
        'while [ "$1" != -P ]; do shift; done',
        f'{inside} "$@"',
    ]  # drops exec, --bind, image
    _program(tmp_path / "apptainer", *apptainer)
    lab.launch(sweep, "cluster=slurm_apptainer", "cluster.container=ours.sif", *FEW,
               f"cluster.setup=['export PATH={tmp_path}:$PATH']")  # fmt: skip
    _meet_time_limit(lab, sweep)
    assert "saved; there is no scontrol here" in lab.logs(sweep)
    assert not list((lab.folder(sweep).path / "logs").glob("*_again"))
    lab.check(sweep, few)


def test_a_full_disk(lab, few, tmp_path):
    """The root is a small filesystem that fills up in the middle; with room again all ends well."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=90m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        small, sweep = Lab(lab.cluster, disk), "full"
        shutil.copytree(lab.root / ".data", disk / ".data")
        small.launch(sweep, *FEW)
        small.a_running_cell(sweep)
        _fill(disk / "ballast")
        small.wait_until_idle()
        small.wait_to_be_told(sweep, "(failed): ")
        (disk / "ballast").unlink()
        small.launch(sweep, *FEW)
        small.wait_until_idle()
        small.check(sweep, few)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as f, suppress(OSError):
        while True:
            f.write(b"x" * 4096)


def test_yaml_that_is_edited_while_jobs_wait_changes_nothing(lab, few, tmp_path):
    """Jobs run the frozen cells from the snapshot of the code, not the checkout."""
    sweep = "edited"
    checkout = _copy_of_the_checkout(tmp_path)
    isoflop = [checkout / ".venv" / "bin" / "python", "-P", "-m", "sweep.cli"]
    env = {**lab.env, "PYTHONPATH": str(checkout)}
    lab.ask("scontrol", "update", "partitionname=main", "state=down")  # jobs wait
    try:
        done = subprocess.run([*isoflop, "launch", *lab.words(sweep, *FEW)], env=env, cwd=tmp_path,
                              capture_output=True, text=True)  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        recipe = checkout / "conf" / "recipe" / "demo.yaml"
        recipe.write_text(recipe.read_text() + "\nlr: 77\n")
        train = checkout / "sweep" / "train.py"
        train.write_text("raise SystemExit('edited')\n")
        assert "partition that is down" in lab.status(sweep)
    finally:
        lab.ask("scontrol", "update", "partitionname=main", "state=up")
    lab.wait_until_idle()
    lab.check(sweep, few)


def _copy_of_the_checkout(tmp_path):
    from results.provenance import CHECKOUT, PACKAGES

    copy = tmp_path / "checkout"
    for package in PACKAGES:
        unneeded = shutil.ignore_patterns("__pycache__", "reference")
        shutil.copytree(CHECKOUT / package, copy / package, ignore=unneeded)
    (copy / ".venv").symlink_to(CHECKOUT / ".venv")
    return copy


def test_two_nodes_with_two_ranks_each_agree_with_one_process(lab, few):
    """DDP over gloo: 2 nodes x 2 tasks; sums in another order, so equal to rounding only."""
    sweep = "ranks"
    done = lab.isoflop("launch", *lab.words(sweep, "cluster.nodes=2", "hardware.ranks=4",
                                            *FEW))  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    lab.wait_until_idle()
    found = lab.losses(sweep)
    assert len(found) == len(few)
    for cell, loss in found.items():
        assert loss == pytest.approx(few[cell], abs=2e-3)


def test_a_rank_that_dies_ends_the_attempt_in_seconds(lab, few):
    sweep = "dead-rank"
    lab.launch(sweep, "cluster.nodes=2", "hardware.ranks=2", *FEW, "cluster.gpus=1")
    _, status = lab.hold(sweep)
    followers = [p for p in _tasks(lab, status) if p.pid != status["pid"]]
    os.kill(followers[0].pid, 9)
    lab.go_on(status)
    began = time.monotonic()
    lab.wait_for("the attempt to end", lambda: _gone(status["pid"]))
    assert time.monotonic() - began < 60
    lab.wait_until_idle()
    lab.launch(sweep, "cluster.nodes=2", "hardware.ranks=2", *FEW, "cluster.gpus=1")
    lab.wait_until_idle()
    assert len(lab.losses(sweep)) == len(few)
    lab.check_no_twin(sweep)


def _tasks(lab: Lab, status) -> list:
    wanted = f"SLURM_ARRAY_TASK_ID={status['index']}"
    job = f"SLURM_ARRAY_JOB_ID={status['slurm_job_id']}"
    return [
        p
        for p in job_processes(lab.cluster)
        if wanted in p.environment and job in p.environment and "sweep.job" in p.argv
        and any(e.startswith("SLURM_PROCID=") for e in p.environment)
        and not any("srun" in a for a in p.argv)
    ]  # fmt: skip


def _gone(pid: int) -> bool:
    return not os.path.exists(f"/proc/{pid}") or not open(f"/proc/{pid}/cmdline").read()


def test_a_canary_that_fails_stops_the_launch_with_its_words(lab, tmp_path):
    """The prepared text is damaged after the launch: the canary says so, and no cell starts."""
    lab, sweep = Lab(lab.cluster, tmp_path), "canary"
    lab.ask("scontrol", "update", "partitionname=main", "state=down")
    try:
        lab.launch(sweep, *FEW, "launch.canary=true")
        (lab.root / ".data").rename(lab.root / ".hidden")
    finally:
        lab.ask("scontrol", "update", "partitionname=main", "state=up")
    lab.wait_until_idle()
    lab.wait_to_be_told(sweep, "the canary failed: ")
    assert not any(lab.folder(sweep).path.glob("cells/*/*/status.json"))


def test_a_canary_that_is_killed_comes_back(lab, few):
    """As one that is preempted: arrays would else be cancelled for what was no fault of theirs."""
    sweep = "canary-killed"
    lab.launch(sweep, "launch.canary=true", *FEW)
    (canary,) = [s for s in read_submissions(lab.folder(sweep)) if s.kind == "canary"]
    process = lab.wait_for("the canary", lambda: next(
        (p for p in job_processes(lab.cluster) if "sweep.canary" in p.argv
         and p.argv[0].endswith("python")), None))  # fmt: skip
    os.kill(process.pid, 9)
    lab.wait_until_idle()
    assert "lost with exit status 137: queued again" in lab.logs(sweep)
    assert canary_words(lab.folder(sweep), canary) == ""
    lab.check(sweep, few)


def test_what_waits_is_kept_off_nodes_beside_those_that_were_excluded(lab, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", str(lab.cluster.conf))
    first, second, third, _ = [f"{lab.cluster.prefix}{n}" for n in range(1, 5)]
    quiet = ("--output=/dev/null", "--parsable", f"--exclude={first}")
    job = lab.ask("sbatch", *quiet, "--array=0-3%1", "--wrap=sleep 600")
    lab.wait_for("a task to run", lambda: any("RUNNING" in line for line in lab.queue()))
    exclude_nodes([job], [second, third])
    lab.ask("scontrol", "update", f"jobid={job}", "arraytaskthrottle=4")
    lab.wait_for("all tasks to run", lambda: sum("RUNNING" in line for line in lab.queue()) == 4)
    nodes = lab.ask("squeue", "-h", "-r", "-o", "%K %N", "-j", job).splitlines()
    later = {line.split()[1] for line in nodes if not line.startswith("0 ")}
    assert later == {f"{lab.cluster.prefix}4"}


def test_what_the_site_has_not_is_refused_in_one_line(lab):
    """By our own look at the site, or in the words of sbatch; then nothing is in the queue."""
    for word, said in (
        ("cluster.partition=none", "cluster.partition=none is not here; it may be main, preempt"),
        ("cluster.gpus=3", "cluster.gpus=3: a node of partition main has 2"),
        ("cluster.constraint=none", "sbatch refused it: "),
    ):
        done = lab.isoflop("launch", *lab.words("refused", word))
        assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1), done.stderr
        assert said in done.stderr
        assert not lab.queue()
    assert {s.state for s in read_submissions(lab.folder("refused"))} == {"refused"}


def test_queue_states_of_a_real_cluster(lab, monkeypatch):
    """Held, running, failed, cancelled and an array with a range, as read_queue says them."""
    monkeypatch.setenv("SLURM_CONF", str(lab.cluster.conf))
    quiet = ("--output=/dev/null", "--parsable", "--time=5")
    held = lab.ask("sbatch", *quiet, "--hold", "--job-name=h|x", "--wrap=true")
    array = lab.ask("sbatch", *quiet, "--array=0-40:2,50%2", "--wrap=sleep 2; exit 3")
    never = lab.ask("sbatch", *quiet, f"--dependency=afterok:{array}", "--wrap=true")
    lab.wait_for("a task to fail", lambda: any(
        j.exit_code == 3 for j in read_queue([array]).values()
    ))  # fmt: skip
    queue = read_queue([held, array, never])
    assert queue.notes == ()
    assert queue[held, None].reason == "JobHeldUser"
    assert queue[held, None].name == "h|x"
    assert {i for j, i in queue if j == array} == {*range(0, 41, 2), 50}
    failed = next(j for j in queue.values() if j.exit_code == 3)
    assert (failed.state, failed.active, failed.restarts) == ("FAILED", False, 0)
    lab.ask("scancel", array)
    lab.wait_for("the end", lambda: not any(j.active for j in read_queue([array]).values()))
    assert read_queue([], names=["h|x"])[held, None].active
    lab.kill_controller()
    with pytest.raises(NoSlurm, match="squeue"):
        read_queue([held])


def test_a_ledger_without_ids_is_settled_by_job_names(lab, right, few):
    """Sbatch took the arrays, and the launcher died before it wrote their ids down."""
    sweep = "settled"
    lab.launch(sweep, *FEW)
    folder = lab.folder(sweep)
    from sweep.submissions import write_submission

    for one in read_submissions(folder):
        write_submission(folder, replace(one, state="frozen", job_id=None))
    said = lab.status(sweep)
    assert "ended before sbatch" not in said
    lab.launch(sweep, *FEW)
    lab.wait_until_idle()
    assert len(read_submissions(folder)) == 1
    assert lab.losses(sweep) == few
    before = {p: p.stat().st_mtime_ns for p in folder.records.iterdir()}
    said = lab.launch(sweep).stdout  # the sweep grows: old cells keep their ids, and their records
    assert f"{len(right)} cells, {len(before)} done" in said
    lab.wait_until_idle()
    assert {p: p.stat().st_mtime_ns for p in before} == before
    lab.check(sweep, right)
