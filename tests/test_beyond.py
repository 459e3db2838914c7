"""The report's section of laws beyond the fit: planted ones come back, and missing data are named."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.annealing import areas
from analysis.beyond import COLUMNS, laws_beyond
from analysis.laws import LAWS
from analysis.laws_moe import KRAJEWSKI, KRAJEWSKI_64
from analysis.multiplier import Multiplier
from analysis.points_columns import OPTIONAL
from analysis.report_beyond import beyond_section
from analysis.report_worth import Worth, worth_section

DEMO = Path(__file__).resolve().parent.parent / "results" / "reference" / "demo"
FITS = json.loads((DEMO / "fits.json").read_text())
RUNS = [(N, D) for N in np.geomspace(1e8, 3e9, 6) for D in np.geomspace(4e9, 4e11, 4)]


def runs(**columns) -> pd.DataFrame:
    """Return runs of a chinchilla law; columns are functions of N, D and loss."""
    frame = pd.DataFrame(RUNS, columns=["N", "D"])
    frame["loss"] = LAWS["chinchilla"].loss([1.7, 400, 800, 0.34, 0.31], frame["N"], frame["D"])
    return frame.assign(**{k: f(frame) for k, f in columns.items()})


def said(law: str, points=None, curves=None, fits=FITS):
    (found,) = (b for b in laws_beyond(fits, points, curves) if b.law.startswith(law))
    return found


def test_every_law_says_something_or_what_it_needs():
    found = laws_beyond(FITS, runs(), None)
    assert all(bool(b.says) != bool(b.needs) for b in found)
    by_law = {b.law: b for b in found}
    assert len(by_law) == len(found) == 13
    for column in COLUMNS:
        assert any(column in b.needs for b in found), column
    assert {b.law for b in found if b.says} == {
        "over-training (Gadre)", "serving counted (Sardana)", "sharp and smooth metrics (Schaeffer)"}  # fmt: skip
    assert set(COLUMNS) <= set(OPTIONAL)  # columns.NAME= maps them
    assert all(b.needs for b in laws_beyond({}, None, None))


def test_a_model_of_half_the_size_is_trained_longer_by_the_headline_law():
    values, f = FITS["approach3"]["parameters"], FITS["forecast"][0]

    def loss(N, D):
        E, A, B, alpha, beta = (values[k] for k in ("E", "A", "B", "alpha", "beta"))
        return E + A / N**alpha + B / D**beta

    times = float(re.search(r"with ([\d.]+)× the tokens", said("over-training").says)[1])
    assert loss(f["N"] / 2, times * f["D"]) == pytest.approx(loss(f["N"], f["D"]), rel=0.01)


def test_serving_moves_the_model_down_and_says_what_that_saves():
    words = said("serving").says
    N = float(re.search(r"N ([\d.]+)k on D", words)[1]) * 1e3
    D = float(re.search(r"on D ([\d.]+)M costs", words)[1]) * 1e6
    saved = float(re.search(r"costs ([\d.]+)% less", words)[1]) / 100
    f = FITS["forecast"][0]

    def cost(N, D):
        return 6 * N * D + 2 * N * 10 * f["D"]

    assert N < f["N"]
    assert 1 - cost(N, D) / cost(f["N"], f["D"]) == pytest.approx(saved, abs=0.01)


def test_one_loss_as_two_metrics():
    words = said("sharp").says
    last, ahead = FITS["approach2"]["minima"][-1]["loss"], FITS["forecast"][0]["loss"]
    assert f"{math.exp(-last):.0%}, then {math.exp(-ahead):.0%}" in words
    assert "10 in a row with probability" in words


def test_tasks_experts_and_transfer_come_back_from_columns_of_the_table():
    points = runs(
        task_error=lambda f: 0.85 - 2 * np.exp(-0.9 * f["loss"]),
        task_loss=lambda f: 0.4 + 60 / f["N"] ** 0.3 + 80 / f["D"] ** 0.28,
        D_F=lambda f: f["D"] / 100,
        D_T=lambda f: 2e4 * (f["D"] / 100) ** 0.2 * f["N"] ** 0.35,
    )
    points["task_accuracy"] = 0.7 / (1 + np.exp(6 * (points["task_loss"] - 0.7))) + 0.25
    assert "error = 0.850 - k exp(-0.900 L)" in said("loss to tasks (", points).says
    assert re.search(
        r"accuracy \d.*% \[.*%\] at the optimum of", said("loss to tasks, ", points).says
    )
    assert "D_F^.20" in said("transfer", points).says.replace("0.20", ".20")

    N, D, G = (v.ravel() for v in np.meshgrid(np.geomspace(1e7, 3e9, 5), np.geomspace(1e9, 3e11, 4), [1, 4, 16]))  # fmt: skip
    loss = KRAJEWSKI.loss(KRAJEWSKI_64, N, D, granularity=G)
    moe = pd.DataFrame({"N": N, "D": D, "loss": loss, "granularity": G, "n_expert": 64})
    assert "E 0.470, A 18.1, G 2.10, B 30.8" in said("mixture of experts (Kra", moe).says
    assert (
        "several values of n_expert: here there is one"
        in said("mixture of experts (Cla", moe).needs
    )


def test_repeated_data_and_best_values():
    once = runs(unique_tokens=lambda f: f["D"])
    assert "here none does" in said("repeated", once).needs
    fits = json.loads(json.dumps(FITS))
    row = next(r for r in fits["laws"] if r["name"] == "data_constrained")
    row |= {"status": "ok", "reason": None}
    row["parameters"]["R_D"] = 12.5
    words = said("repeated", runs(unique_tokens=lambda f: np.minimum(f["D"], 5e10)), fits=fits).says
    assert "R* = 12.5 repetitions by 50% of the runs (ok)" in words
    assert "at most 13.5 times the distinct ones" in words

    tried = pd.concat(
        runs(lr=lambda f, k=k: k * 0.1 * f["N"] ** -0.3) for k in (0.25, 0.5, 1, 2, 4)
    )
    best = 0.1 * tried["N"] ** -0.3
    tried["loss"] *= 1 + 0.01 * np.log2(tried["lr"] / best) ** 2
    words = said("best lr", tried).says
    assert words.startswith("lr* ~ N^")
    assert "0 of 24 groups" in words
    few = tried[tried["lr"] < best]
    assert "four values of lr at one N and D; here there is 2" in said("best lr", few).needs


def test_the_longest_run_is_annealed():
    step = np.arange(50, 1001, 50)
    lr = 3e-3 * np.minimum(1, step / 50) * np.clip((1000 - step) / 300, 0, 1)
    whole = np.interp(np.arange(1, 1001), step, lr)
    S1, S2 = areas(whole)
    loss = 2.6 + 0.6 * S1[step - 1] ** -0.5 - 0.4 * S2[step - 1]
    curve = pd.DataFrame({"cell_id": "long", "step": step, "tokens": 1e3 * step, "lr": lr, "eval_loss": loss})  # fmt: skip
    short = curve.assign(cell_id="short", tokens=10 * step)
    words = said("annealing", curves=pd.concat([short, curve])).says
    assert words.startswith("long: E 2.60, A 0.600, C 0.400, alpha 0.500")
    assert "the longest has 3" in said("annealing", curves=curve.iloc[:3]).needs


def test_values_that_are_no_numbers_are_said_to_be_so():
    points = runs(task_error=lambda f: "many", granularity=lambda f: -1.0)
    assert "numbers in task_error" in said("loss to tasks (", points).needs
    assert said("mixture of experts (Kra", points).needs
    section = beyond_section(FITS, points.assign(D_F=1.0, D_T=-1.0), None)
    assert section.title == "Laws beyond the fit"
    told, _, left, _ = section.blocks
    assert all(line.startswith(("over", "serv", "sharp")) for line in told.items)
    assert len(told.items) + len(left.items) == 13


def test_what_compute_is_worth_has_a_row_a_law_and_a_reason_where_there_is_none():
    m = Multiplier("chinchilla", 1e20, 1.8, (1.2, math.inf), 0.97, (2.1, 2.2), "ok", None)
    section = worth_section([Worth("a", "b", (m,)), Worth("a", "c", problem="nats against bits")])
    table, _, left = section.blocks
    assert table.rows[0][:4] == ("a", "b", "10²⁰", "chinchilla")
    assert table.rows[0][4].replace("\u00a0", " ") == "1.80× [1.2, ∞]"
    assert table.rows[0][7] == "0.97"
    assert left.items == ("a against c: nats against bits",)
    assert worth_section([]) is None
