"""The pool of local workers, when they die at any moment: every item ends, and ends once."""

import random
import sys
from pathlib import Path

import pytest

from slurm.local import Event, NoWorker, WorkerCommand, map_on_workers

WORKER = r"""
import json, os, random, sys, time

setup = json.loads(sys.stdin.readline())["setup"]
with open(setup["lives"], "a") as f:
    f.write("x")
fate = random.Random(f'{setup["seed"]} {setup["lives"][-1]} {os.path.getsize(setup["lives"])}')


def pause():
    time.sleep(0.03 * fate.random() ** 3)


def say(**message):
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


pause()
if fate.random() < setup["false_starts"]:
    os._exit(1)
say(kind="ready")
for line in sys.stdin:
    item = json.loads(line)["item"]
    pause()
    luck = fate.random()
    if luck < 0.12:
        os._exit(3)
    if luck < 0.2:
        os._exit(75)
    say(kind="held" if luck < 0.3 else "done", item=item, free=True)
pause()
"""


@pytest.mark.parametrize("seed", range(40))
def test_whoever_dies_every_item_ends_once_unless_nobody_is_left(tmp_path, seed):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    draw = random.Random(seed)
    items = [f"item{i}" for i in range(draw.randint(1, 6))]
    after = {b: items[draw.randrange(i)] for i, b in enumerate(items) if i and draw.random() < 0.3}
    false_starts = draw.choice([0, 0.2, 0.5])
    slots = [tmp_path / f"lives{i}" for i in range(draw.randint(1, 3))]
    commands = [
        WorkerCommand(
            argv=[sys.executable, "-S", str(script)],
            setup={"seed": seed, "lives": str(lives), "false_starts": false_starts},
            env={},
            log=lives.with_suffix(".log"),
        )
        for lives in slots
    ]
    events: list[Event] = []
    try:
        map_on_workers(items, commands, events.append, after=after)
    except NoWorker:
        assert all(_size(lives) >= 2 for lives in slots)  # each was given its second chance
        assert len(ended(events)) < len(items)
    else:
        assert sorted(ended(events)) == items
    assert len(set(ended(events))) == len(ended(events))


def ended(events: list[Event]) -> list[str]:
    """Return the items that were done or given up, one for each time."""
    return [e.item for e in events if e.kind == "done" or e.data.get("again") is False]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
