"""launch.stop_hopeless and the outlook of status: cells that really train, beside laws that are known."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers_cells import CPU, MODEL, data_settings, tiny_cell
from helpers_cli import environment, tiny_grid

from analysis.fits_file import FitsError
from analysis.points import points_from_records
from analysis.stored_law import read_stored_law
from results.store import read_records, results_of
from sweep.arguments import parse
from sweep.attempt import run_attempt
from sweep.claim import StatusFile, claim, read_status
from sweep.data import open_data
from sweep.device import open_device
from sweep.folder import PlannedCell, SweepFolder, freeze_plan
from sweep.frozen import Frozen
from sweep.resolve import resolve, run_settings
from sweep.settings import RunSettings
from sweep.stop_rule import StopRule
from sweep.submissions import new_submission, write_submission
from sweep.verbs import VERBS

DEMO = Path(__file__).resolve().parent.parent / "results" / "reference" / "demo" / "fits.json"
OFTEN = RunSettings(evaluations=8, checkpoint_seconds=1e9)
CELLS = [tiny_cell(24, seed=seed) for seed in range(6)]


def law_file(path: Path, loss: float, sd: float = 0.01, **points: object) -> Path:
    """Write the demo's fits.json with a law that says one loss of every cell, to a standard error."""
    content = json.loads(DEMO.read_text())
    at = {"E": loss, "A": 1e-9, "B": 1e-9, "alpha": 0.3, "beta": 0.3}
    content["approach3"] |= {"law": "chinchilla", "status": "ok", "reason": None}
    row = next(r for r in content["laws"] if r["name"] == "chinchilla")
    covariance = np.zeros((5, 5))
    covariance[0, 0] = sd**2
    row |= {"parameters": at, "covariance": covariance.tolist(), "weight": 1.0}
    row["noise"] = {"rms": 0.001}
    content["laws"] = [row]
    content["points"] |= {"budgets": [1e6, 1e30], **points}
    path.write_text(json.dumps(content))
    return path


# what a fits.json predicts without being fitted again


def test_a_stored_law_predicts_as_its_constants_and_covariance_say(tmp_path):
    law = read_stored_law(DEMO)
    row = next(r for r in json.loads(DEMO.read_text())["laws"] if r["name"] == "chinchilla")
    E, A, B, alpha, beta = (row["parameters"][k] for k in ("E", "A", "B", "alpha", "beta"))
    N, D = 1e5, 3e6
    loss = E + A / N**alpha + B / D**beta
    got = law.expected(N, D, 6 * N * D)
    assert got.loss == pytest.approx(loss, rel=1e-12)
    slopes = np.array([1, N**-alpha, D**-beta, -A * np.log(N) / N**alpha, -B * np.log(D) / D**beta])
    sampling = slopes @ np.array(row["covariance"]) @ slopes / loss**2
    reach = np.log(got.interval[1] / loss) / 1.6448536269514722
    assert reach**2 > sampling  # forms and noise come on top
    alone = law_file(tmp_path / "fits.json", 2.0, sd=0.02)
    low, high = read_stored_law(alone).expected(1e5, 1e6, 6e11).interval
    sd = math.hypot(0.01, 0.001)  # .02 / 2 nats, and the noise
    assert (low, high) == pytest.approx((2 * math.exp(-1.644854 * sd), 2 * math.exp(1.644854 * sd)))


@pytest.mark.parametrize(
    ("changes", "C", "reason"),
    [
        ({"holdout": [{"z": None}]}, 1e12, "the top budget could not be predicted"),
        ({"holdout": [{"z": -3.2}]}, 1e12, "was missed by 3.2 sd"),
        ({"holdout": [{"z": 0.3}]}, 1e14, "52.1x the top budget of the fit, which passed 4x"),
        ({}, 3e12, "1.56x the top budget of the fit: E not identified"),
    ],
)
def test_what_hold_outs_did_not_show_has_no_interval(tmp_path, changes, C, reason):
    content = json.loads(DEMO.read_text()) | changes
    if changes:
        content["approach3"]["status"] = "ok"
    path = tmp_path / "fits.json"
    path.write_text(json.dumps(content))
    got = read_stored_law(path).expected(1e5, C / 6e5, C)
    assert reason in got.reason
    assert np.isfinite(got.loss)
    assert np.isnan(got.interval).all()


