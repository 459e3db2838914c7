"""Where a cell is and why it does not move: a table of what clusters do, as seen on a real one."""

import shlex
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from slurm.queue import JobState
from sweep.cell_state import SILENT_SECONDS, AttemptFacts, CellFacts, PlanRow, State, cell_state
from sweep.explain import Commands
from sweep.submissions import Submission

NOW = 1_800_000_000.0
PLAN = PlanRow("c1-n1-s0-abc", budget=1e10, flops=1.01e10, steps=100)
COMMANDS = Commands("isoflop launch grid=g", "isoflop cancel grid=g", "isoflop logs grid=g")
JOB = JobState("7", 3, "isoflop-s-cells-x", "RUNNING", nodes="n1", elapsed=60.0, limit=600.0,
               start=NOW - 60, active=True)  # fmt: skip
SUBMISSION = Submission(
    name="20270101T000000-1", kind="cells", job_name=JOB.name, code="abc", at="2027-01-01T00:00:00",
    by="me@here", state="submitted", job_id="7", tasks=((PLAN.cell_id,),),
)  # fmt: skip


def status(state: str = "running", ago: float = 5.0, step: int = 40, reason: str | None = None):
    at = datetime.fromtimestamp(NOW - ago, UTC).isoformat(timespec="seconds")
    return {"state": state, "step": step, "steps": 100, "at": at, "reason": reason}


def attempt(number: int = 0, record: str | None = None, held: bool = False, **of_status):
    reason = of_status.get("reason")
    return AttemptFacts(number, status(**of_status), record, reason if record else None, held)


def decide(*attempts: AttemptFacts, job=None, submission=SUBMISSION, asked=True):
    facts = CellFacts(PLAN, attempts, submission, job, asked)
    return cell_state(facts, NOW, COMMANDS)


def ended(state: str, **values) -> JobState:
    return replace(JOB, state=state, active=False, **values)


def pending(reason: str, state: str = "PENDING") -> JobState:
    return replace(JOB, state=state, reason=reason, nodes=None, start=None, elapsed=0.0)


FINISHED = attempt(state="finished", step=100, record="finished")
AWAY = attempt(ago=3600)  # no process holds it, and it has been silent for an hour
STOPPED = attempt(state="stopped", record="stopped", reason="hopeless at 50%")
FAILED = attempt(state="failed", record="failed", reason="ValueError: lr")


