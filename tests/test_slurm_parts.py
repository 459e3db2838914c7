"""What the launcher is made of, where no SLURM is needed: batch files, snapshots, sites, signals."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm.preempt import Answer, JobFacts, Notice, answer
from slurm.site import Ask, NodeKind, SiteRefuses, _kind, _minutes, check_ask
from slurm.snapshot import (
    SnapshotError,
    describe_code,
    list_snapshots,
    read_snapshot,
    take_snapshot,
)
from slurm.submit import SAID_WHY, Request, batch_text, wish

RUNNING, TAKEN = JobFacts("RUNNING", False), JobFacts("RUNNING", True)


# signals


@pytest.mark.parametrize(
    ("name", "facts", "restarts", "wanted"),
    [
        ("SIGUSR2", RUNNING, 0, Answer.REQUEUE),  # the time limit is near
        ("SIGUSR2", TAKEN, 0, Answer.REQUEUE),  # preempted, user signal
        ("SIGTERM", TAKEN, 0, Answer.REQUEUE),  # preempted, SLURM's default
        ("SIGTERM", JobFacts("COMPLETING", False), 0, Answer.GO_ON),  # scancel, or no grace
        ("SIGUSR2", JobFacts("COMPLETING", True), 0, Answer.GO_ON),
        ("SIGTERM", RUNNING, 0, Answer.GO_ON),  # somebody's kill
        ("SIGUSR2", None, 0, Answer.GO_ON),  # scontrol does not answer
        ("SIGTERM", JobFacts("CANCELLED", False), 0, Answer.GO_ON),
        ("SIGUSR2", RUNNING, 20, Answer.GO_ON),  # often enough
    ],
)
def test_a_job_leaves_only_where_it_will_come_back(name, facts, restarts, wanted):
    assert answer(name, facts, restarts, max_requeues=20) is wanted


def test_a_signal_is_remembered_once():
    before = {s: signal.getsignal(s) for s in (signal.SIGUSR2, signal.SIGTERM)}
    notice = Notice()
    try:
        notice.install()
        assert not notice.is_there()
        os.kill(os.getpid(), signal.SIGUSR2)
        assert notice.is_there()
        assert notice.take() == "SIGUSR2"
        assert notice.take() is None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# sites


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("main*|4|4|4000|gpu:2|1-00:00:00", NodeKind("main", True, 4, 4, 4000, 2, frozenset(), 1440)),
        ("gpu|16|64|515000+|gpu:a100:4(S:0-1)|infinite",
         NodeKind("gpu", False, 16, 64, 515000, 4, frozenset({"a100"}), float("inf"))),
        ("mix|2|128+|1000|gpu:h100:4,gpu:mig-1g:2,nvme:1|30:00",
         NodeKind("mix", False, 2, 128, 1000, 6, frozenset({"h100", "mig-1g"}), 30)),
        ("cpu|1|8|16000|(null)|2:30:00", NodeKind("cpu", False, 1, 8, 16000, 0, frozenset(), 150)),
    ],
)  # fmt: skip
def test_lines_of_sinfo_are_read(line, wanted):
    assert _kind(line) == wanted


@given(st.integers(0, 30), st.integers(0, 23), st.integers(0, 59))
def test_time_limits_are_read(days, hours, minutes):
    assert _minutes(f"{days}-{hours:02}:{minutes:02}:00") == (days * 24 + hours) * 60 + minutes


SITE = [_kind("main*|4|4|4000|gpu:2|1-00:00:00"), _kind("big|1|64|500000|gpu:a100:8|infinite")]
ASK = Ask(partition=None, nodes=1, gpus=1, gpu_type=None, cpus=1, memory_mb=1000, minutes=10)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"partition": "man"}, r"cluster\.partition=man is not here; it may be big, main"),
        ({"gpus": 3}, r"cluster\.gpus=3: a node of partition main has 2"),
        (
            {"partition": "big", "gpu_type": "h100"},
            r"cluster\.gpu_type=h100: partition big has a100",
        ),
        ({"nodes": 5}, r"cluster\.nodes: 5 is asked for, partition main allows 4"),
        ({"cpus": 5}, r"cluster\.cpus: 5 is asked for"),
        ({"memory_mb": 8000}, r"cluster\.memory_gb: 8 is asked for, partition main allows 4"),
        ({"minutes": 2000}, r"cluster\.max_hours: .* set cluster\.max_hours"),
    ],
)
def test_what_no_node_has_is_refused_with_what_there_is(asked, words):
    check_ask(ASK, SITE)
    with pytest.raises(SiteRefuses, match=words):
        check_ask(replace(ASK, **asked), SITE)
    if "partition" not in asked:
        check_ask(replace(ASK, partition="big", minutes=2000, gpus=8, memory_mb=8000), SITE)


# batch files


def request(**changes) -> Request:
    base = Request(
        job_name="isoflop-s-cells-1",
        command=["python", "-P", "-m", "sweep.job", "/x y/it's.json"],
        logs=Path("/x y/logs"),
        minutes=20,
        memory_mb=1500,
        gpus=1,
        tasks=3,
        again_if_lost=2,
        chdir=Path("/x y/code/1"),
        setup=["module load cuda"],
    )
    return replace(base, **changes)


def test_a_batch_file_asks_for_what_was_asked():
    text = batch_text(request(parallelism=2, dependency="afterok:7", options={"partition": "main"}))
    for line in ("--array=0-2%2", "--gres=gpu:1", "--mem=1500M", "--time=20", "--partition=main",
                 "--dependency=afterok:7", "--requeue", "--kill-on-invalid-dep=yes",
                 "--signal=USR2@120", "--open-mode=append"):  # fmt: skip
        assert f"#SBATCH {line}\n" in text
    assert "wckey" not in text
    assert "\nmodule load cuda\n" in text
    assert "--kill-on-bad-exit=1 --cpus-per-task=1 python -P -m sweep.job" in text
    assert "'\"'\"'s.json'" in text  # the path's own quote, quoted
    assert "--gres=gpu:a100:1" in batch_text(request(gpu_type="a100"))
    assert "gres" not in batch_text(request(gpus=0))
    assert "--array" not in batch_text(request(tasks=None))


@pytest.fixture
def batch_end(tmp_path):
    """Return a function that runs the last lines of a batch file in a real shell.

    Its scontrol says the state of the job, and takes note of what else it is asked.
    """
    tools, logs = tmp_path / "bin", tmp_path / "it's logs"
    tools.mkdir()
    logs.mkdir()

    def run(status: int, state: str, **more: str) -> int:
        scontrol = tools / "scontrol"
        scontrol.write_text(
            f'#!/bin/sh\nif [ "$1" = show ]; then echo "JobId=7 JobState={state} Reason=None"; '
            f'else echo "$@" >>"{tmp_path}/asked"; fi\n'
        )
        scontrol.chmod(0o755)
        last = batch_text(request(logs=logs)).split("# teardown")[1]
        script = last.replace("code=$?", f"(exit {status}); code=$?")
        env = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
        env |= more
        return subprocess.run(["bash", "-c", script], env=env, capture_output=True).returncode

    run.logs, run.asked = logs, tmp_path / "asked"
    return run


@pytest.mark.parametrize(
    ("status", "state", "lives", "again"),
    [(0, "RUNNING", 0, False), (SAID_WHY, "RUNNING", 0, False), (137, "RUNNING", 0, True),
     (1, "RUNNING", 1, True), (137, "RUNNING", 2, False), (143, "COMPLETING", 0, False)],
)  # fmt: skip
def test_the_batch_file_brings_back_what_was_lost(batch_end, status, state, lives, again):
    (batch_end.logs / "7_lost").write_text("137\n" * lives)
    assert batch_end(status, state) == status
    assert batch_end.asked.exists() is again
    assert len((batch_end.logs / "7_lost").read_text().split()) == lives + again


@pytest.mark.parametrize(("status", "state", "again"), [
    (0, "RUNNING", True), (143, "RUNNING", True), (0, "COMPLETING", False),
])  # fmt: skip
def test_the_batch_file_queues_again_what_wishes_it_from_a_container(
    batch_end, status, state, again
):
    wish(batch_end.logs, "7").touch()
    assert batch_end(status, state) == (0 if again else status)
    assert batch_end.asked.exists() is again
    assert not list(batch_end.logs.iterdir())  # granted once, and not counted as a loss


def test_the_last_task_of_an_array_is_queued_again_alone(batch_end):
    """SLURM gives it the array's own id, which scontrol takes for all tasks."""
    array = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}
    assert batch_end(137, "RUNNING", **array) == 137
    assert batch_end.asked.read_text() == "requeue 7_3\n"
    assert (batch_end.logs / "7_3_lost").exists()


