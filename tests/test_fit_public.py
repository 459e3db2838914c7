"""The whole fit through its public door: published numbers, groups, and nonsense that stays quiet."""

import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from analysis.fit import fit
from analysis.fit_options import FitOptions
from analysis.fits_file import read_fits
from analysis.points import PointsError, load_points, points_from_frame, points_from_records
from sweep.summary import summary_lines
from tests.report_inputs import planted_records

EPOCH = ("chinchilla_epoch245.csv", {"excluded": "excluded_by_epoch"})


def public(name: str, *args):
    folder = os.environ.get("ISOFLOP_SHARED_DATA")
    if not folder:
        pytest.skip("ISOFLOP_SHARED_DATA is not set")
    return load_points(Path(folder) / name, *args)


def test_hoffmann_epoch_240_rows():
    """Besiroglu et al. 2024's data under their stated objective, at its minimum."""
    fits = fit(public(*EPOCH), estimator="huber", draws=100, targets=(5.88e23,))
    a3 = fits.approach3
    assert a3.objective == pytest.approx(1.018274018e-3, abs=1e-9)
    assert (a3.n, a3.status) == (240, "ok")
    assert pytest.approx(1.81722, abs=1e-5) == a3.E
    assert pytest.approx(477.83, abs=0.01) == a3.A
    assert pytest.approx(2143.4, abs=0.05) == a3.B
    assert a3.alpha == pytest.approx(0.34731, abs=1e-5)
    assert a3.beta == pytest.approx(0.36717, abs=1e-5)
    assert a3.a == pytest.approx(0.5139, abs=1e-4)
    f = fits.forecast[0]
    assert f.D / f.N == pytest.approx(17.91, abs=0.01)
    assert f.loss == f.plain.loss
    assert len(fits.points.excluded) == 5


def test_noise_free_surface():
    """Stanford CS336's planted law."""
    fits = fit(public("cs336_isoflops.csv"), estimator="huber", draws=40, targets=(1e23, 1e24))
    a3 = fits.approach3
    assert pytest.approx((2.69, 1606.4, 3210.7, 0.34, 0.36), rel=1e-5) == (
        a3.E, a3.A, a3.B, a3.alpha, a3.beta,
    )  # fmt: skip
    N = [f.N for f in fits.forecast if f.law == "chinchilla"]
    assert pytest.approx([9.19e10, 3.00e11], rel=2e-3) == N


def test_rows_that_move_the_answer_are_named():
    """With Epoch's five excluded rows back, they lead the list."""
    points = public(EPOCH[0])
    fits = fit(points, estimator="huber", draws=40)
    assert fits.approach3.objective == pytest.approx(1.8260105e-3, abs=1e-9)
    assert fits.approach3.beta == pytest.approx(0.45305, abs=1e-4)
    assert fits.approach3.a == pytest.approx(0.5646, abs=1e-4)
    marked = set(public(*EPOCH[:1], {"excluded": "excluded_by_epoch"}).excluded[i].row
                 for i in range(5))  # fmt: skip
    assert len(marked & {r.row for r in fits.leverage}) >= 2


def planted(budgets=4, sizes=6, noise=0.003) -> pd.DataFrame:
    C = np.repeat(1e17 * 8.0 ** np.arange(budgets), sizes)
    N = np.tile(np.geomspace(0.3, 3, sizes), budgets) * 0.09 * np.sqrt(C)
    D = C / (6 * N)
    rng = np.random.default_rng(0)
    loss = (1.7 + 400 / N**0.34 + 800 / D**0.31) * np.exp(rng.normal(0, noise, len(C)))
    return pd.DataFrame({"N": N, "D": D, "loss": loss})


def test_one_fit_per_value_of_a_column(tmp_path):
    frame = pd.concat([planted().assign(tokenizer="a"), planted().assign(tokenizer="b")])
    frame.loc[frame.tokenizer == "b", "loss"] *= 1.3
    with pytest.raises(PointsError, match=r"fit\.by=tokenizer"):
        fit(frame, draws=20)
    fits = fit(frame, draws=20, by="tokenizer")
    assert list(fits.groups) == ["a", "b"]
    assert fits.groups["b"].approach3.E == pytest.approx(
        1.3 * fits.groups["a"].approach3.E, rel=0.01
    )
    content = read_fits(fits.write(tmp_path / "fits.json"))
    assert content["approach3"]["status"] == "skipped"
    assert content["groups"]["a"]["approach3"]["n"] == 24
    with pytest.raises(PointsError, match="no such column"):
        fit(frame, draws=20, by="tokeniser")


def test_the_same_seed_gives_the_same_file():
    first, again = (fit(planted(), draws=20).to_json() for _ in range(2))
    assert first == again
    assert fit(planted(), draws=20, seed=1).approach3.ci != first["approach3"]["ci"]


def test_the_order_of_rows_and_the_scale_of_the_loss_do_not_matter():
    frame = planted()
    one = fit(frame, draws=20)
    other = fit(
        frame.sample(frac=1, random_state=3).assign(loss=lambda f: f.loss * 1.4427), draws=20
    )
    assert other.approach3.alpha == pytest.approx(one.approach3.alpha, rel=1e-5)
    assert other.approach3.E == pytest.approx(1.4427 * one.approach3.E, rel=1e-5)
    assert other.forecast[0].N == pytest.approx(one.forecast[0].N, rel=1e-5)