def test_a_law_that_predicts_no_run_says_why(tmp_path):
    path = tmp_path / "fits.json"
    for change, message in (
        ({"approach3": {"law": None, "status": "too_few", "reason": "3 runs"}}, r"\(3 runs\)"),
        ({"groups": {"a": {}, "b": {}}}, r"one fit a group \(a, b\)"),
        ({"schema_version": 99}, "this code reads"),
    ):
        path.write_text(json.dumps(json.loads(DEMO.read_text()) | change))
        with pytest.raises(FitsError, match=message):
            read_stored_law(path)


# training


@pytest.fixture(scope="module")
def sweep(tmp_path_factory, shards, text_folder):
    """Train four cells to their end, for others to be judged by."""
    folder = SweepFolder(tmp_path_factory.mktemp("root"), "s")
    folder.make()
    asked = data_settings(text_folder)
    freeze_plan(folder, [PlannedCell(cell, asked) for cell in CELLS])
    data, device = open_data(shards, asked, MODEL.seq_len), open_device(CPU)

    def train(cell, rule=None):
        attempt = claim(folder, cell, resume=True)
        why = (lambda: None) if rule is None else rule.why_end(folder, attempt)
        try:
            return run_attempt(attempt, folder, data, asked, device, OFTEN, hopeless=why)
        finally:
            attempt.release()

    return folder, train, [train(cell).val_loss for cell in CELLS[:4]]


def rule_of(cell, loss: float) -> StopRule:
    return StopRule("a/fits.json", "0" * 64, 0.9, {cell.id: (loss, 0.99 * loss, 1.01 * loss)})


def test_a_healthy_cell_goes_on_and_a_hopeless_one_is_stopped(sweep):
    folder, train, losses = sweep
    healthy, cell = CELLS[4], CELLS[5]
    assert train(healthy, rule_of(healthy, float(np.mean(losses)))).status == "finished"

    record = train(cell, rule_of(cell, 0.5 * float(np.mean(losses))))
    assert record.status == "stopped"
    assert 0 < record.stopped_step < cell.steps
    assert record.reason.startswith(f"hopeless at {record.stopped_step / cell.steps:.0%} of its")
    assert "will end at" in record.reason
    assert "by a/fits.json, sha256 000000000000" in record.reason
    assert math.isnan(record.val_loss)
    assert record.seconds > 0
    path = folder.cell(cell.id) / "0"
    curve = [json.loads(line) for line in (path / "train.jsonl").read_text().splitlines()]
    assert curve[-1]["step"] == record.stopped_step
    assert read_status(path)["state"] == "stopped"

    points = points_from_records(read_records(folder.records))
    assert cell.id not in points.row
    assert [(e.row, e.reason) for e in points.excluded] == [(cell.id, f"stopped: {record.reason}")]


def test_a_cell_that_no_law_predicts_is_never_ended(sweep):
    _, train, _ = sweep
    other = tiny_cell(24, seed=77)
    assert train(other, rule_of(CELLS[0], 0.1)).status == "finished"


