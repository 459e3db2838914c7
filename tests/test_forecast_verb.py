"""isoflop forecast: any budget or run from a fits.json, registered before it is run, scored after."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.fit import fit
from analysis.fits_file import plain_json, read_fits
from analysis.laws import LAWS
from analysis.points import load_points
from analysis.refitting import evidence_of
from results.store import read_records
from sweep import fitted_file

REFERENCE = Path(__file__).resolve().parent.parent / "results" / "reference" / "demo"

THETA = np.array([1.7, 400.0, 800.0, 0.34, 0.31])
LAW = LAWS["chinchilla"]
OPTIONS = {"draws": 60, "targets": (1e22, 1e24)}


def sweep(noise: float = 0.003, seed: int = 0, theta: np.ndarray = THETA) -> pd.DataFrame:
    C = np.repeat(1e17 * 8.0 ** np.arange(5), 7)
    N = np.tile(np.geomspace(0.25, 4, 7), 5) * 0.09 * np.sqrt(C)
    D = C / (6 * N)
    loss = LAW.loss(theta, N, D) * np.exp(np.random.default_rng(seed).normal(0, noise, len(C)))
    return pd.DataFrame({"N": N, "D": D, "loss": loss})


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Return a fits.json with forecasts at 1e22 and 1e24."""
    folder = tmp_path_factory.mktemp("fitted")
    sweep().to_csv(folder / "runs.csv", index=False)
    fit(load_points(folder / "runs.csv"), **OPTIONS).write(folder / "fits.json")
    return folder / "fits.json"


@pytest.fixture(scope="module")
def made():
    """Hold what files were fitted to in this module, by their runs and options."""
    return {}


@pytest.fixture(autouse=True)
def each_file_is_fitted_again_once(monkeypatch, made):
    """Keep the evidence of a file for the tests that ask the same file: seconds each."""

    def once(fits, points=None):
        key = json.dumps([fits["points"], fits["provenance"], sorted(fits.get("groups") or {})])
        if key not in made:
            made[key] = evidence_of(fits, points)
        return made[key]

    monkeypatch.setattr(fitted_file, "evidence_of", once)


def answer(command, *words: str) -> dict:
    code, out, err = command("forecast", *words, "forecast.format=json")
    assert (code, err) == (0, "")
    return json.loads(out)


def test_a_target_of_the_file_is_the_file_s_own(command, fitted):
    got = answer(command, f"fits=[{fitted}]", "forecast.targets=[1e22]")
    stored = read_fits(fitted)["forecast"]
    assert got["forecast"] == [f for f in stored if f["C"] == 1e22]
    assert answer(command, f"fits={fitted.parent}")["forecast"] == stored


def test_any_other_target_is_what_the_fit_itself_would_have_said(command, fitted):
    """The runs are in the file: the table that they came from may be gone, or another."""
    alone = fitted.parent / "elsewhere"
    alone.mkdir(exist_ok=True)
    (alone / "fits.json").write_bytes(fitted.read_bytes())
    got = answer(command, f"fits=[{alone}]", "forecast.targets=[3e21,1e24]")
    right = fit(sweep(), draws=60, targets=(3e21, 1e24)).forecast
    assert got["forecast"] == plain_json(right)
    assert got["warnings"] == []


def test_a_run_that_is_named_has_its_loss_with_an_interval(command, fitted):
    got = answer(command, f"fits=[{fitted}]", "forecast.at=[[3e9,60000000000],[3e7,6e12]]")
    assert got["forecast"] == []
    assert [f["law"] for f in got["at"]] == ["chinchilla", "average"] * 2
    near, _, far, _ = got["at"]
    low, high = near["loss_interval"]
    assert low < float(LAW.loss(THETA, 3e9, 6e10)) < high
    assert near["C"] == pytest.approx(6 * 3e9 * 6e10)
    assert near["status"] == "ok"
    assert far["status"] == "unvalidated"
    assert "D/N = 2e+05 lies outside" in got["beyond_validated"]


def test_at_the_optimum_both_ways_of_asking_agree(command, fitted):
    best = read_fits(fitted)["forecast"][0]
    got = answer(command, f"fits=[{fitted}]", f"forecast.at=[[{best['N']!r},{best['D']!r}]]")
    assert got["at"][0]["loss"] == pytest.approx(best["loss"], rel=1e-9)
    assert got["at"][0]["C"] == pytest.approx(best["C"])


