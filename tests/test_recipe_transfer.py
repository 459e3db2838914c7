"""The verdict on a recipe: planted sweeps, numbers worked out by hand, and evidence that is thin."""

import json
from functools import cache

import numpy as np
import pandas as pd
import pytest
from planted_recipe import planted_records, probed_grid
from scipy import stats

from analysis.fitted import Resampling, fit_points
from analysis.points import points_from_records
from analysis.recipe_probes import LIMIT, CellStatus
from analysis.recipe_transfer import Verdict, transfer
from sweep.grid import Grid

OCTAVE = np.log(2) ** 2 * 0.01  # curvature of planted losses at sharpness .01


@cache
def grid() -> Grid:
    return probed_grid()


def planted(**truth) -> pd.DataFrame:
    return planted_records(grid(), **truth)


def test_a_tuned_recipe_transfers():
    t = transfer(planted())
    assert t.verdict is Verdict.TRANSFERRED
    assert len(t.cells) == 6
    for c in t.cells:
        assert c.status is CellStatus.WITHIN
        assert c.best_factor == pytest.approx(1, abs=1e-9)
        assert c.excess == pytest.approx(0, abs=1e-12)
    assert t.drift == pytest.approx(0, abs=1e-9)
    assert t.line.startswith("recipe transferred: 6 cells of 2 budgets: at most 0.00% above tuned")


def test_a_fixed_learning_rate_under_a_drifting_best_one_does_not():
    """Every number has a closed form: log loss is a parabola in log lr."""
    t = transfer(planted(drift=-0.3))
    assert t.verdict is Verdict.NOT_TRANSFERRED
    tuned_at = next(c.D for c in t.cells if c.status is CellStatus.WITHIN and c.best_factor > 0.999)
    for c in t.cells:
        octaves = -0.3 * np.log2(c.D / tuned_at)
        assert c.best_factor == pytest.approx(2**octaves)
        assert c.at_edge == (abs(octaves) >= 1)
        inside = OCTAVE * octaves**2
        assert c.excess == pytest.approx(OCTAVE * (2 * abs(octaves) - 1) if c.at_edge else inside)
        too_much = c.at_edge or c.excess > LIMIT
        assert c.status is (CellStatus.OVER if too_much else CellStatus.WITHIN)
    assert t.drift == pytest.approx(-0.3)
    assert "best at or beyond half the learning rate" in t.reason
    assert "D^-0.30" in t.reason


def test_noise_of_a_fifth_of_a_percent_leaves_both_verdicts_as_they_are():
    for seed in range(3):
        assert transfer(planted(noise=0.002, seed=seed + 10)).verdict is not Verdict.NOT_TRANSFERRED
        drifting = transfer(planted(noise=0.002, sharpness=0.02, drift=-0.3, seed=seed))
        assert drifting.verdict is Verdict.NOT_TRANSFERRED


def test_noise_that_would_hide_the_limit_is_no_evidence_of_transfer():
    verdicts = [transfer(planted(noise=0.01, seed=seed)) for seed in range(6)]
    assert sum(t.verdict is Verdict.NOT_PROBED for t in verdicts) >= 4
    undecided = next(t for t in verdicts if t.verdict is Verdict.NOT_PROBED)
    assert undecided.hidden > LIMIT
    assert "the probes can't tell" in undecided.reason
    assert "more grid.seeds" in undecided.reason


def test_a_better_loss_at_twice_the_batch_is_a_recipe_that_does_not_transfer():
    t = transfer(planted(noise=1e-5, batch_gain=0.01))
    assert t.verdict is Verdict.NOT_TRANSFERRED
    probed = [c for c in t.cells if np.isfinite(c.batch_excess)]
    assert len(probed) == 2
    for c in probed:
        assert c.batch_excess == pytest.approx(0.01, abs=1e-4)
    assert "better at twice the batch" in t.reason
    assert transfer(planted(noise=1e-5, batch_gain=0.002)).verdict is Verdict.TRANSFERRED


def test_an_interval_is_the_parabola_of_slopes_within_the_noise():
    t = transfer(planted(noise=0.002, seed=1))
    far = float(stats.t.ppf(0.95, 4)) * t.noise.sd / np.sqrt(2)
    assert t.noise.df == 4
    for c in t.cells:
        low, high = c.interval
        assert 0 <= low <= c.excess <= high
        if c.best_factor < 2 and not c.at_edge:
            slope = np.log(c.loss_double / c.loss_half) / 2
            bend = abs(slope / (2 * np.log2(c.best_factor)))
            if abs(slope) + far < 2 * bend:
                assert high == pytest.approx((abs(slope) + far) ** 2 / (4 * bend))


def test_the_noise_is_that_of_the_seeds_alone():
    records = planted(drift=-0.3)
    own = records[records["probe"] == "seed"]["probe_of"].unique()
    for cell_id, shift in zip(own, (0.01, 0.02), strict=True):
        twins = (records["probe_of"] == cell_id) & (records["probe"] == "seed")
        records.loc[twins, "val_loss"] *= np.exp(np.array([shift, -shift]))
    t = transfer(records)
    assert t.noise.sd == pytest.approx(np.sqrt((2 * 0.01**2 + 2 * 0.02**2) / 4))
    assert t.noise.df == 4


