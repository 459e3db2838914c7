"""Leases, with real processes that hold them, die, stand still, and wake up again."""

import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from slurm.lease import Holder, Lease, LeaseLost, Watch, holder, try_take

ELSEWHERE = {"host": "far", "pid": 1, "machine": "another kernel", "started": "1"}


def take(folder: Path) -> Lease:
    lease = try_take(folder)
    assert lease is not None
    return lease


def pretend(lease: Lease, **owner: object) -> None:
    """Write who holds it, as if it were somebody else."""
    lease.stage("owner.json").write_text(json.dumps(owner))


def test_one_holder_at_a_time_and_numbers_that_only_grow(tmp_path):
    first = take(tmp_path)
    assert try_take(tmp_path) is None
    assert holder(tmp_path).owner["pid"] == os.getpid()
    first.release()
    assert holder(tmp_path) is None
    second = take(tmp_path)
    assert second.number == first.number + 1
    with pytest.raises(LeaseLost):
        first.check()
    first.release()  # no harm: it has no lease to give
    second.check()


def _take_at_once(barrier, folder, got):
    barrier.wait()
    lease = try_take(folder)
    got.put(lease and lease.number)
    barrier.wait()  # nobody is dead before all have tried


@pytest.mark.parametrize("before", ["free", "given back"])
def test_of_many_that_take_at_once_one_gets_it(tmp_path, before):
    if before == "given back":
        take(tmp_path).release()
    context = multiprocessing.get_context("fork")
    barrier, got = context.Barrier(8), context.Queue()
    takers = [
        context.Process(target=_take_at_once, args=(barrier, tmp_path, got)) for _ in range(8)
    ]
    for taker in takers:
        taker.start()
    numbers = [got.get(timeout=60) for _ in takers]
    for taker in takers:
        taker.join(60)
    assert len([n for n in numbers if n is not None]) == 1


def test_of_many_that_take_over_at_once_one_gets_it(tmp_path):
    old = take(tmp_path)
    over, got, barrier = holder(tmp_path), [], threading.Barrier(8)

    def taker() -> None:
        barrier.wait()
        got.append(try_take(tmp_path, over=over))

    threads = [threading.Thread(target=taker) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    won = [lease for lease in got if lease is not None]
    assert len(won) == 1
    won[0].check()
    with pytest.raises(LeaseLost):
        old.check()
    assert try_take(tmp_path, over=over) is None  # who saw an older holder pushes nobody aside


def test_what_a_twin_has_staged_never_reaches_its_place(tmp_path):
    twin = take(tmp_path)
    staged, place = twin.stage("record.part"), tmp_path / "record"
    staged.write_text("the twin's")
    lease = try_take(tmp_path, over=holder(tmp_path))
    for once in (True, False):
        with pytest.raises(LeaseLost):
            twin.put(staged, place, only_once=once)
    with pytest.raises(FileNotFoundError):  # nor where the check came a moment too early
        os.link(staged, place)
    with pytest.raises(FileNotFoundError):
        twin.stage("more").write_text("x")
    assert not place.exists()
    mine = lease.stage("record.part")
    mine.write_text("mine")
    lease.put(mine, place, only_once=True)
    assert place.read_text() == "mine"
    other = lease.stage("record.part")
    other.write_text("again")
    with pytest.raises(FileExistsError):
        lease.put(other, place, only_once=True)


def test_a_holder_that_is_dead_here_is_not_waited_for(tmp_path):
    code = f"from pathlib import Path; from slurm.lease import try_take; try_take(Path({str(tmp_path)!r}))"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert holder(tmp_path).is_dead()
    assert isinstance(Watch(1e9).take(tmp_path), Lease)


def test_nobody_is_called_dead_who_can_not_be_seen(tmp_path):
    lease = take(tmp_path)
    for owner in ({}, ELSEWHERE, {**holder(tmp_path).owner, "machine": None}):
        pretend(lease, **owner)
        assert not holder(tmp_path).is_dead()
    assert not Holder(1, tmp_path, {"machine": None, "pid": 1, "started": None}).is_dead()


def test_a_process_id_that_was_given_out_again_is_another_process(tmp_path):
    lease = take(tmp_path)
    pretend(lease, **{**holder(tmp_path).owner, "started": "1"})
    assert holder(tmp_path).is_dead()


def test_silence_is_counted_on_the_watchers_clock_alone(tmp_path):
    lease = take(tmp_path)
    pretend(lease, **ELSEWHERE)
    watch = Watch(0.3)
    os.utime(lease.path, (1, 1))  # its machine thinks that it is 1970
    assert isinstance(watch.take(tmp_path), Holder)
    os.utime(lease.path, (4e9, 4e9))
    assert isinstance(watch.take(tmp_path), Holder)
    time.sleep(0.4)
    assert isinstance(watch.take(tmp_path), Lease)


def test_a_holder_that_beats_is_left_alone_and_says_that_it_lives(tmp_path):
    lost, beats = threading.Event(), []
    lease = take(tmp_path)
    pretend(lease, **ELSEWHERE)
    lease.keep(0.6, lost.set, lambda: beats.append(1))
    watch = Watch(5.0)
    first = holder(tmp_path).beat()
    give_up = time.monotonic() + 60
    while holder(tmp_path).beat() == first:
        assert time.monotonic() < give_up
        time.sleep(0.05)
    assert isinstance(watch.take(tmp_path), Holder)
    taken = try_take(tmp_path, over=holder(tmp_path))
    assert lost.wait(60)  # it learns that it was pushed aside
    assert beats
    taken.release()


def test_a_beat_after_release_is_no_loss(tmp_path):
    lost = threading.Event()
    lease = take(tmp_path)
    lease.keep(0.06, lost.set)
    lease.release()
    time.sleep(0.3)
    assert not lost.is_set()


@pytest.mark.parametrize(
    ("theirs", "mine", "earlier"),
    [(("7", 0), ("7", 1), True), (("7", 1), ("7", 1), False), (("7", 2), ("7", 1), False),
     (("8", 0), ("7", 1), False), ((None, 0), (None, 1), False)],
)  # fmt: skip
def test_an_earlier_life_of_the_same_job_gives_way(tmp_path, monkeypatch, theirs, mine, earlier):
    lease = take(tmp_path)
    pretend(lease, **ELSEWHERE, slurm_job_id=theirs[0], restart_count=theirs[1])
    if mine[0]:
        monkeypatch.setenv("SLURM_JOB_ID", mine[0])
    monkeypatch.setenv("SLURM_RESTART_COUNT", str(mine[1]))
    assert holder(tmp_path).is_earlier_life() is earlier
    assert isinstance(Watch(1e9).take(tmp_path), Lease) is earlier