def test_what_was_not_validated_is_in_the_first_line(command, fitted):
    code, out, _ = command("forecast", f"fits=[{fitted}]", "forecast.targets=[1e22,1e26,1e12]")
    first, *lines = out.splitlines()
    assert code == 0
    assert first.startswith("Beyond what these data validated: C=1e+26: ")
    assert "C=1e+12: below the smallest budget, 1e+17" in first
    assert "C=1e+22" not in first
    forecasts = [line for line in lines if not line.startswith("    plain")]
    assert len(lines) == len(forecasts) + 3
    assert [line.split(":")[0] for line in forecasts] == [
        f"forecast at C={C} ({law})"
        for C in ("1e+22", "1e+26", "1e+12")
        for law in ("chinchilla", "average")
    ]
    _, out, _ = command("forecast", f"fits=[{fitted}]", "forecast.targets=[1e22]")
    assert out.startswith("forecast at C=1e+22 (chinchilla): N=")


def test_a_recipe_that_did_not_transfer_is_the_first_line(command, fitted, tmp_path):
    fits = json.loads(fitted.read_text())
    for f in fits["forecast"]:
        f["recipe"] = "not_transferred"
    (tmp_path / "fits.json").write_text(json.dumps(fits))
    asked = ("forecast.targets=[1e22,1e24]",)
    code, out, _ = command("forecast", f"fits=[{tmp_path}]", *asked)
    assert code == 0
    assert out.startswith("recipe not_transferred: cells were not near their best learning rate")
    assert "recipe not_transferred" not in command("forecast", f"fits=[{fitted}]", *asked)[1]


def test_points_are_fitted_first(command, fitted, tmp_path):
    got = answer(command, f"points={fitted.parent / 'runs.csv'}", "out=there", "fit.draws=60",
                 "forecast.targets=[1e22,1e24]")  # fmt: skip
    assert got["forecast"] == read_fits(fitted)["forecast"]
    assert read_fits(tmp_path / "there" / "fits.json")["forecast"] == got["forecast"]


def test_a_sweep_is_asked_by_its_name(command, fitted, tmp_path):
    (tmp_path / "root" / "mine").mkdir(parents=True)
    (tmp_path / "root" / "mine" / "fits.json").write_bytes(fitted.read_bytes())
    got = answer(command, "root=root", "sweep=mine")
    assert [f["C"] for f in got["forecast"]] == [1e22, 1e22, 1e24, 1e24]


def test_a_prediction_is_written_once_and_scored_once(command, fitted, tmp_path):
    words = (f"fits=[{fitted}]", "preregister=reg.jsonl")
    made = answer(command, *words, "forecast.targets=[1e22]")["registered"]
    assert [m["law"] for m in made] == ["chinchilla", "average"]
    assert made[0]["fit_sha256"] == answer(command, f"fits={fitted}")["sha256"]
    assert {"date", "git_sha", "loss_interval"} <= set(made[0])
    before = (tmp_path / "reg.jsonl").read_bytes()
    code, _, err = command("forecast", *words, "forecast.targets=[1e22]")
    assert code == 2
    assert "was registered on" in err
    assert (tmp_path / "reg.jsonl").read_bytes() == before
    answer(command, *words, "forecast.at=[[3e9,6e10]]")

    best = read_fits(fitted)["forecast"][0]
    N = np.array([best["N"] * 1.05, best["N"] * 3])  # the first is nearer
    D = 1e22 / (6 * N)
    runs = pd.DataFrame({"N": N, "D": D, "loss": LAW.loss(THETA, N, D) * [1.001, 1.2]})
    runs.to_csv(tmp_path / "came.csv", index=False)
    got = answer(command, "score=came.csv", "preregister=reg.jsonl")
    assert got["scored_now"] == [m["id"] for m in made]
    assert len(got["waiting"]) == 2  # the named run did not come
    first = got["scores"][0]
    assert first["observed"] == pytest.approx(runs.loss[0])
    assert first["error"] == pytest.approx(np.log(best["loss"] / runs.loss[0]))
    variance = sum(best["variance"].values()) + made[0]["noise"] ** 2
    assert first["z"] == pytest.approx(first["error"] / np.sqrt(variance))
    assert first["inside_interval"] is True
    assert [(c["law"], c["inside"], c["n"]) for c in got["coverage"]] == [
        ("chinchilla", 1, 1), ("average", 1, 1)]  # fmt: skip

    pd.DataFrame({"N": [3e9], "D": [6e10], "loss": [9.0]}).to_csv(tmp_path / "more.csv")
    code, out, _ = command("forecast", "score=more.csv", "preregister=reg.jsonl")
    assert code == 0
    assert "So far, chinchilla: 1 of 2 inside the 90% interval" in out
    size = (tmp_path / "reg.jsonl").stat().st_size
    runs.assign(loss=0.1).to_csv(tmp_path / "came.csv", index=False)
    assert answer(command, "score=came.csv", "preregister=reg.jsonl")["scored_now"] == []
    assert (tmp_path / "reg.jsonl").stat().st_size == size


