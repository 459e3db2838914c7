"""The pool of local workers, with real processes that speak its protocol and die in all ways."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from slurm.local import Event, NoWorker, WorkerCommand, WorkerRefused, map_on_workers

WORKER = r"""
import json, os, signal, sys, time

setup = json.loads(sys.stdin.readline())["setup"]
print("a stray word", file=sys.stderr)


def say(**message):
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


starts = os.path.join(setup["folder"], "starts")
with open(starts, "a") as f:
    f.write(f"{os.getpid()}\n")
if len(open(starts).read().split()) <= setup["false_starts"]:
    print("ImportError: no such thing", file=sys.stderr)
    sys.exit(1)
if os.environ["SLOT"] == setup["bad_slot"]:  # fails, once another one has nothing more to do
    while not os.path.exists(os.path.join(setup["folder"], "let-go")):
        time.sleep(0.02)
    sys.exit(1)
if setup["refuses"]:
    say(kind="refused", reason="hardware.device=cuda: no GPU here")
    sys.exit(0)
say(kind="ready")
for line in sys.stdin:
    item = json.loads(line)["item"]
    seen = os.path.join(setup["folder"], item)
    with open(seen, "a") as f:
        f.write(f"{os.getpid()}\n")
    times = len(open(seen).read().split())
    if item.startswith("kill") and times <= int(item[-1]):
        os.kill(os.getpid(), signal.SIGKILL)
    if item.startswith("exit") and times <= int(item[-1]):
        sys.exit(3)
    if item.startswith("half"):
        sys.stdout.write('{"kind": "progress", "item": "' + item + '", "te')
        sys.stdout.flush()
        time.sleep(0.05)
        sys.stdout.write('xt": "' + "x" * 200_000 + '"}\n')
    if item.startswith("slow"):
        say(kind="progress", item=item)
        time.sleep(60)
    if item.startswith("wait"):
        say(kind="progress", item=item)
        sys.stdin.read()
        open(os.path.join(setup["folder"], "saved-" + item), "w").close()
        sys.exit(0)
    say(kind="done", item=item, env=os.environ.get("SLOT"), free=True)
