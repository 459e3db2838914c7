"""One attempt: who may work on it, what it leaves on disk, and what it makes of bad checkpoints."""

import json
import math
import multiprocessing
import resource
import shutil
from dataclasses import replace
from functools import partial

import pytest
import torch
import yaml
from helpers_cells import CPU, MODEL, RUN, data_settings, tiny_cell, write_text

from results.store import read_records
from sweep import checkpoint
from sweep.attempt import Stopped, run_attempt
from sweep.cells import cell_from_row
from sweep.checkpoint import CheckpointError
from sweep.claim import claim, read_status
from sweep.data import open_data, prepare_data
from sweep.device import open_device
from sweep.errors import UsageError
from sweep.folder import SweepFolder
from sweep.settings import RunSettings
from sweep.train import train

CELL = tiny_cell(12)


@pytest.fixture(scope="module")
def device():
    """Open the CPU with one thread."""
    return open_device(CPU)


@pytest.fixture(scope="module")
def asked(text_folder):
    """Ask for the small text."""
    return data_settings(text_folder)


@pytest.fixture(scope="module")
def data(asked, shards):
    """Open rows of 32 tokens."""
    return open_data(shards, asked, MODEL.seq_len)


@pytest.fixture
def run(tmp_path, data, asked, device):
    """Return a function that claims and runs an attempt in one sweep."""
    folder = SweepFolder(tmp_path / "root", "s")

    def run(cell=CELL, resume=True, settings=RUN, **more):
        attempt = claim(folder, cell, resume)
        try:
            return run_attempt(attempt, folder, data, asked, device, settings, **more)
        finally:
            attempt.release()

    run.folder = folder
    return run


@pytest.fixture
def stopped(run):
    """Leave an attempt with a checkpoint of half of its steps."""
    with pytest.raises(Stopped):
        run(should_stop=iter([False] * 5 + [True]).__next__)
    return run.folder.cell(CELL.id) / "0"


def test_a_finished_attempt_is_one_row_that_says_all(run, data, device):
    record = run()
    assert record.status == "finished"
    assert record.reason is None
    assert cell_from_row(vars(record)) == CELL
    assert record.val_tokens == 4096 == data.val_tokens
    assert 0 < record.val_loss < math.log(128)
    assert record.bpb == pytest.approx(record.val_loss / math.log(2), rel=0.01)
    assert record.tokens == 12 * 6 * 32 == record.unique_tokens
    assert record.epochs == 1.0
    assert record.train_seconds <= record.seconds
    assert 0 < record.mfu_of_measured_peak < 1
    assert math.isnan(record.mfu)  # this board has no datasheet peak here
    assert (record.deterministic, record.device, record.restarts) == (True, "cpu", 0)
    assert record.data_sha256 == data.sha256
    rows = read_records(run.folder.records)
    assert rows["val_loss"].tolist() == [record.val_loss]


