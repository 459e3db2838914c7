"""Trackers: what they are told, one run however often it is resumed, and that none can stop a cell."""

import json
import re
import sys
import threading
from dataclasses import asdict, replace

import pytest
from helpers_cells import CPU, MODEL, RUN, data_settings, tiny_cell

from sweep import trackers, tracking
from sweep.arguments import parse
from sweep.claim import claim
from sweep.errors import UsageError
from sweep.folder import SweepFolder
from sweep.frozen import Frozen
from sweep.resolve import resolve
from sweep.settings import TRACKERS, RunSettings
from sweep.tracking import Speed, follow, values_of
from sweep.verbs import VERBS

CELL = tiny_cell(12)
SPEED = Speed("mfu", 1e-6)
ENDED = {"status": "finished", "reason": None, "val_loss": 2.5, "mfu": float("nan")}


def row_at(step: int) -> dict[str, float]:
    """Return a row of train.jsonl: 192 tokens a step, two steps a second."""
    return {"step": step, "tokens": step * 192, "flops": step * 1e9, "train_loss": 3 - step / 10,
            "eval_loss": 3.1 - step / 10, "eval_tokens": 512, "lr": 0.01, "seconds": step / 2}  # fmt: skip


def add(attempt, *steps: int) -> None:
    with attempt.curve.open("a") as f:
        f.writelines(json.dumps(row_at(step)) + "\n" for step in steps)


def wait_for_all() -> None:
    """Wait as the end of a process does: for the threads that are no daemons."""
    for thread in threading.enumerate():
        if thread.name.startswith("end-of-tracker"):
            thread.join()


class Listed:
    """A tracker that keeps what it is told."""

    runs: list["Listed"]

    def __init__(self, run) -> None:
        self.run, self.told, self.summary = run, [], None
        self.runs.append(self)

    def tell(self, step, values):
        self.told.append((step, dict(values)))

    def end(self, summary):
        self.summary = dict(summary)


@pytest.fixture
def listed(monkeypatch):
    """Put a plain list in the place of trackio, and return the runs that it sees."""
    own = type("Own", (Listed,), {"runs": []})
    monkeypatch.setitem(trackers.OPEN, "trackio", own)
    return own.runs


@pytest.fixture
def sweep(tmp_path):
    """Return the folder of a sweep, and a function that follows an attempt at its one cell."""
    folder, said = SweepFolder(tmp_path / "root", "s"), []

    def start(*names, resume=True, resumed_from=None, **settings):
        attempt = claim(folder, CELL, resume)
        asked = replace(RUN, trackers=names, **settings)
        return attempt, follow(attempt, folder, asked, resumed_from, SPEED, said.append)

    start.folder, start.said = folder, said
    return start


# what they are told


def test_names_of_the_settings_are_those_that_can_be_opened():
    assert tuple(trackers.OPEN) == TRACKERS


def test_rows_are_told_as_they_come_with_speed_over_their_own_stretch(sweep, listed):
    attempt, tracking_ = sweep("trackio")
    add(attempt, 3)
    tracking_.nudge()
    add(attempt, 6, 9)
    tracking_.end(ENDED)
    wait_for_all()
    (run,) = listed
    assert [step for step, _ in run.told] == [3, 6, 9]
    assert run.told[0][1]["tokens_per_second"] == 384  # 3 steps of 192 tokens in 1.5 s
    assert run.told[1][1] == {
        "train_loss": 2.4, "eval_loss": 2.5, "lr": 0.01, "tokens": 1152, "flops": 6e9,
        "tokens_per_second": 384, "mfu": 384e-6,
    }  # fmt: skip
    assert run.summary["val_loss"] == 2.5
    assert (run.run.name, run.run.group, run.run.project) == (CELL.id, "s", "isoflop")
    assert run.run.config["lr"] == CELL.recipe.lr
    assert sweep.said == []


def test_what_is_no_number_is_left_out():
    row = {**row_at(3), "train_loss": float("nan"), "lr": None}
    assert "train_loss" not in (values := values_of(row, None, Speed("mfu", float("nan"))))
    assert {"lr", "mfu"}.isdisjoint(values)
    trunk = {**row_at(2), "seconds": 1e6}  # another attempt took those steps
    assert "tokens_per_second" not in values_of(row_at(3), trunk, SPEED)


def test_a_resumed_attempt_is_the_same_run_and_hears_nothing_twice(sweep, listed):
    attempt, first = sweep("trackio")
    add(attempt, 3, 6)
    first.end()
    wait_for_all()
    attempt.release()
    again, second = sweep("trackio", tracker_project="mine")
    add(again, 9)
    second.end(ENDED)
    wait_for_all()
    assert [[step for step, _ in run.told] for run in listed] == [[3, 6], [9]]
    assert listed[0].run.id == listed[1].run.id
    assert listed[0].summary == {}
    assert listed[1].told[0][1]["tokens_per_second"] == 384
    assert listed[1].run.project == "mine"