open(os.path.join(setup["folder"], "let-go"), "w").close()
time.sleep(setup["lingers"])
"""


@pytest.fixture
def pool(tmp_path):
    """Return a function that maps items on real workers, and what it saw."""
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    folder = tmp_path / "seen"
    folder.mkdir()
    events: list[Event] = []

    def run(items, workers=2, on_event=events.append, worker=None, **options):
        setup = {"folder": str(folder), "false_starts": 0, "refuses": False}
        setup |= {"bad_slot": None, "lingers": 0, **(worker or {})}
        commands = [
            WorkerCommand(
                argv=[sys.executable, str(script)],
                setup=setup,
                env={"SLOT": str(i)},
                log=tmp_path / f"{i}.log",
            )
            for i in range(workers)
        ]
        map_on_workers(items, commands, on_event, **options)

    run.events, run.folder, run.log = events, folder, tmp_path / "0.log"
    return run


def lives(folder: Path, item: str) -> list[int]:
    """Return the processes that had an item in their hands."""
    return [int(pid) for pid in (folder / item).read_text().split()]


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_every_item_is_done_once_and_workers_end(pool):
    items = [f"item{i}" for i in range(20)]
    pool(items, workers=3)
    assert sorted(e.item for e in pool.events) == sorted(items)
    assert {e.kind for e in pool.events} == {"done"}
    assert all(len(lives(pool.folder, item)) == 1 for item in items)
    pids = {lives(pool.folder, item)[0] for item in items}
    assert len(pids) <= 3
    assert all(gone(pid) for pid in pids)
    assert {e.data["env"] for e in pool.events} <= {"0", "1", "2"}


def test_items_are_begun_in_the_order_that_was_asked(pool):
    items = [f"item{i:02}" for i in range(12)]
    pool(items, workers=1)
    assert [e.item for e in pool.events] == items


def test_an_item_waits_for_the_one_it_comes_after_however_that_ends(pool):
    """Workers without anything to do wait too, and then go on."""
    after = {"b": "a", "c": "b", "after-kill": "kill9", "z": "not asked for"}
    pool(["c", "b", "a", "after-kill", "kill9", "z"], workers=3, after=after)
    ended = [e.item for e in pool.events if e.kind == "done" or e.data.get("again") is False]
    assert sorted(ended) == ["a", "after-kill", "b", "c", "kill9", "z"]
    for later, sooner in (("b", "a"), ("c", "b"), ("after-kill", "kill9")):
        assert ended.index(sooner) < ended.index(later)


def test_a_worker_that_is_given_up_leaves_its_item_to_one_that_had_to_wait(pool):
    (pool.folder / "let-go").touch()
    pool(["a", "b"], workers=2, after={"b": "a"}, worker={"bad_slot": "0"})
    assert [e.item for e in pool.events] == ["a", "b"]


def test_more_workers_than_items_are_not_started(pool, tmp_path):
    pool(["one"], workers=3)
    assert [e.item for e in pool.events] == ["one"]
    assert not (tmp_path / "2.log").exists()


@pytest.mark.parametrize(("item", "how"), [("kill1", "SIGKILL"), ("exit1", "exit status 3")])
def test_a_worker_that_dies_is_replaced_and_its_item_tried_again(pool, item, how):
    pool(["a", item, "b", "c"])
    died = [e for e in pool.events if e.kind == "died"]
    assert [(e.item, e.data["how"], e.data["again"]) for e in died] == [(item, how, True)]
    assert sorted(e.item for e in pool.events if e.kind == "done") == sorted(["a", "b", "c", item])
    assert len(lives(pool.folder, item)) == 2


def test_an_item_that_kills_twice_is_given_up_and_the_rest_is_done(pool):
    pool(["kill9", "a", "b", "c"], workers=1)
    died = [e.data["again"] for e in pool.events if e.kind == "died"]
    assert died == [True, False]
    assert sorted(e.item for e in pool.events if e.kind == "done") == ["a", "b", "c"]
    assert len(lives(pool.folder, "kill9")) == 2


def test_a_message_in_pieces_is_one_message(pool):
    pool(["half"])
    assert [e.kind for e in pool.events] == ["progress", "done"]
    assert len(pool.events[0].data["text"]) == 200_000


def test_what_a_worker_prints_goes_to_its_log(pool):
    pool(["a"], workers=1)
    assert pool.log.read_text() == "a stray word\n"


def test_an_interrupt_lets_workers_save_and_takes_no_new_item(pool):
    def interrupt(event: Event) -> None:
        pool.events.append(event)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pool(["wait1", "wait2", "c"], on_event=interrupt)
    begun = [i for i in ("wait1", "wait2") if (pool.folder / i).exists()]
    assert begun
    for item in begun:
        assert (pool.folder / f"saved-{item}").exists()
        assert gone(lives(pool.folder, item)[0])
    assert not (pool.folder / "c").exists()


def test_a_real_interrupt_reaches_the_parent_only(pool):
    """Ctrl-C signals the whole group of the terminal; workers have sessions of their own."""

    def press() -> None:
        while not (pool.folder / "wait1").exists():
            time.sleep(0.02)
        assert os.getsid(lives(pool.folder, "wait1")[0]) != os.getsid(0)
        os.kill(os.getpid(), signal.SIGINT)

    presser = threading.Thread(target=press)
    presser.start()
    with pytest.raises(KeyboardInterrupt):
        pool(["wait1"])
    presser.join()
    assert (pool.folder / "saved-wait1").exists()


def test_a_worker_that_does_not_stop_is_killed_after_its_grace(pool):
    def interrupt(event: Event) -> None:
        raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        pool(["slow"], on_event=interrupt, grace_seconds=0.5)
    assert time.monotonic() - began < 30
    assert gone(lives(pool.folder, "slow")[0])


def test_a_worker_that_can_not_start_says_nothing_about_its_item(pool):
    pool(["a", "b", "kill1", "c"], workers=1, worker={"false_starts": 1})
    assert sorted(e.item for e in pool.events if e.kind == "done") == ["a", "b", "c", "kill1"]
    assert [(e.item, e.data["again"]) for e in pool.events if e.kind == "died"] == [("kill1", True)]
    assert len(lives(pool.folder, "starts")) == 3  # one false, one killed, one to the end
    assert all(len(lives(pool.folder, item)) == 1 for item in ("a", "b", "c"))


def test_one_slot_that_can_not_start_leaves_its_items_to_the_others(pool):
    (pool.folder / "let-go").touch()
    pool(["a", "b", "c"], workers=2, worker={"bad_slot": "0"})
    assert sorted(e.item for e in pool.events) == ["a", "b", "c"]
    assert {e.kind for e in pool.events} == {"done"}


@pytest.mark.parametrize("lingers", [0, 0.5])
def test_an_item_comes_back_when_the_others_were_already_let_go(pool, lingers):
    """Whether the one that was let go is gone, or still on its way out."""
    pool(["a", "b", "c"], worker={"bad_slot": "1", "lingers": lingers})
    assert sorted(e.item for e in pool.events) == ["a", "b", "c"]
    assert {e.kind for e in pool.events} == {"done"}
    assert {e.data["env"] for e in pool.events} == {"0"}


def test_a_worker_that_was_not_needed_takes_an_item_whose_own_can_not_start(pool):
    (pool.folder / "let-go").touch()
    pool(["a"], worker={"bad_slot": "0"})
    assert [(e.item, e.data["env"]) for e in pool.events] == [("a", "1")]


def test_without_any_worker_no_item_is_touched_and_the_log_is_named(pool):
    with pytest.raises(NoWorker, match=r"exit status 1: ImportError: no such thing \(.*\.log\)"):
        pool(["a", "b"], workers=2, worker={"false_starts": 99})
    assert pool.events == []
    assert len(lives(pool.folder, "starts")) == 4  # each slot twice, whatever the number of items


def test_a_worker_that_refuses_ends_the_launch_with_its_words(pool):
    with pytest.raises(WorkerRefused, match="no GPU here"):
        pool(["a", "b"], worker={"refuses": True})
    assert pool.events == []
    assert not (pool.folder / "a").exists()