# snapshots


@pytest.fixture
def checkout(tmp_path):
    """Make a checkout with one package."""
    root = tmp_path / "checkout"
    (root / "pkg").mkdir(parents=True)
    (root / "pkg" / "__init__.py").write_text("value = 1\n")
    (root / "pkg" / "conf.yaml").write_text("a: 1\n")
    (root / "pkg" / "big.parquet").write_bytes(b"0")
    (root / "other.py").write_text("")
    git(root, "init", "-q")
    git(root, "add", ".")
    commit(root, "one")
    return root


def git(root: Path, *words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=root, check=True, capture_output=True, text=True
    ).stdout.strip()


def commit(root: Path, words: str) -> None:
    git(root, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qam", words)


def test_a_clean_checkout_is_copied_once_under_its_commit(checkout, tmp_path):
    taken = take_snapshot(checkout, ["pkg"], tmp_path / "code")
    sha = git(checkout, "rev-parse", "HEAD")
    assert (taken.name, taken.git_sha, taken.git_dirty) == (sha[:12], sha, False)
    copied = {p.name for p in (tmp_path / "code" / taken.name).rglob("*") if p.is_file()}
    assert copied == {"__init__.py", "conf.yaml", "SNAPSHOT.json"}
    (checkout / "other.py").write_text("# nothing that is run")
    commit(checkout, "two")
    assert take_snapshot(checkout, ["pkg"], tmp_path / "code") == taken  # the same content
    assert [s.name for s in list_snapshots(tmp_path / "code")] == [taken.name]


def test_a_dirty_checkout_is_copied_with_its_patch_and_its_new_files(checkout, tmp_path):
    clean = take_snapshot(checkout, ["pkg"], tmp_path / "code")
    (checkout / "pkg" / "__init__.py").write_text("value = 2\n")
    (checkout / "pkg" / "new.py").write_text("")
    taken = take_snapshot(checkout, ["pkg"], tmp_path / "code")
    folder = tmp_path / "code" / taken.name
    assert taken.name.startswith(f"{clean.name}-dirty-")
    assert (taken.git_dirty, taken.untracked) == (True, ("pkg/new.py",))
    assert "+value = 2" in (folder / "dirty.patch").read_text()
    assert (folder / "pkg" / "__init__.py").read_text() == "value = 2\n"
    assert read_snapshot(folder) == taken
    (checkout / "pkg" / "__init__.py").write_text("value = 3\n")
    assert describe_code(checkout, ["pkg"]).content != taken.content
    assert len(list_snapshots(tmp_path / "code")) == 2


def test_without_git_the_copy_is_named_for_its_content(checkout, tmp_path):
    (checkout / ".git").rename(tmp_path / "elsewhere")
    taken = take_snapshot(checkout, ["pkg"], tmp_path / "code")
    assert (taken.git_sha, taken.git_dirty, taken.name) == (None, None, taken.content[:12])


def test_a_copy_launches_as_what_it_was_made_of(checkout, tmp_path):
    taken = take_snapshot(checkout, ["pkg"], tmp_path / "code")
    assert describe_code(tmp_path / "code" / taken.name, ["pkg"]) == taken


@pytest.mark.parametrize("text", ["", "{", "[]", json.dumps({"name": "x"})])
def test_a_damaged_copy_is_named(tmp_path, text):
    (tmp_path / "SNAPSHOT.json").write_text(text)
    with pytest.raises(SnapshotError, match=r"SNAPSHOT\.json can't be read"):
        read_snapshot(tmp_path)


def test_submitit_is_not_imported_before_it_is_needed():
    code = "import sys, slurm.submit, sweep.launch_slurm; assert 'submitit' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