@pytest.mark.slow
def test_a_job_of_slurm_stops_a_hopeless_cell_and_goes_on_when_asked(sweep, shards, text_folder):
    """The task of an array, without SLURM around it: its environment is all that it needs."""
    folder, _, losses = sweep
    cell = tiny_cell(24, seed=9)
    whole = [*CELLS, cell]
    freeze_plan(folder, [PlannedCell(c, data_settings(text_folder)) for c in whole])
    code = Path(__file__).resolve().parent.parent

    def job(**more):
        frozen = Frozen(
            shards=shards,
            node_cache=None,
            hardware=CPU,
            run=OFTEN,
            max_requeues=0,
            retries=0,
            **more,
        )
        one = new_submission(
            folder, "cells", code="x", resources={}, settings=frozen.to_dict(), tasks=((cell.id,),)
        )
        path = write_submission(folder, one)
        here = {"SLURM_JOB_ID": "1", "SLURM_ARRAY_TASK_ID": "0", "PYTHONPATH": str(code)}
        done = subprocess.run(
            [sys.executable, "-P", "-m", "sweep.job", path], env=environment(**here),
            capture_output=True, text=True, timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    stop = rule_of(cell, 0.5 * float(np.mean(losses)))
    assert f"{cell.id} stopped hopeless at" in job(stop=stop)
    assert f"{cell.id} is stopped already" in job()
    assert f"{cell.id} finished, loss" in job(anew={cell.id: 0})
    rows = read_records(folder.records).set_index("cell_id").loc[cell.id]
    assert rows["status"].tolist() == ["stopped", "finished"]
    assert rows["resumed_from"].tolist()[1] == 0


# the command line


def train_seeds(words: list[str], text_folder, shards) -> dict[str, float]:
    app = parse("launch", words, VERBS["launch"].reads).app
    resolved, device = resolve(app), open_device(CPU)
    losses = {}
    for planned in resolved.planned:
        data = open_data(shards, planned.data, planned.cell.model.seq_len)
        attempt = claim(resolved.folder, planned.cell, resume=False)
        record = run_attempt(
            attempt, resolved.folder, data, planned.data, device, run_settings(app.run)
        )
        attempt.release()
        losses[planned.cell.id] = record.val_loss
    return losses


@pytest.mark.slow
def test_a_launch_stops_hopeless_cells_and_trains_them_only_when_asked(
    text_folder, shards, tmp_path, command
):
    root = tmp_path / "root"
    one = {"budgets": "[2e8]", "grid__probe": "false"}
    words = tiny_grid(root, text_folder, grid__seeds="[0,1]", **one)
    first = train_seeds(words, text_folder, shards)
    assert len(first) >= 4
    more = tiny_grid(root, text_folder, grid__seeds="[0,1,2]", **one)
    straight = train_seeds([*more[1:], f"root={tmp_path / 'other'}"], text_folder, shards)
    law = law_file(tmp_path / "fits.json", 0.5 * float(np.mean(list(first.values()))))

    stop = ["launch.stop_hopeless=true", f"launch.fits={law}", "cluster.workers=1"]
    code, out, err = command("launch", *more, *stop)
    assert (code, err) == (0, "")
    assert "stopped: hopeless at" in out
    folder = SweepFolder(root, "tiny")
    results = results_of(read_records(folder.records)).set_index("cell_id")["status"]
    new = set(straight) - set(first)
    assert {i for i, s in results.items() if s == "stopped"} == new
    records = {p.name for p in folder.records.iterdir()}
    code, out, _ = command("launch", *more)
    assert code == 0
    assert "cells of sweep=tiny are done" in out
    assert {p.name for p in folder.records.iterdir()} == records

    code, out, _ = command("status", f"root={root}", "sweep=tiny")
    assert code == 0
    assert "(stopped): hopeless at" in out
    assert "launch.only=stopped" in out
    code, out, _ = command("collect", f"root={root}", "sweep=tiny")
    assert f"{len(first)} of {len(straight)} planned cells" in out

    code, _, err = command("launch", *more, "launch.only=stopped", "cluster.workers=1")
    assert (code, err) == (0, "")
    results = results_of(read_records(folder.records)).set_index("cell_id")
    assert set(results["status"]) == {"finished"}
    assert results["val_loss"].to_dict() == straight  # to the bit: they went on where they were


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["launch.fits=x.json"], "launch.fits is read with launch.stop_hopeless=true only"),
        (["launch.stop_hopeless=true"], "needs a law: .* does not exist"),
        (["launch.stop_hopeless=true", "launch.fits=gone.json"], "gone.json does not exist"),
        (["launch.stop_hopeless=true", "launch.fits=chinchilla.json"], "counts FLOPs by chinchilla"),
        (["launch.stop_hopeless=true", "launch.fits=given.json"], "counts N as its points gave it"),
        (["launch.stop_hopeless=true", "launch.fits=bits.json"], "losses in bits"),
        (["launch.stop_hopeless=true", "launch.fits=far.json"], "would end no cell .*the top budget"),
        (["launch.stop_hopeless=true", "launch.fits=law.json", "run.evaluations=3"], "at least 4"),
        (["launch.only=some"], "it may be failed or stopped"),
    ],
)  # fmt: skip
def test_what_can_end_nobody_is_refused_before_anything_is_written(
    text_folder, tmp_path, command, words, message
):
    law_file(tmp_path / "law.json", 2.0)
    law_file(tmp_path / "chinchilla.json", 2.0, flop_rule="chinchilla")
    law_file(tmp_path / "given.json", 2.0, N_convention="given")
    law_file(tmp_path / "bits.json", 2.0, loss_unit="bits")
    law_file(tmp_path / "far.json", 2.0, budgets=[1.0, 2.0])
    code, _, err = command("launch", *tiny_grid(tmp_path / "root", text_folder), *words)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert re.search(message, err), err
    assert not (tmp_path / "root").exists()