def test_a_run_that_does_not_judge_a_prediction_says_why(command, fitted, tmp_path):
    answer(command, f"fits=[{fitted}]", "preregister=reg.jsonl", "forecast.targets=[1e22]")
    far = {"N": 1e12, "D": 1e22 / 6e12, "loss": 2.0}
    pd.DataFrame([far, {"N": 1e9, "D": 2e10, "loss": 2.5}]).to_csv(tmp_path / "came.csv")
    code, out, _ = command("forecast", "score=came.csv", "preregister=reg.jsonl")
    assert code == 1
    assert "the run nearest in size has N=1e+12, outside the" in out
    pd.DataFrame([{"N": 1e9, "D": 2e10, "loss": 2.5}]).to_csv(tmp_path / "came.csv")
    assert "no run at C=1e+22 within 2%" in command(
        "forecast", "score=came.csv", "preregister=reg.jsonl")[1]  # fmt: skip


@pytest.fixture
def demo(tmp_path):
    """Return a copy of the committed demo, whose fits.json is of before fits held their runs."""
    folder = tmp_path / "demo"
    folder.mkdir()
    for name in ("records.parquet", "fits.json"):
        (folder / name).write_bytes((REFERENCE / name).read_bytes())
    fits = json.loads((folder / "fits.json").read_text())
    fits["points"].pop("rows", None)
    fits["provenance"]["options"]["draws"] = 120  # intervals are not looked at
    (folder / "fits.json").write_text(json.dumps(fits))
    return folder


def test_records_beside_an_older_file_are_its_runs_and_late_runs_do_not_count(command, demo):
    cell = read_records(demo / "records.parquet").iloc[0]
    at = f"forecast.at=[[{float(cell.N_flops)!r},{cell.tokens}]]"
    (first, _) = answer(command, f"fits={demo}", at, "preregister=reg")["registered"]
    got = answer(command, f"score={demo}", "preregister=reg")
    assert got["scores"][0]["id"] == first["id"]
    assert got["scores"][0]["observed"] == cell.val_loss
    assert got["scores"][0]["status"] == "late"
    assert got["coverage"] == []
    code, out, _ = command("forecast", f"score={demo}", "preregister=reg")
    assert code == 0
    assert "not counted: the first run began at 20" in out


def test_records_are_no_judge_of_a_given_N_unless_told_which(command, demo, fitted):
    answer(command, f"fits={fitted}", "preregister=reg")
    code, _, err = command("forecast", f"score={demo}", "preregister=reg")
    assert code == 2
    assert "say which, as columns.N=N_total" in err
    columns = ("columns.N=N_total", "columns.D=tokens", "columns.C=flops", "columns.loss=val_loss")
    records = f"score={demo / 'records.parquet'}"
    code, out, _ = command("forecast", records, "preregister=reg", *columns)
    assert code == 1
    assert "is not scored: its C counts 6nd, that of the runs given" in out
    code, _, err = command("forecast", "score=demo/none", "preregister=reg")
    assert (code, err.count("\n")) == (2, 1)
    (demo / "records.parquet").unlink()
    assert (
        "first: isoflop collect sweep=demo"
        in command("forecast", "score=demo", "preregister=reg")[2]
    )


def test_two_fits_are_compared(command, fitted, tmp_path):
    """B needs 30% more of the loss that falls with N."""
    worse = THETA * np.array([1, 1.3, 1, 1, 1])
    fit(sweep(0.001, 1, worse), draws=30).write(tmp_path / "b.json")
    code, out, err = command("forecast", f"fits=[{fitted},b.json]")
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0].startswith(f"A is {fitted}, B is b.json.")
    at = f"at C={1e17 * 8**4:.3g}"  # the top budget of both
    assert [line.split(":")[0] for line in lines[1:]] == [f"{at} (chinchilla)", f"{at} (average)"]
    assert all("A beats B with probability 1.00" in line for line in lines[1:])