def test_epochs_count_what_was_seen(run, data):
    rows = len(data.train)
    record = run(tiny_cell(steps=-(-5 * rows // 4 // 128), batch_rows=128))
    assert record.unique_tokens == rows * 32
    assert record.epochs == record.tokens / record.unique_tokens > 1.2


def test_the_folder_says_what_was_asked_and_where_it_ran(run, data):
    run()
    path = run.folder.cell(CELL.id) / "0"
    config = yaml.safe_load((path / "config.yaml").read_text())
    assert cell_from_row(config) == CELL
    assert config["data_source"] == "text_folder"
    env = json.loads((path / "env.json").read_text())
    assert env["data_sha256"] == data.sha256
    assert env["versions"]["torch"]
    assert read_status(path)["state"] == "finished"
    curve = [json.loads(line) for line in (path / "train.jsonl").read_text().splitlines()]
    assert [row["step"] for row in curve] == [3, 6, 9, 12]
    assert [row["tokens"] for row in curve] == [row["step"] * 6 * 32 for row in curve]
    assert curve[-1]["flops"] == pytest.approx(CELL.flops)
    assert read_status(path / "nowhere") == {}


def test_how_often_it_is_evaluated_or_saved_changes_no_loss(run):
    losses = {
        run(resume=False, settings=settings).val_loss
        for settings in (
            RUN,
            RunSettings(evaluations=0, checkpoint_seconds=0.0),
            RunSettings(evaluations=100, checkpoint_seconds=1e9),
        )
    }
    assert len(losses) == 1
    assert read_records(run.folder.records)["attempt"].tolist() == [0, 1, 2]


def test_seconds_of_compiling_have_a_column_of_their_own_and_add_up_over_restarts(
    run, data, asked, device, monkeypatch
):
    """By a backend that needs no C++ compiler."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    compiles = open_device(replace(CPU, compile="true", attention="reference"))
    try:
        attempt = claim(run.folder, CELL, resume=True)
        stop = iter([False] * 5 + [True]).__next__
        with pytest.raises(Stopped):
            run_attempt(attempt, run.folder, data, asked, compiles, RUN, should_stop=stop)
        once = checkpoint.load(attempt.checkpoint)["measured"]["compile_seconds"]
        fused = run_attempt(attempt, run.folder, data, asked, compiles, RUN)
        attempt.release()
    finally:
        open_device(CPU)
    assert fused.status == "finished", fused.reason
    assert (fused.compiled, fused.restarts) == (True, 1)
    assert fused.compile_seconds > once > 0
    assert fused.train_seconds < fused.compile_seconds  # it is in no rate
    eager = run(resume=False)
    assert eager.compiled is False
    assert math.isnan(eager.compile_seconds)
    assert fused.val_loss == pytest.approx(eager.val_loss, rel=1e-5)


def test_progress_is_told_with_a_rate(run):
    told = []
    run(tiny_cell(250), on_progress=told.append)
    assert told
    for p in told:
        assert 0 < p.step <= p.steps == 250
        assert p.tokens_per_second > 0
        assert 0 < p.utilisation < 1
        assert p.seconds_left >= 0


def test_a_stopped_attempt_is_resumed_to_the_same_bits(run, stopped):
    assert read_status(stopped)["state"] == "stopped"
    assert read_status(stopped)["step"] == 6
    assert not run.folder.records.exists()
    record = run()
    assert (record.attempt, record.restarts) == (0, 1)
    assert record.val_loss == run(resume=False).val_loss


def test_stopping_at_the_last_step_is_finishing(run):
    assert run(should_stop=iter([False] * 11 + [True]).__next__).status == "finished"


def _claim_at_once(barrier, folder, numbers):
    barrier.wait()
    attempt = claim(folder, CELL, resume=True)
    numbers.put(attempt.number)
    barrier.wait()


def test_processes_that_claim_one_cell_at_once_get_attempts_of_their_own(tmp_path):
    folder, context = SweepFolder(tmp_path, "s"), multiprocessing.get_context("fork")
    barrier, numbers = context.Barrier(5), context.Queue()
    claimers = [
        context.Process(target=_claim_at_once, args=(barrier, folder, numbers)) for _ in range(5)
    ]
    for claimer in claimers:
        claimer.start()
    got = [numbers.get(timeout=60) for _ in claimers]
    for claimer in claimers:
        claimer.join(60)
    assert len(set(got)) == 5
    again = claim(folder, CELL, resume=True)  # those that died are taken up, not added to
    assert again.number in got
    assert claim(folder, CELL, resume=False).number == max(got) + 1


def test_other_data_than_an_earlier_attempt_saw_is_refused(run, tmp_path, device):
    run()
    other = data_settings(write_text(tmp_path / "other", seed=1))
    shards = prepare_data(other, tmp_path / "cache", lambda line: None)
    attempt = claim(run.folder, CELL, resume=False)
    with pytest.raises(UsageError, match=r"set data\.revision to a new word"):
        run_attempt(attempt, run.folder, open_data(shards, other, 32), other, device, RUN)
    attempt.release()
    assert len(read_records(run.folder.records)) == 1


# bad ends


def test_a_diverged_cell_is_recorded_with_its_step_and_no_loss(run):
    record = run(tiny_cell(60, lr=10.0, lr_embedding=10.0, grad_clip=1e6, eps=1e-20, beta2=0.0))
    assert record.status == "diverged"
    assert record.reason.endswith(f"at step {record.diverged_step} of 60")
    assert 1 < record.diverged_step <= 60
    assert math.isnan(record.val_loss)
    assert record.val_tokens is None


def test_a_cell_whose_last_step_breaks_it_has_diverged_too(run, monkeypatch):
    def breaks_at_the_end(trainer, after_step):
        train(trainer, after_step)
        trainer.model.norm.weight.data.fill_(math.inf)

    monkeypatch.setattr("sweep.attempt.train", breaks_at_the_end)
    record = run()
    assert (record.status, record.diverged_step) == ("diverged", CELL.steps)
    assert record.reason == "loss is nan at step 12 of 12"
    assert math.isnan(record.val_loss)


def test_an_error_is_recorded_and_the_next_attempt_starts_over(run, stopped):
    broken = torch.load(stopped / "checkpoint" / "state.pt", weights_only=True)
    del broken["trainer"]["model"]["head.weight"]
    torch.save(broken, stopped / "checkpoint" / "state.pt")
    record = run()
    assert (record.status, record.attempt) == ("failed", 0)
    assert "head.weight" in record.reason
    assert "Traceback" in (stopped / "error.txt").read_text()
    again = run()
    assert (again.status, again.attempt, again.restarts) == ("finished", 1, 0)


@pytest.mark.parametrize(
    ("rows", "advice"),
    [
        (4, "type it again with hardware.micro_rows=2"),
        (1, "take this size out of model.ladder, or a device with more memory"),
    ],
)
def test_memory_that_runs_out_in_training_fails_the_attempt_and_says_what_to_type(
    tmp_path, data, asked, rows, advice
):
    folder, device = SweepFolder(tmp_path / "root", "s"), open_device(replace(CPU, micro_rows=rows))
    attempt, steps = claim(folder, CELL, resume=True), iter(range(1, 6))
    record = run_attempt(
        attempt, folder, data, asked, device, RUN,
        should_stop=lambda: next(steps) == 5 and torch.empty(10**15),
    )  # fmt: skip
    attempt.release()
    assert record.status == "failed"
    assert record.reason.startswith(
        f"out of memory at step 5 with {rows} sequences at a time: {advice} (RuntimeError: "
    )
    assert "can't allocate memory" in record.reason


@pytest.mark.parametrize("damage", ["cut", "flipped", "a bit of a weight", "empty", "text"])
def test_a_damaged_checkpoint_is_named(run, stopped, damage):
    path = stopped / "checkpoint" / "state.pt"
    whole = path.read_bytes()
    weights = torch.load(path, weights_only=True)["trainer"]["model"]["embed.weight"]
    at = whole.index(weights.numpy().tobytes()) + 3
    path.write_bytes(
        {
            "cut": whole[: len(whole) // 2],
            "a bit of a weight": whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :],
            "flipped": whole[:-60] + bytes(b ^ 255 for b in whole[-60:]),
            "empty": b"",
            "text": b"not a checkpoint",
        }[damage]
    )
    with pytest.raises(CheckpointError, match="delete it to start the attempt over"):
        checkpoint.load(path)
    record = run()
    assert record.status == "failed"
    assert str(path) in record.reason


def test_a_checkpoint_of_another_cell_is_refused(run, stopped):
    other = replace(CELL, seed=1)
    theirs = run.folder.cell(other.id) / "0"
    shutil.copytree(stopped, theirs)
    record = run(other)
    assert record.status == "failed"
    assert f"checkpoint of {CELL.id}, not of {other.id}" in record.reason


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        """Say how to rebuild it: by calling open."""
        return open, (str(self.path), "w")


def test_a_pickle_with_code_in_it_is_refused_and_not_run(run, stopped, tmp_path):
    path, touched = stopped / "checkpoint" / "state.pt", tmp_path / "touched"
    state = torch.load(path, weights_only=True)
    torch.save({**state, "bomb": Bomb(touched)}, path)
    with pytest.raises(CheckpointError, match="can't be read"):
        checkpoint.load(path)
    assert run().status == "failed"
    assert not touched.exists()
    torch.load(path, weights_only=False)["bomb"].close()
    assert touched.exists()  # it was live


def test_a_disk_that_fills_in_the_middle_of_a_checkpoint_keeps_the_one_before(tmp_path):
    path = tmp_path / "checkpoint" / "state.pt"
    checkpoint.save({"step": 1, "weights": torch.zeros(100_000)}, path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size // 2, hard))
    try:
        with pytest.raises((OSError, RuntimeError)):
            checkpoint.save({"step": 2, "weights": torch.ones(100_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert checkpoint.load(path)["step"] == 1
    assert [p.name for p in path.parent.iterdir()] == ["state.pt"]


def test_what_follows_a_failed_attempt_goes_on_from_its_checkpoint(run, stopped):
    size = (stopped / "checkpoint" / "state.pt").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(0.9 * size), hard))
    try:
        failed = run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (failed.status, failed.attempt) == ("failed", 0)
    assert failed.reason
    assert checkpoint.load(stopped / "checkpoint" / "state.pt")["trainer"]["step"] == 6
    record = run()
    assert (record.status, record.attempt, record.resumed_from) == ("finished", 1, 0)
    assert record.restarts == 1
    assert not (stopped / "checkpoint").exists()  # nothing will go on from it any more
    whole = run(resume=False)
    assert (record.val_loss, record.train_loss) == (whole.val_loss, whole.train_loss)
    curves = [
        (run.folder.cell(CELL.id) / n / "train.jsonl").read_text().splitlines() for n in ("1", "2")
    ]
    steps = [[json.loads(line)["step"] for line in curve] for curve in curves]
    assert steps == [[3, 6, 9, 12]] * 2


@pytest.mark.parametrize("lost", ["damaged", "missing"])
def test_without_the_newest_checkpoint_the_one_before_gives_the_same_bits(run, lost, capsys):
    often = RunSettings(evaluations=4, checkpoint_seconds=0.0)
    with pytest.raises(Stopped):
        run(should_stop=iter([False] * 7 + [True]).__next__, settings=often)
    folder = run.folder.cell(CELL.id) / "0" / "checkpoint"
    steps = {p.name: checkpoint.load(p)["trainer"]["step"] for p in folder.iterdir()}
    assert steps == {"state.pt": 8, "previous.pt": 7}
    if lost == "missing":
        (folder / "state.pt").unlink()
    else:
        (folder / "state.pt").write_bytes(b"damaged")
    record = run()
    assert (record.status, record.attempt, record.restarts) == ("finished", 0, 1)
    assert record.val_loss == run(resume=False).val_loss
    assert ("state.pt can't be read" in capsys.readouterr().err) == (lost == "damaged")


def test_an_attempt_that_lost_its_checkpoints_says_so_and_starts_at_step_0(run, stopped, capsys):
    shutil.rmtree(stopped / "checkpoint")
    record = run()
    assert (record.status, record.attempt, record.restarts) == ("finished", 0, 0)
    assert "was at step 6 and has no checkpoint: it starts at step 0" in capsys.readouterr().err
    assert record.val_loss == run(resume=False).val_loss


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        ("none", []),
        ("last", ["state.pt"]),
        ("all", [*(f"step-{n:08d}.pt" for n in (3, 6, 9, 12)), "state.pt"]),
    ],
)
def test_checkpoints_are_kept_as_asked_and_hold_the_trained_model(run, keep, left):
    settings = RunSettings(evaluations=4, checkpoint_seconds=0.0, keep_checkpoints=keep)
    run(settings=settings)
    folder = run.folder.cell(CELL.id) / "0" / "checkpoint"
    assert sorted(p.name for p in folder.glob("*")) == sorted(left)
    if left:
        assert checkpoint.load(folder / "state.pt")["trainer"]["step"] == CELL.steps
