"""Several processes that train one cell over gloo: the same losses, the same bits again, no orphans."""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from helpers_cells import CPU, MODEL, RUN, data_settings, tiny_cell

from sweep import checkpoint
from sweep.attempt import Stopped, run_attempt
from sweep.cells import cell_to_row
from sweep.claim import claim
from sweep.data import open_data
from sweep.device import open_device
from sweep.folder import SweepFolder

TESTS = Path(__file__).parent
CELL = tiny_cell(12, batch_rows=10)
EXPERTS = {"n_expert": 4, "n_shared_expert": 2}


def drive(text_folder, shards, folder, runs: dict[str, dict]) -> dict[str, dict]:
    """Train the runs in forked ranks; returns what rank 0 of each saw."""
    job = folder / "job.json"
    common = {"micro_rows": None, "seed": 0, "model": {}, "stops": []}
    filled = [common | run for run in runs.values()]
    job.write_text(json.dumps({"text": str(text_folder), "shards": str(shards), "runs": filled}))
    done = subprocess.run(
        [sys.executable, TESTS / "ranks_driver.py", job],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(runs, map(json.loads, done.stdout.splitlines()), strict=True))


def test_any_split_gives_the_losses_of_none_and_its_own_bits_again(text_folder, shards, tmp_path):
    saw = drive(
        text_folder,
        shards,
        tmp_path,
        {
            "one": {"ranks": 1},
            "one in parts": {"ranks": 1, "micro_rows": 4},
            "one in parts, stopped": {"ranks": 1, "micro_rows": 4, "stops": [7]},
            "two": {"ranks": 2},
            "two again": {"ranks": 2},
            "two, stopped": {"ranks": 2, "stops": [5, 6]},
            "four": {"ranks": 4},
            "four in parts": {"ranks": 4, "micro_rows": 2},
            "four in parts, stopped": {"ranks": 4, "micro_rows": 2, "stops": [1, 8]},
            "four again": {"ranks": 4},
            "another seed": {"ranks": 4, "seed": 1},
            "experts": {"ranks": 1, "model": EXPERTS},
            "experts in parts": {"ranks": 1, "micro_rows": 4, "model": EXPERTS},
            "experts, two, stopped": {"ranks": 2, "stops": [5], "model": EXPERTS},
            "experts, two": {"ranks": 2, "model": EXPERTS},
        },
    )
    for name, run in saw.items():
        assert len(run["weights"]) == 1, f"{name}: the ranks ended with different weights"
        if name.startswith("experts"):
            assert run["losses"] == pytest.approx(saw["experts"]["losses"], rel=1e-5)
        elif name != "another seed":
            assert run["losses"] == pytest.approx(saw["one"]["losses"], rel=1e-5)
    for name, same in (
        ("one in parts, stopped", "one in parts"),
        ("two again", "two"),
        ("two, stopped", "two"),
        ("four again", "four"),
        ("four in parts, stopped", "four in parts"),
        ("experts, two, stopped", "experts, two"),
    ):
        assert saw[name] == saw[same], name
    assert [saw[name]["micro_rows"] for name in ("one", "two", "four")] == [10, 5, 3]
    assert saw["another seed"]["losses"] != saw["four"]["losses"]
    noise = {name: run["noise"] for name, run in saw.items()}
    assert noise["one"] != noise["one"]  # nothing is split: not known
    assert all(0 < noise[name] for name in ("one in parts", "two", "four"))


def test_followers_are_started_lead_to_a_record_and_end(text_folder, shards, tmp_path):
    asked = data_settings(text_folder)
    data, folder = open_data(shards, asked, MODEL.seq_len), SweepFolder(tmp_path, "s")
    device = open_device(replace(CPU, ranks=2))

    def run(**more):
        attempt = claim(folder, CELL, resume=True)
        try:
            return run_attempt(attempt, folder, data, asked, device, RUN, shards=shards, **more)
        finally:
            attempt.release()

    with pytest.raises(Stopped):
        run(should_stop=iter([False] * 4 + [True]).__next__)
    assert not torch.distributed.is_initialized()
    assert followers() == []
    state = checkpoint.load(folder.cell(CELL.id) / "0" / "checkpoint" / "state.pt")
    assert (state["trainer"]["step"], state["trainer"]["ranks"]) == (5, 2)
    record = run()
    assert (record.status, record.reason, record.restarts) == ("finished", None, 1)
    assert (record.n_device, record.micro_batch) == (2, 5)
    assert 0 < record.mfu_of_measured_peak < 1
    assert followers() == []


def test_a_follower_whose_leader_died_before_they_met_ends(text_folder, shards):
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    setup = {
        "rank": 1, "port": store.port, "hardware": asdict(replace(CPU, ranks=2)),
        "cell": cell_to_row(CELL), "data": data_settings(text_folder).to_columns(),
        "shards": str(shards), "node_cache": None,
    }  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "sweep.follower"], cwd=TESTS.parent, stdin=subprocess.PIPE,
        text=True,
    ) as follower:  # fmt: skip
        follower.stdin.write(json.dumps(setup) + "\n")
        follower.stdin.close()
        assert follower.wait(240) == 0  # alone it would wait for the others for an hour


def followers() -> list[int]:
    """List processes of this test that train along; those that end get a moment to."""
    give_up = time.monotonic() + 5
    while True:
        found = [
            int(stat.parent.name)
            for stat in Path("/proc").glob("[0-9]*/cmdline")
            if _is_follower(stat)
        ]
        if not found or time.monotonic() > give_up:
            return found
        time.sleep(0.1)


def _is_follower(cmdline: Path) -> bool:
    try:
        parent = int((cmdline.parent / "stat").read_text().rsplit(")", 1)[1].split()[1])
        return b"sweep.follower" in cmdline.read_bytes() and parent == os.getpid()
    except (FileNotFoundError, ProcessLookupError):
        return False
