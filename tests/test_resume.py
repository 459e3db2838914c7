"""Killed anywhere and started again, a cell gives the same bits, one record and one clean curve."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
STEPS, EVALUATIONS = 12, 6  # of a cell of the driver

# How often each moment comes in the life of a cell that saves a checkpoint after every step.
COMES = {
    "in a step": STEPS,
    "after a step": STEPS,
    "in an evaluation": EVALUATIONS,
    "in a checkpoint": STEPS,
    "before a checkpoint has its name": STEPS,
    "after a checkpoint": STEPS,
    "in the final evaluation": 1,
    "between checkpoint and record": 1,
    "in the record": 1,
    "between record and status": 1,
}


def draw_moments(n: int) -> list[dict]:
    """Every kind of moment twice, at a seeded count, half of them after an earlier death."""
    rng = random.Random(20_240_607)
    moments = []
    for i, name in enumerate(list(COMES) * (n // len(COMES))):
        kills = [(name, rng.randint(1, COMES[name]))]
        if i >= len(COMES):
            kills.insert(0, ("after a step", rng.randint(1, 6)))
        saves = COMES[name] == 1 or "checkpoint" in name
        seconds = 0.0 if saves and name != "in the final evaluation" else rng.choice([0.0, 1e9])
        if name == "in the final evaluation":
            seconds = 1e9  # the only checkpoint is the one before it
        moments.append(
            {"kills": kills, "checkpoint_seconds": seconds, "seed": i % 3, "noise": i % 2}
        )
    return moments


def run_driver(job: dict, folder: Path) -> list[dict]:
    """Run every moment of a job in one process that forks; returns what each recorded."""
    path = folder / "job.json"
    path.write_text(json.dumps(job))
    done = subprocess.run(
        [sys.executable, TESTS / "kill_driver.py", path],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == len(job["moments"]), done.stderr
    return lines


def check(moment: dict, got: dict, reference: dict) -> None:
    assert got["killed"] == [True] * len(moment["kills"])
    assert got["last"] == 0
    assert (got["records"], got["status"], got["attempts"]) == (1, ["finished"], ["0"])
    for what in ("loss", "train_loss", "weights"):
        assert got[what] == reference[what], what
    assert [row["step"] for row in got["curve"]] == [2, 4, 6, 8, 10, 12]
    for row, wanted in zip(got["curve"], reference["curve"], strict=True):
        assert {**row, "seconds": 0} == {**wanted, "seconds": 0}
    assert got["left"] == []


@pytest.mark.slow
def test_killed_at_20_moments_and_restarted_a_cell_gives_the_same_bits(
    text_folder, shards, tmp_path
):
    """One record, the losses of an undisturbed run, each evaluation once, nothing half-written."""
    whole = [
        {"kills": [], "checkpoint_seconds": 1e9, "seed": seed, "noise": noise}
        for seed in range(3)
        for noise in (0, 1)
    ]
    moments = draw_moments(20)
    lines = run_driver(
        {
            "text": str(text_folder),
            "shards": str(shards),
            "root": str(tmp_path / "root"),
            "moments": [*whole, *moments],
        },
        tmp_path,
    )
    references = {(m["seed"], m["noise"]): line for m, line in zip(whole, lines, strict=False)}
    assert all(r["status"] == ["finished"] and not r["restarts"] for r in references.values())
    assert len({r["loss"] for r in references.values()}) == 6
    wrong = []
    for moment, got in zip(moments, lines[len(whole) :], strict=True):
        try:
            check(moment, got, references[moment["seed"], moment["noise"]])
        except AssertionError as e:
            wrong.append(f"{moment['kills']}: {e}")
    assert not wrong, "\n".join(wrong)