def test_without_seeds_the_best_estimates_decide_and_there_is_no_interval():
    for drift, verdict in ((0.0, Verdict.TRANSFERRED), (-0.3, Verdict.NOT_TRANSFERRED)):
        records = planted(drift=drift)
        t = transfer(records[records["probe"] != "seed"])
        assert t.verdict is verdict
        assert np.isnan(t.cells[0].interval).all()
        assert "no seeds" in t.reason


def test_a_sweep_without_probes_says_so():
    records = planted()
    t = transfer(records[records["probe"].isna()])
    assert (t.verdict, t.cells) == (Verdict.NOT_PROBED, ())
    seeds_only = records[records["probe"].isna() | (records["probe"] == "seed")]
    assert transfer(seeds_only).verdict is Verdict.NOT_PROBED


def test_seeds_of_the_grid_are_averaged_and_noise_falls_with_them():
    seeds = (0, 1, 2, 3)
    four = probed_grid(seeds=seeds)
    t = transfer(planted_records(four, noise=0.004, seed=3))
    assert len(t.cells) == 6
    assert {c.seeds for c in t.cells} == {4}
    assert t.noise.df == 3 * len({(c.budget, c.model) for c in four.cells})
    assert t.noise.sd == pytest.approx(0.004, rel=0.2)
    single = transfer(planted(noise=0.004, seed=3))
    assert t.hidden < single.hidden / 2
    exact = planted_records(four, drift=-0.3)
    for c, one in zip(transfer(exact).cells, transfer(planted(drift=-0.3)).cells, strict=True):
        assert c.excess == pytest.approx(one.excess, abs=1e-12)
    exact.loc[exact["probe"] == "lr_half", "val_loss"] *= [
        np.exp(0.01 * (-1) ** i) for i in range(24)
    ]
    assert transfer(exact).drift == pytest.approx(-0.3)


def test_a_hold_out_in_the_same_recipe_sees_nothing_of_a_drift():
    """The reason for probes: under planted drift the fit is clean and the hold-out passes."""
    records = planted(drift=-0.3, noise=3e-4)
    points = points_from_records(records[records["probe"].isna()])
    top = points.budget == points.budgets[-1]
    fitted = fit_points(points.take(~top), "chinchilla", "ls", 1e-3, Resampling("size", 0, 0.9))
    error = np.log(fitted.loss(points.N, points.D) / points.loss)
    assert np.std(error[~top]) < 0.002
    assert abs(np.mean(error[top])) < 0.003
    assert transfer(records).verdict is Verdict.NOT_TRANSFERRED


def test_a_missing_probe_leaves_a_good_sweep_undecided_and_a_bad_one_bad():
    def without_one(records: pd.DataFrame, status: str) -> pd.DataFrame:
        first = records.index[records["probe"] == "lr_half"][0]
        records.loc[first, ["status", "val_loss"]] = [status, np.nan]
        return records

    t = transfer(without_one(planted(), "failed"))
    assert t.verdict is Verdict.NOT_PROBED
    assert "have not ended" in t.reason
    assert [c.status for c in t.cells].count(CellStatus.INCOMPLETE) == 1
    assert transfer(without_one(planted(drift=-0.3), "failed")).verdict is Verdict.NOT_TRANSFERRED


def test_a_learning_rate_that_diverges_is_worse_and_no_missing_run():
    def diverging(records: pd.DataFrame) -> pd.DataFrame:
        records.loc[records["probe"] == "lr_double", ["status", "val_loss"]] = ["diverged", np.nan]
        return records

    t = transfer(diverging(planted()))
    assert t.verdict is Verdict.TRANSFERRED
    assert all(c.loss_double == np.inf for c in t.cells)
    drifting = transfer(diverging(planted(drift=-0.3)))
    assert drifting.verdict is Verdict.NOT_TRANSFERRED
    assert "half the learning rate" in drifting.reason


def test_weak_drift_that_no_cell_shows_is_seen_in_all_of_them():
    """Seeds of which F, not a single cell, makes the verdict exist, and tuned sweeps have few."""
    drifting = [transfer(planted(noise=0.005, drift=-0.3, seed=s)) for s in range(8)]
    by_all = [t for t in drifting if "no single cell" in t.reason]
    assert by_all
    assert all(t.verdict is Verdict.NOT_TRANSFERRED for t in by_all)


def test_a_verdict_is_plain_json():
    for records in (planted(drift=-0.3, noise=0.002), planted()[:5]):
        t = transfer(records)
        content = json.loads(json.dumps(t.to_json(), allow_nan=False))
        assert content["verdict"] == str(t.verdict)
        assert (content["limit"], content["level"]) == (LIMIT, 0.9)
        assert len(content["cells"]) == len(t.cells)
        for plain, cell in zip(content["cells"], t.cells, strict=True):
            assert plain["status"] == str(cell.status)
            assert plain["excess"] == pytest.approx(cell.excess)


def test_reruns_and_order_of_records_change_nothing():
    records = planted(noise=0.002, drift=-0.3)
    again = records.assign(attempt=1, val_loss=records["val_loss"] * 2)
    shuffled = pd.concat([again, records]).sample(frac=1, random_state=0)
    assert transfer(shuffled).to_json() == transfer(records).to_json()