def test_an_attempt_that_goes_on_from_a_failed_one_is_the_same_run_and_a_rerun_is_not(
    sweep, listed
):
    attempt, first = sweep("trackio")
    add(attempt, 3)
    first.end({**ENDED, "status": "failed"})
    wait_for_all()
    for resumed_from in (0, None):
        later, more = sweep("trackio", resume=False, resumed_from=resumed_from)
        add(later, 3, 6)
        more.end(ENDED)
        wait_for_all()
    assert [[step for step, _ in run.told] for run in listed] == [[3], [6], [3, 6]]
    ids = [run.run.id for run in listed]
    assert ids[0] == ids[1] != ids[2]
    assert [run.run.name for run in listed] == [CELL.id, CELL.id, f"{CELL.id}.2"]


def test_a_line_that_is_not_whole_yet_is_told_when_it_is(sweep, listed):
    attempt, tracking_ = sweep("trackio")
    whole = json.dumps(row_at(3)) + "\n"
    attempt.curve.write_text(whole[:20])
    tracking_.nudge()
    with attempt.curve.open("a") as f:
        f.write(whole[20:])
    tracking_.end()
    wait_for_all()
    assert [step for step, _ in listed[0].told] == [3]


# what they can't do


@pytest.mark.parametrize("at", ["__init__", "tell", "end"])
def test_a_tracker_that_fails_is_off_with_one_line_and_the_others_go_on(
    sweep, listed, monkeypatch, at
):
    def fail(*_):
        raise OSError("no\nnetwork")

    monkeypatch.setitem(trackers.OPEN, "wandb", type("Bad", (Listed,), {"runs": [], at: fail}))
    attempt, tracking_ = sweep("wandb", "trackio")
    add(attempt, 3, 6)
    tracking_.nudge()
    tracking_.end(ENDED)
    wait_for_all()
    assert [step for step, _ in listed[0].told] == [3, 6]
    assert sweep.said == [f"tracker wandb is off for {CELL.id}: OSError: no network"]


def test_a_tracker_that_hangs_is_left_in_the_end(sweep, monkeypatch):
    free = threading.Event()
    hangs = type("Hangs", (Listed,), {"runs": [], "tell": lambda *_: free.wait(60)})
    monkeypatch.setitem(trackers.OPEN, "wandb", hangs)
    monkeypatch.setattr(tracking, "_PATIENCE", 0.01)
    attempt, tracking_ = sweep("wandb")
    add(attempt, 3)
    tracking_.end(ENDED)
    wait_for_all()
    free.set()
    assert sweep.said == ["tracker wandb did not end in 0 s and is left"]


def test_notes_that_cannot_be_written_only_turn_trackers_off(sweep, listed):
    attempt, _ = sweep()
    (attempt.path / "tracking.json").mkdir()
    attempt.release()
    _, tracking_ = sweep("trackio")
    tracking_.end(ENDED)
    assert listed == []
    assert len(sweep.said) == 1
    assert sweep.said[0].startswith(f"no tracker is told of {CELL.id}: IsADirectoryError")


def test_a_cell_trains_to_the_same_bits_with_trackers_that_work_or_fail(
    tmp_path, shards, text_folder, listed, monkeypatch, capsys
):
    from sweep.attempt import run_attempt
    from sweep.data import open_data
    from sweep.device import open_device

    asked, device = data_settings(text_folder), open_device(CPU)
    data, folder = open_data(shards, asked, MODEL.seq_len), SweepFolder(tmp_path, "s")
    monkeypatch.setitem(trackers.OPEN, "wandb", lambda run: 1 / 0)
    losses = []
    for names in ((), ("wandb", "trackio")):
        attempt = claim(folder, CELL, resume=False)
        settings = replace(RUN, trackers=names)
        record = run_attempt(attempt, folder, data, asked, device, settings)
        attempt.release()
        losses.append(record.val_loss)
    wait_for_all()
    assert losses[0] == losses[1]
    (run,) = listed
    assert [step for step, _ in run.told] == [3, 6, 9, 12]
    assert 0 < run.told[-1][1]["mfu_of_measured_peak"] < 1
    assert run.summary["val_loss"] == losses[1]
    assert run.summary["status"] == "finished"
    assert capsys.readouterr().err.count("\n") == 1
    curve = (attempt.curve).read_text().splitlines()
    assert [v["eval_loss"] for _, v in run.told] == [json.loads(r)["eval_loss"] for r in curve]


# what is asked of them


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("run.trackers=[mlflow]", "run.trackers: mlflow is unknown; it may be tensorboard, wandb"),
        ("run.trackers=[wandb,wandb]", "run.trackers names one twice"),
        ("run.tracker_project=mine", "run.tracker_project is read by wandb and trackio only"),
        (
            "run.trackers=[wandb]",
            "run.trackers=wandb: its package is not installed; type .* -m pip",
        ),
    ],
)
@pytest.mark.parametrize("verb", ["launch", "run"])
def test_what_cannot_be_is_refused_before_anything_is_written(
    command, tmp_path, monkeypatch, verb, word, says
):
    monkeypatch.setitem(sys.modules, "wandb", None)  # as where it is not installed
    words = [verb, "grid=smoke", word, *(["cell=c1.4e10-n11k"] if verb == "run" else [])]
    code, _, err = command(*words)
    assert code == 2
    assert err.count("\n") == 1
    assert re.search(says, err), err
    assert not (tmp_path / "outputs").exists()


