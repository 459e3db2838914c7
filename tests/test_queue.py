"""What SLURM says, read from the very lines that SLURM 22.05 wrote."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm.queue import JobState, NoSlurm, merge, parse_sacct, parse_squeue, read_queue

PENDING_ARRAY = "859_[6-10:2,50,61-63%3]|PENDING|JobArrayTaskLimit||0:00|5:00|100|N/A|main|a|b"
RUNNING = "859_0|RUNNING|None|d1|1-02:03:04|5:00|100|110|main|a|b"
HELD = "860|PENDING|launch failed requeued held||0:00|UNLIMITED|100|N/A|main|wrap"
# JobID|State|Reason|NodeList|ElapsedRaw|TimelimitRaw|Submit|Start|End|ExitCode|DerivedExitCode|...
FIRST = "859_0|REQUEUED|None|d1|3|5|100|110|113|0:0|0:0|main|a|b"
AGAIN = "859_0|FAILED|None|d2|4|5|113|120|124|3:0|0:0|main|a|b"


def one(lines) -> JobState:
    (job,) = lines
    return job


def test_elements_of_a_pending_array_are_jobs_of_their_own():
    found = list(parse_squeue(PENDING_ARRAY))
    assert [j.index for j in found] == [6, 8, 10, 50, 61, 62, 63]
    assert {(j.job_id, j.state, j.reason) for j in found} == {
        ("859", "PENDING", "JobArrayTaskLimit")
    }
    assert all(j.active and j.limit == 300 and j.start is None for j in found)


def test_a_name_may_hold_the_separator_and_times_may_have_days():
    job = one(parse_squeue(RUNNING))
    assert (job.name, job.key, job.nodes) == ("a|b", ("859", 0), "d1")
    assert job.elapsed == 26 * 3600 + 3 * 60 + 4
    assert job.reason is None


def test_a_job_that_is_no_array_has_no_index():
    job = one(parse_squeue(HELD))
    assert job.key == ("860", None)
    assert job.reason == "launch failed requeued held"
    assert job.limit is None


def test_what_is_no_row_of_ours_is_left_out():
    text = f"{HELD}\n more of a name\n7+1|RUNNING|None|d1|0:01|5:00|1|1|main|het\n{RUNNING}"
    assert [j.key for j in parse_squeue(text)] == [("860", None), ("859", 0)]


def test_sacct_knows_how_it_ended():
    job = one(parse_sacct(AGAIN))
    assert (job.state, job.exit_code, job.signal, job.limit, job.elapsed) == (
        "FAILED",
        3,
        None,
        300,
        4,
    )
    killed = one(parse_sacct(AGAIN.replace("3:0|0:0", "0:9|0:0")))
    assert (killed.exit_code, killed.signal) == (0, 9)
    by_srun = one(parse_sacct(AGAIN.replace("3:0|0:0", "9:0|0:9")))  # srun ends with the signal
    assert (by_srun.exit_code, by_srun.signal) == (9, 9)
    cancelled = one(parse_sacct(AGAIN.replace("FAILED", "CANCELLED by 1000")))
    assert cancelled.state == "CANCELLED"


def test_out_of_memory_of_a_step_is_seen_though_the_job_says_failed():
    assert one(parse_sacct(AGAIN.replace("3:0|0:0", "1:0|0:125"))).out_of_memory
    assert one(parse_sacct(AGAIN.replace("FAILED", "OUT_OF_MEMORY"))).out_of_memory
    assert not one(parse_sacct(AGAIN)).out_of_memory


@pytest.mark.parametrize("order", [(FIRST, AGAIN), (AGAIN, FIRST)])
def test_the_last_start_counts_and_the_earlier_ones_are_restarts(order):
    job = merge([], list(parse_sacct("\n".join(order))))["859", 0]
    assert (job.state, job.restarts, job.active) == ("FAILED", 1, False)


def test_the_controller_is_right_about_what_waits_or_runs():
    """Accounting says REQUEUED, or nothing new at all, while the job is back in the queue."""
    waits = RUNNING.replace("RUNNING|None|d1", "PENDING|BeginTime|")
    job = merge(list(parse_squeue(waits)), list(parse_sacct(FIRST)))["859", 0]
    assert (job.state, job.reason, job.active, job.restarts) == ("PENDING", "BeginTime", True, 1)


def test_accounting_that_lags_does_not_keep_a_job_running():
    lags = AGAIN.replace("FAILED", "RUNNING")
    ended = RUNNING.replace("RUNNING", "COMPLETED")
    job = merge(list(parse_squeue(ended)), list(parse_sacct(lags)))["859", 0]
    assert (job.state, job.active) == ("COMPLETED", False)
    forgotten = merge([], list(parse_sacct(lags)))["859", 0]
    assert not forgotten.active  # whatever accounting says, the controller does not have it


def test_a_node_failure_is_an_end_only_when_nothing_follows():
    lost = FIRST.replace("REQUEUED", "NODE_FAIL")
    assert merge([], list(parse_sacct(lost)))["859", 0].restarts == 0
    assert merge([], list(parse_sacct(f"{lost}\n{AGAIN}")))["859", 0].restarts == 1


@given(st.sets(st.integers(0, 2000), min_size=1), st.integers(1, 50))
def test_any_array_expression_is_expanded(indices, parallelism):
    text = ",".join(map(str, sorted(indices)))
    line = f"7_[{text}%{parallelism}]|PENDING|None||0:00|5:00|1|N/A|main|x"
    assert {j.index for j in parse_squeue(line)} == indices


def test_no_slurm_here_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoSlurm, match="no squeue on this machine"):
        read_queue(["1"])