# Each row: what there is, the state, words of the reason (None: all is well), the mend's beginning.
TABLE = [
    ("never launched", dict(submission=None), "planned", None, None),
    ("finished", dict(a=[FINISHED], job=ended("COMPLETED")), "finished", None, None),
    # TIMEOUT, FAILED and CANCELLED may have a result; NODE_FAIL may be followed by a rerun.
    ("TIMEOUT with a result", dict(a=[FINISHED], job=ended("TIMEOUT")), "finished", None, None),
    ("FAILED with a result", dict(a=[FINISHED], job=ended("FAILED")), "finished", None, None),
    ("finished, its job still listed", dict(a=[FINISHED], job=JOB), "finished", None, None),
    ("finished after a failure", dict(a=[FAILED, attempt(1, "finished", state="finished")]),
     "finished", None, None),
    ("diverged", dict(a=[attempt(state="diverged", record="diverged", reason="loss is NaN at step 3")]),
     "diverged", "NaN at step 3: it is not tried again",
     "isoflop launch grid=g sweep=NAME recipe=..."),
    ("ended as hopeless", dict(a=[STOPPED], job=ended("COMPLETED")), "stopped", "hopeless at 50%",
     "isoflop launch grid=g launch.only=stopped"),
    ("ended as hopeless, trained after all", dict(a=[STOPPED, attempt(1)], job=JOB), "running", None,
     None),
    ("trained after all, here", dict(a=[STOPPED, attempt(1, held=True)], submission=None), "running",
     None, None),
    # In the queue.
    ("waits its turn", dict(job=pending("Priority")), "queued", None, None),
    ("waits for room", dict(job=pending("Resources")), "queued", None, None),
    ("waits for %parallelism", dict(job=pending("JobArrayTaskLimit")), "queued", None, None),
    ("requeued a moment ago", dict(a=[AWAY], job=pending("BeginTime")), "queued", None, None),
    ("waits for the canary", dict(job=pending("Dependency")), "queued", None, None),
    ("held", dict(job=pending("JobHeldUser")), "queued", "is held", "scontrol release 7_3"),
    ("held by an administrator", dict(job=pending("JobHeldAdmin")), "queued", "administrator", None),
    ("node could not start it", dict(job=pending("launch failed requeued held")), "queued",
     "could not start", "scontrol release 7_3"),
    ("requeued too often", dict(job=pending("JobHoldMaxRequeue")), "queued", "too many requeues",
     "scontrol release 7_3"),
    ("requeue held", dict(job=pending("", "REQUEUE_HOLD")), "queued", "is held", "scontrol release 7_3"),
    ("dependency never satisfied", dict(job=pending("DependencyNeverSatisfied")), "queued",
     "never run", "isoflop cancel grid=g && isoflop launch grid=g"),
    ("longer than the partition allows", dict(job=pending("PartitionTimeLimit")), "queued",
     "more time", "isoflop cancel"),
    ("partition down", dict(job=pending("PartitionDown")), "queued", "is down", "isoflop cancel"),
    ("nodes not available", dict(job=pending("ReqNodeNotAvail, UnavailableNodes:n1")), "queued",
     "down, drained or reserved", "sinfo --list-reasons"),
    ("account's limit", dict(job=pending("AssocGrpGRES")), "queued", "limit of your account", None),
    ("suspended", dict(job=replace(JOB, state="SUSPENDED")), "queued", "suspended", "scontrol resume 7_3"),
    ("runs", dict(a=[attempt(held=True)], job=JOB), "running", None, None),
    ("started a moment ago", dict(job=replace(JOB, elapsed=20.0, start=NOW - 20)), "running", None, None),
    ("runs again, old status", dict(a=[AWAY], job=JOB), "running", None, None),
    ("runs and hangs", dict(a=[attempt(ago=1000)], job=replace(JOB, start=NOW - 2000, elapsed=2000.0)),
     "running", "said nothing for 17 minutes, at step 40", "scontrol requeue 7_3"),
    ("runs and never said a word", dict(job=replace(JOB, start=NOW - 2000, elapsed=2000.0)), "running",
     "since its start", "scontrol requeue 7_3"),
    # Out of the queue, and its process lives on: NODE_FAIL after a slurmd was killed.
    ("process outlives its job", dict(a=[attempt(held=True)], job=ended("NODE_FAIL")), "running",
     "lives on", None),
    ("local worker", dict(a=[attempt(held=True)], submission=None), "running", None, None),
    # Out of the queue, without a record.
    ("failed record", dict(a=[FAILED], job=ended("FAILED")), "failed", "ValueError: lr", "isoflop logs"),
    ("failed before training", dict(a=[attempt(state="failed", step=0, reason="no GPU here")],
     job=ended("FAILED", exit_code=1)), "failed", "no GPU here", "isoflop logs"),
    ("time limit, on its way", dict(a=[AWAY], job=ended("TIMEOUT")), "failed",
     "limit of 10 minutes at step 40 of 100", "isoflop launch grid=g"),
    ("time limit too short", dict(job=ended("TIMEOUT")), "failed", "too short",
     "isoflop launch grid=g cluster.margin="),
    ("memory limit by cgroup", dict(a=[AWAY], job=ended("OUT_OF_MEMORY", out_of_memory=True)), "failed",
     "memory limit", "isoflop launch grid=g cluster.memory_gb="),
    ("memory limit of a step", dict(a=[AWAY], job=ended("FAILED", exit_code=1, out_of_memory=True)),
     "failed", "memory limit", "isoflop launch grid=g cluster.memory_gb="),
    ("killed", dict(a=[AWAY], job=ended("FAILED", exit_code=0, signal=9)), "failed", "signal 9",
     "isoflop launch"),
    ("killed, and its script said so", dict(a=[AWAY], job=ended("FAILED", exit_code=137)), "failed",
     "signal 9", "isoflop launch"),
    ("sys.exit", dict(a=[AWAY], job=ended("FAILED", exit_code=3)), "failed", "exit status 3",
     "isoflop launch"),
    ("COMPLETED without a record", dict(a=[AWAY], job=ended("COMPLETED")), "failed",
     "without a record", "isoflop launch"),
    ("cancelled", dict(a=[AWAY], job=ended("CANCELLED")), "failed", "was cancelled", "isoflop launch"),
    ("node lost for good", dict(a=[AWAY], job=ended("NODE_FAIL")), "failed", "lost its node",
     "isoflop launch"),
    ("preempted for good", dict(a=[AWAY], job=ended("PREEMPTED")), "failed", "preempted",
     "isoflop launch"),
    ("accounting lags", dict(a=[AWAY], job=ended("RUNNING")), "failed", "not in the queue",
     "isoflop launch"),
    ("forgotten by SLURM", dict(a=[AWAY]), "failed", "neither the queue nor accounting",
     "isoflop launch"),
    ("launcher killed before sbatch", dict(submission=replace(SUBMISSION, state="frozen", job_id=None)),
     "planned", "ended before sbatch", "isoflop launch"),
    ("sbatch refused", dict(submission=replace(SUBMISSION, state="refused", job_id=None,
     reason="invalid partition")), "planned", "invalid partition", "isoflop launch"),
    ("SLURM does not answer", dict(a=[AWAY], asked=False), "queued", "can't be asked", None),
    ("SLURM does not answer, but it beats", dict(a=[attempt(held=True)], asked=False), "running", None,
     None),
    ("local worker killed", dict(a=[attempt(ago=60)], submission=None), "failed", "process is gone",
     "isoflop launch"),
    ("local worker stopped", dict(a=[attempt(state="stopped")], submission=None), "planned",
     "stopped at step 40", "isoflop launch"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("what", "given", "state", "why", "mend"), TABLE, ids=[r[0] for r in TABLE]
)
def test_table(what, given, state, why, mend):
    found = decide(*given.get("a", ()), **{k: v for k, v in given.items() if k != "a"})
    assert found.state == state
    if why is None:
        assert found.explanation is None
    else:
        assert why in found.explanation.why
        assert (found.explanation.mend or "").startswith(mend or "")
        assert (found.explanation.mend is None) == (mend is None)


def test_a_cell_that_only_waits_is_not_stuck():
    assert not decide(job=pending("AssocGrpGRES")).stuck
    assert decide(job=pending("JobHeldUser")).stuck


def test_a_command_that_mends_replaces_what_was_typed():
    typed = Commands("isoflop launch grid=g cluster.memory_gb=0.25 root='a b'", "", "")
    facts = CellFacts(PLAN, (), SUBMISSION, ended("OUT_OF_MEMORY", out_of_memory=True))
    mend = cell_state(facts, NOW, typed).explanation.mend
    assert mend == "isoflop launch grid=g 'root=a b' cluster.memory_gb=..."
    assert (typed.value_of("root"), typed.value_of("sweep")) == ("a b", None)


def test_a_launch_is_taken_apart_once_however_many_cells_wait(monkeypatch):
    """With 10,000 cells, and 2,000 seeds in the words, it was most of a minute."""
    looks, split, down = [], shlex.split, pending("PartitionDown")
    monkeypatch.setattr(shlex, "split", lambda text: looks.append(text) or split(text))
    asked = Commands("isoflop launch grid.seeds=[1,2,3]", "isoflop cancel sweep=s", "")
    for _ in range(100):
        mend = cell_state(CellFacts(PLAN, (), SUBMISSION, down), NOW, asked).explanation.mend
    assert mend == (
        "isoflop cancel sweep=s && isoflop launch 'grid.seeds=[1,2,3]' cluster.partition=..."
    )
    assert len(looks) <= 1


def test_steps_are_those_of_the_last_sign_of_life():
    assert decide(attempt(held=True, step=40), job=JOB).step == 40
    assert decide(FINISHED).step == 100


def test_silence_is_not_death_before_its_time():
    old = replace(JOB, start=NOW - 9999, elapsed=9999.0)
    just, over = SILENT_SECONDS - 2, SILENT_SECONDS + 2
    assert decide(attempt(ago=just), job=old).explanation is None
    assert decide(attempt(ago=over), job=old).stuck


def test_a_status_written_by_hand_is_no_error():
    broken = AttemptFacts(0, {"state": "running", "at": "yesterday"})
    assert decide(broken, job=JOB).state is State.RUNNING