def test_a_data_frame_is_mapped_and_chosen_as_by_the_command_line():
    frame = planted()
    other = frame.rename(columns={"N": "params", "D": "tokens", "loss": "val_loss"})
    other = pd.concat([other.assign(kind="final"), other.assign(kind="broken", val_loss=9.0)])
    names = {"N": "params", "D": "tokens", "loss": "val_loss"}
    mapped = fit(other, columns=names, where="kind == 'final'", draws=20)
    assert mapped.approach3 == fit(frame, draws=20).approach3
    with pytest.raises(AttributeError, match="cannot assign"):
        mapped.approach3.alpha = 1.0
    with pytest.raises(PointsError, match="go with a DataFrame"):
        fit(points_from_frame(frame), where="N > 1")
    with pytest.raises(PointsError, match="no option 'estimater': use one of law, estimator"):
        fit(frame, estimater="huber")


def test_a_held_parameter_stays_and_its_interval_is_a_point():
    fits = fit(planted(), draws=40, fix={"E": 1.7})
    assert fits.approach3.E == 1.7
    assert fits.approach3.ci["E"] == (1.7, 1.7)
    assert fits.approach3.fixed == {"E": 1.7}


def test_curves_give_approach_1():
    N = np.geomspace(1e6, 1e9, 16)
    curves = pd.concat([
        pd.DataFrame({"run": f"r{i}", "N": n, "D": np.geomspace(2, 600, 60) * n, "lr": 1.0})
        for i, n in enumerate(N)
    ])  # fmt: skip
    curves["loss"] = 1.69 + 406.4 / curves.N**0.34 + 410.7 / curves.D**0.28
    fits = fit(planted(), draws=20, curves=curves)
    assert fits.approach1.status == "ok"
    assert fits.approach1.N_opt.exponent == pytest.approx(0.28 / 0.62, abs=0.03)
    assert fits.approach1.undecayed
    assert "had not decayed" in fits.approach1.reason
    assert fit(planted(), draws=20).approach1.status == "skipped"


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ({"law": "chinchila"}, "use one of chinchilla, tied"),
        ({"estimator": "mse"}, "use one of t4, huber, ls, l1"),
        ({"level": 90}, "0.9 is 90%"),
        ({"draws": -1}, "fit.draws"),
        ({"delta": 0.0}, "fit.delta"),
        ({"fix": {"gamma": 1.0}}, "use one of E, A, B, alpha, beta"),
        ({"targets": (0.0,)}, "positive FLOPs"),
        ({"resample": "cells"}, "use one of size, rows"),
        ({"loss_unit": "bit"}, "use one of nats, bits, bpb"),
        ({"law": "data_constrained"}, "unique_tokens"),
    ],
)
def test_wrong_options_list_the_right_ones(option, text):
    with pytest.raises(PointsError, match=text):
        fit(planted(), FitOptions(**option)) if "law" in option else FitOptions(**option)


def test_our_records_are_refitted_under_other_conventions():
    """The other N are multiples of N_flops here, so a is the same under each."""
    fits = fit(points_from_records(planted_records()), draws=40)
    assert fits.points.N_convention == "flops"
    assert [e.row for e in fits.points.excluded] == ["c6e+10-n50k-s0-00000019"]
    by_N = {r.N_convention: r for r in fits.refits if r.flop_rule == "palm"}
    assert set(by_N) == {"total", "non_embedding", "matmul"}
    for refit in by_N.values():
        assert refit.a == pytest.approx(fits.approach3.a, abs=0.01)
        assert refit.a_interval[0] <= refit.a <= refit.a_interval[1]
        assert refit.approach2_exponent == pytest.approx(fits.approach2.N_opt.exponent, abs=0.01)
    assert {r.flop_rule for r in fits.refits} >= {"6nd", "kaplan", "palm_causal", "chinchilla"}


def numbers_of(value):
    if isinstance(value, dict):
        for v in value.values():
            yield from numbers_of(v)
    elif isinstance(value, list | tuple):
        for v in value:
            yield from numbers_of(v)
    elif isinstance(value, float):
        yield value


# A failing example is not shrunk: each fit takes a second.
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
@given(
    st.floats(1e4, 1e10),
    st.lists(
        st.tuples(st.floats(1.0, 10.0), st.floats(1.0, 50.0), st.floats(0.1, 12.0)),
        min_size=1, max_size=14,
    ),
    st.sampled_from(["t4", "huber", "ls", "l1"]),
)  # fmt: skip
def test_any_points_give_statuses_and_numbers_that_are_numbers(smallest, rows, estimator):
    """Losses that follow no law at all: no traceback, no NaN in the file, no interval that misses
    its own estimate. Sizes and tokens leave no gap that would look like two units in one column.
    """
    frame = pd.DataFrame(
        [{"N": smallest * n, "D": smallest * n * r, "loss": loss} for n, r, loss in rows]
    )
    try:
        content = fit(frame, draws=20, estimator=estimator).to_json()
    except PointsError:  # counts that look like millions
        return
    assert all(np.isfinite(list(numbers_of(content))))
    assert not re.search(r"\b(nan|inf)", "\n".join(summary_lines(content)))
    a3 = content["approach3"]
    for name, interval in a3["ci"].items():
        if interval is not None and None not in interval:
            assert interval[0] <= a3[name] <= interval[1], name
    for f in content["forecast"]:
        for name in ("loss", "N", "D"):
            interval = f[f"{name}_interval"]
            if interval is not None and None not in interval:
                assert interval[0] <= f[name] <= interval[1], name