def test_a_mere_folder_of_its_name_is_not_the_package(monkeypatch, tmp_path):
    (tmp_path / "trackio").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "trackio", raising=False)
    with pytest.raises(UsageError, match="trackio: its package is not installed"):
        trackers.check_trackers(["trackio"])


def test_trackers_change_no_cell_and_reach_the_jobs(tmp_path):
    words = [f"root={tmp_path}", "grid=smoke"]
    more = ["run.trackers=[tensorboard,wandb]", "run.tracker_project=a b"]
    plain, tracked = (parse("launch", w, VERBS["launch"].reads).app for w in (words, words + more))
    assert resolve(plain).planned == resolve(tracked).planned
    settings = RunSettings(
        evaluations=4, checkpoint_seconds=1.0, trackers=tracked.run.trackers,
        tracker_project=tracked.run.tracker_project,
    )  # fmt: skip
    frozen = Frozen(shards=tmp_path, node_cache=None, hardware=CPU, run=settings, max_requeues=1,
                    retries=0)  # fmt: skip
    back = Frozen.from_dict(json.loads(json.dumps(frozen.to_dict())))
    assert back.run == settings
    assert back.run.trackers == ("tensorboard", "wandb")
    assert asdict(back.run)["tracker_project"] == "a b"


# the packages themselves


@pytest.fixture
def patient(monkeypatch):
    """Wait for a package's import, however busy the machine is."""
    monkeypatch.setattr(tracking, "_PATIENCE", 600)


def two_lives(sweep, name: str):
    """Track an attempt, resume it, and end it."""
    attempt, first = sweep(name)
    add(attempt, 3, 6)
    first.end()
    wait_for_all()
    attempt.release()
    again, second = sweep(name)
    add(again, 9)
    second.end(ENDED)
    wait_for_all()
    assert sweep.said == []
    return again


def test_tensorboard_shows_curves_over_tokens(sweep, patient):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    two_lives(sweep, "tensorboard")
    folder = sweep.folder.path / "tracking" / "tensorboard" / CELL.id
    found = events.EventAccumulator(str(folder)).Reload()
    points = [(p.step, round(p.value, 5)) for p in found.Scalars("eval_loss")]
    assert points == [(576, 2.8), (1152, 2.5), (1728, 2.2)]
    flops = [p.value for p in found.Scalars("flops")]
    assert flops == pytest.approx([3e9, 6e9, 9e9])  # its scalars are float32
    assert [p.value for p in found.Scalars("record/val_loss")] == [2.5]
    assert "record/mfu" not in found.Tags()["scalars"]


def test_wandb_keeps_one_offline_run(sweep, patient, monkeypatch):
    wandb = pytest.importorskip("wandb")
    pb = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    monkeypatch.setenv("WANDB_MODE", "offline")
    try:
        two_lives(sweep, "wandb")
    finally:
        wandb.teardown()
    files = sorted(sweep.folder.path.glob("tracking/wandb/offline-run-*/run-*.wandb"))
    steps, ids, summary = [], set(), {}
    for file in files:
        for content in leveldb_records(file.read_bytes()):
            record = pb.Record.FromString(content)
            if record.WhichOneof("record_type") == "run":
                run = record.run
                ids.add((run.run_id, run.display_name, run.run_group, run.project))
            items = {i.key or "/".join(i.nested_key): i.value_json for i in record.history.item}
            if "eval_loss" in items:
                steps.append((record.history.step.num, round(float(items["eval_loss"]), 5)))
            summary |= {i.key: i.value_json for i in record.summary.update}
    assert len(files) == 2  # offline, each life is a folder: wandb sync --append joins them
    assert sorted(steps) == [(3, 2.8), (6, 2.5), (9, 2.2)]
    known = json.loads(next(sweep.folder.path.glob("cells/*/0/tracking.json")).read_text())
    assert ids == {(known["id"], CELL.id, "s", "isoflop")}
    assert summary["record/val_loss"] == "2.5"


def leveldb_records(file: bytes):
    """Cut a log of LevelDB: blocks of 32 KiB; crc, length, type (1 whole, 4 the last part), content."""
    at, parts = 7, b""  # after the file's own header
    while at + 7 <= len(file):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(file[at + 4 : at + 6], "little"), file[at + 6]
        parts += file[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield parts
            parts = b""


def test_trackio_keeps_one_run(sweep, patient, monkeypatch, tmp_path):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    two_lives(sweep, "trackio")
    known = json.loads(next(sweep.folder.path.glob("cells/*/0/tracking.json")).read_text())
    (run,) = SQLiteStorage.get_runs("isoflop")
    assert known["id"][:6] in str(run)
    logs = SQLiteStorage.get_logs("isoflop", run)
    assert [r["eval_loss"] for r in logs if "eval_loss" in r] == pytest.approx([2.8, 2.5, 2.2])
