"""The canary's checks, made for real on this machine: what is right, and each thing that may be wrong."""

import re
import shutil
import sys
from dataclasses import replace

import pytest
from helpers_cells import CPU, RUN, data_settings, tiny_cell

from slurm.submit import SAID_WHY
from sweep.canary import environment_here, main
from sweep.canary_words import canary_words
from sweep.folder import PlannedCell, SweepFolder, freeze_plan
from sweep.frozen import Frozen, open_submission
from sweep.submissions import new_submission, write_submission


@pytest.fixture
def canary(tmp_path, shards, text_folder, monkeypatch):
    """Return a function that runs the canary of a sweep; it returns exit status and words."""
    folder, own = SweepFolder(tmp_path, "s"), tmp_path / "shards"
    folder.make()
    shutil.copytree(shards, own)
    freeze_plan(folder, [PlannedCell(tiny_cell(), data_settings(text_folder))])

    def run(disk=1.0, versions=None, **hardware) -> tuple[int, str | None]:
        frozen = Frozen(own, None, replace(CPU, **hardware), RUN, 0, 0)
        wanted = {"versions": versions or environment_here(), "disk_bytes": disk}
        settings = {**frozen.to_dict(), "canary": wanted}
        path = write_submission(
            folder, new_submission(folder, "canary", code="c", settings=settings)
        )
        monkeypatch.setattr(sys, "argv", ["canary", str(path)])
        assert canary_words(folder, open_submission(path)[1]) is None
        return main(), canary_words(folder, open_submission(path)[1])

    run.shards, run.folder = own, folder
    return run


def test_all_is_well(canary, capsys):
    assert canary() == (0, "")
    said = capsys.readouterr().out
    for words in ("ok  code: ", ", torch ", "checksums right", "attention cpu_flash", "GB free"):
        assert words in said
    assert "at the first step of" in said


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"disk": 1e18}, "disk: .* GB free for 1e\\+09 GB of checkpoints: make room, or run"),
        (
            {"versions": {"torch": "0.1"}},
            "environment: torch .*, not 0.1, as where it was launched",
        ),
        ({"device": "cuda"}, "device: .*no GPU here"),
    ],
)
def test_what_is_wrong_is_said_and_the_other_checks_are_made(canary, wrong, words, capsys):
    code, said = canary(**wrong)
    assert code == SAID_WHY
    assert re.match(words, said), said
    assert capsys.readouterr().out.count("ok ") == 4


def test_damaged_shards_are_found_by_their_checksums(canary):
    shard = max(
        (p for p in canary.shards.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size
    )
    whole = bytearray(shard.read_bytes())
    whole[len(whole) // 2] ^= 1
    shard.chmod(0o644)
    shard.write_bytes(whole)
    code, said = canary()
    assert code == SAID_WHY
    assert said.startswith("shards: ")
    assert shard.name in said