BAD = [
    (["fits=[none.json]"], "none.json does not exist: isoflop fit makes it"),
    (["fits=[F]", "sweep=x"], "sweep is not read with fits="),
    (["fits=[F]", "fit.law=tied"], "fit.law is not read with fits="),
    (["fits=[F,F,F]"], "fits= takes one or two, got 3"),
    (["fits=[]"], "fits= has no value, such as fits=[A]"),
    (["fits=[F,F]", "forecast.at=[[1e9,1e10]]"], "forecast.at goes with one fit"),
    (["fits=[F,F]", "preregister=r"], "preregister goes with one fit"),
    (["fits=[F]", "forecast.targets=[-1]"], "forecast.targets must be positive FLOPs"),
    (["fits=[F]", "forecast.targets=[]"], "forecast.targets must be positive FLOPs"),
    (["fits=[F]", "forecast.at=[[1e9]]"], "must be pairs [N, D] of positive numbers"),
    (["fits=[F]", "forecast.at=[[1e9,0]]"], "must be pairs [N, D] of positive numbers"),
    (["fits=[F]", "forecast.at=[1e9,1e10]"], "must be pairs [N, D] of positive numbers"),
    (["fits=[F]", "forecast.at=[[1e9,true]]"], "must be pairs [N, D] of positive numbers"),
    (["fits=[F]", "forecast.format=xml"], "forecast.format=xml is unknown; it may be text or json"),
    (["points=F"], "points=FILE needs out=FOLDER"),
    (["root=r", "sweep=nothing"], "r sweep=nothing"),
    (["root=r", "sweep=nothing"], "first: isoflop fit root="),
    (["sweep=nothing", "fit.law=tied"], "fit.law is not read here"),
    (["score=F"], "name the registry too: preregister=FILE"),
    (["score=F", "preregister=F"], "line 1 is no entry of a registry"),
    (["score=F", "preregister=no.jsonl"], "holds no prediction: register one before a run"),
    (["score=F", "preregister=no.jsonl", "forecast.targets=[1]"], "forecast.targets is not read"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "message"), BAD, ids=[" ".join(w) for w, _ in BAD])
def test_what_makes_no_sense_is_refused(command, fitted, tmp_path, words, message):
    code, out, err = command("forecast", *(w.replace("F", str(fitted)) for w in words))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert list(tmp_path.iterdir()) == []


def changed(fitted, path, **parts):
    path.write_text(json.dumps({**json.loads(fitted.read_text()), **parts}))
    return path


def test_a_file_that_can_not_be_asked_says_what_to_do(command, fitted, tmp_path):
    whole = json.loads(fitted.read_text())
    bare = {k: v for k, v in whole["points"].items() if k != "rows"}
    short = {**whole["points"], "rows": {**whole["points"]["rows"], "N": [1e9]}}
    cases = [
        ({"schema_version": 99}, "has fits schema 99, this code reads 1: run isoflop fit again"),
        ({"points": bare}, "it is of before fits held their runs: run isoflop fit again"),
        ({"points": short}, "its points.rows are not the 35 runs of points.n"),
        ({"groups": {"c4": {}}}, "it holds one fit for each of c4: choose one by fit.where="),
        ({"provenance": {}}, "it does not say with which options it was fitted"),
    ]  # fmt: skip
    for parts, message in cases:
        path = changed(fitted, tmp_path / "odd.json", **parts)
        code, _, err = command("forecast", f"fits=[{path}]", "forecast.targets=[5e22]")
        assert (code, err.count("\n")) == (2, 1)
        assert message in err


def test_a_fit_that_failed_gives_its_reason_and_no_number(command, fitted, tmp_path):
    failed = [{**f, "loss": None, "loss_interval": None, "N": None, "status": "failed",
               "reason": "no start led anywhere"}
              for f in json.loads(fitted.read_text())["forecast"]]  # fmt: skip
    path = changed(fitted, tmp_path / "failed.json", forecast=failed)
    code, out, err = command("forecast", f"fits=[{path}]")
    assert (code, err) == (1, "")
    assert "forecast at C=1e+22 (chinchilla): failed, no start led anywhere" in out
    code, _, err = command("forecast", f"fits=[{path}]", "preregister=r")
    assert code == 2
    assert "has nothing to write" in err


def test_other_code_than_the_file_s_is_told_of(command, fitted, tmp_path):
    stored = [{**f, "loss": f["loss"] * 1.001} for f in json.loads(fitted.read_text())["forecast"]]
    path = changed(fitted, tmp_path / "old.json", forecast=stored)
    (warning,) = answer(command, f"fits=[{path}]", "forecast.targets=[2e22]")["warnings"]
    assert "other code or libraries made it; run isoflop fit" in warning