def test_status_says_where_running_cells_lead(sweep, command, tmp_path, text_folder):
    folder, _, losses = sweep
    cell = tiny_cell(24, seed=40)
    freeze_plan(folder, [PlannedCell(c, data_settings(text_folder)) for c in (*CELLS, cell)])
    where = [f"root={folder.root}", f"sweep={folder.name}"]
    law = law_file(tmp_path / "good.json", float(np.mean(losses)))
    assert (
        "status.fits: no cell is in training" in command("status", *where, f"status.fits={law}")[1]
    )
    attempt = claim(folder, cell, resume=True)
    try:
        StatusFile(attempt).say("running", 18)
        finished = (folder.cell(CELLS[0].id) / "0" / "train.jsonl").read_text().splitlines()
        attempt.curve.write_text("".join(f"{line}\n" for line in finished[:6]))
        _, out, err = command("status", *where)
        assert err == ""
        assert "where it leads (no law: the sweep has no fits.json yet" in out
        assert f"{cell.id} at 75%: will end at" in out
        assert "validation - training" in out
        _, out, _ = command("status", *where, f"status.fits={law}")
        assert f"{cell.id} at 75%: beats, will end at" in out
        assert "predicted; the law's interval [" in out
        bad = law_file(tmp_path / "bad.json", 0.5 * losses[0])
        _, out, _ = command("status", *where, f"status.fits={bad}")
        assert f"{cell.id} at 75%: hopeless, will end at" in out
        rows = [json.loads(line) for line in finished[:6]]
        for row in rows[-2:]:
            row["eval_loss"] *= 1.5
        attempt.curve.write_text("".join(json.dumps(row) + "\n" for row in rows))
        _, out, _ = command("status", *where, f"status.fits={law}")
        assert f"{cell.id} at 75%: diverged, the loss is" in out
        code, _, err = command("status", *where, "status.fits=gone.json")
        assert (code, len(err.splitlines())) == (2, 1)
        assert "status.fits=gone.json: gone.json does not exist" in err
    finally:
        attempt.release()


def test_what_a_launch_froze_comes_back():
    rule = rule_of(CELLS[0], 2.0)
    frozen = Frozen(
        shards=Path("x"), node_cache=None, hardware=CPU, run=OFTEN, max_requeues=1, retries=2,
        anew={CELLS[0].id: 3, CELLS[1].id: 0}, stop=rule,
    )  # fmt: skip
    assert Frozen.from_dict(json.loads(json.dumps(frozen.to_dict()))) == frozen
    own = frozen.of_cells({CELLS[1].id})
    assert (own.anew, own.stop.expected) == ({CELLS[1].id: 0}, {})
