"""Planning arithmetic: the figures that planning documents get wrong, and published numbers."""

import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.budget_data import FLAT, effective_tokens, most_effective, repetitions
from analysis.budget_inference import (
    Prices,
    Trained,
    break_even,
    cheapest,
    compute_optimal_at,
    condition,
    trained_longer,
)
from analysis.budget_laws import LAWS, kaplan_of_C, kaplan_of_D, kaplan_of_N, law_of_fits
from analysis.budget_serving import (
    CacheShape,
    largest_model,
    price_per_million,
    seconds_to_read,
    tokens_per_second,
    weight_bytes,
)
from analysis.budget_training import (
    Rate,
    days,
    emissions_kg,
    energy_kwh,
    gpu_hours,
    hours_of_money,
    sized_by_ratio,
    training_flops,
)
from analysis.known_models import MODELS, judge
from analysis.laws import LAWS as FITTED
from models.boards import BOARDS

A100 = Rate(BOARDS["a100"].flops, 0.5)
EPOCH, HOFFMANN, TEX = LAWS["epoch"], LAWS["hoffmann"], LAWS["hoffmann_unrounded"]
SIZES = st.floats(1e6, 1e12)
TOKENS = st.floats(1e8, 1e14)
OF_N_AND_D = [law for law in LAWS.values() if law.name != "kaplan"]


# the slips of planning documents (docs/slips.md)


def test_7b_on_a_trillion_tokens_with_the_printed_constants():
    assert HOFFMANN.loss(7e9, 1e12) == pytest.approx(2.05, abs=0.005)


def test_equal_coefficients_overspend():
    C = 1e22
    assert training_flops(0.7 * C**0.5, 0.7 * C**0.5) / C == pytest.approx(2.94)


def test_a_fixed_ratio_gives_back_its_budget():
    N, D = sized_by_ratio(1e22, 20)
    assert pytest.approx(math.sqrt(1e22 / 120)) == N
    assert (training_flops(N, D), D / N) == pytest.approx((1e22, 20))


def test_an_a100_hour_and_a_thousand():
    assert A100.flops_per_hour == pytest.approx(5.616e17)
    N, D = sized_by_ratio(1000 * A100.flops_per_hour, 20)
    assert (round(N / 1e9, 1), round(D / 1e9)) == (2.2, 43)


@pytest.mark.parametrize(("N", "D", "hours"), [(175e9, 300e9, 561_000), (65e9, 1.4e12, 972_000)])
def test_hours_of_known_models(N, D, hours):
    assert round(gpu_hours(training_flops(N, D), A100), -3) == hours


def test_a_box_that_is_not_full():
    C = training_flops(1.3e9, 40e9)
    assert C == pytest.approx(3.12e20)
    assert C / 3e21 == pytest.approx(0.104)


@pytest.mark.parametrize(
    ("N", "D", "hours", "cost"),
    [(7e9, 1e12, 74_786, 149_573), (70e9, 15e12, 11_217_949, 22_435_897)],
)
def test_the_calculator(N, D, hours, cost):
    got = gpu_hours(training_flops(N, D), A100)
    assert (round(got), round(2 * got)) == (hours, cost)
    assert hours_of_money(2 * got, 2) == got


@pytest.mark.parametrize(("gpus", "wall"), [(64, 48.7), (256, 12.2)])
def test_days_of_the_calculator(gpus, wall):
    assert days(gpu_hours(training_flops(7e9, 1e12), A100), gpus) == pytest.approx(wall, abs=0.05)


def test_exponents_of_kaplan():
    for f, exponent in ((kaplan_of_N, 0.076), (kaplan_of_D, 0.095), (kaplan_of_C, 0.050)):
        assert math.log(f(1.0) / f(math.e)) == pytest.approx(exponent)


# laws


def test_kaplan_joint_law():
    law = LAWS["kaplan"]
    assert law.loss(1e9, 2e10) == pytest.approx(2.373882, abs=1e-6)
    assert law.loss(1.5e9, 2.29e10) == pytest.approx(2.310304, abs=1e-6)


def test_ratio_of_our_own_minimum():
    N, D = LAWS["minimum"].optimum(5.88e23)
    assert D / N == pytest.approx(17.91, abs=0.01)


@given(st.sampled_from(OF_N_AND_D), SIZES, TOKENS)
def test_loss_is_that_of_the_fitted_laws(law, N, D):
    constants = [law.E, law.A, law.B, law.alpha, law.beta]
    assert law.loss(N, D) == pytest.approx(float(FITTED["chinchilla"].loss(constants, N, D)))


@given(st.sampled_from(list(LAWS.values())), st.floats(1e17, 1e28))
def test_optimum_spends_the_budget_and_has_no_better_neighbour(law, C):
    N, D = law.optimum(C)
    assert training_flops(N, D) == pytest.approx(C)
    assert law.tokens_of_optimum(N) == pytest.approx(D)
    assert law.budget_of_tokens(D) == pytest.approx(C)
    best = law.loss(N, D)
    assert all(law.loss(N * step, D / step) > best for step in (0.9, 1.1))


@given(st.sampled_from(list(LAWS.values())), SIZES, TOKENS)
def test_tokens_for_a_loss_reach_it(law, N, D):
    if law.B * D**-law.beta < 1e-9 * law.A * N**-law.alpha:
        return  # D does not show in the loss
    assert law.tokens_for(N, law.loss(N, D)) == pytest.approx(D, rel=1e-4)


def test_a_loss_that_no_model_reaches_is_refused():
    with pytest.raises(ValueError, match=r"no model reaches 1\.5 .* its E is 1\.8172"):
        EPOCH.term_sum(1.5)
    with pytest.raises(ValueError, match="reach no loss below"):
        EPOCH.tokens_for(1e7, 1.9)


def test_what_leaves_the_fitted_range_is_said():
    assert EPOCH.outside(1e9, 2e10) == []
    below = EPOCH.outside(6e7, 9e8)
    assert len(below) == 1
    assert "below the smallest fitted, 1.4e18" in below[0]
    assert any(said.startswith("D/N = ") for said in EPOCH.outside(1e9, 1e12))


def test_ranges_are_those_of_the_digitised_runs():
    folder = os.environ.get("ISOFLOP_SHARED_DATA")
    if not folder:
        pytest.skip("ISOFLOP_SHARED_DATA does not name the folder of public sweeps")
    runs = pd.read_csv(Path(folder) / "chinchilla_epoch245.csv")
    runs = runs[~runs["excluded_by_epoch"]]
    values = {
        "N": runs.N,
        "D": runs.D,
        "C": 6 * runs.N * runs.D,
        "tokens_per_param": runs.D / runs.N,
    }
    for key, v in values.items():
        assert EPOCH.ranges[key] == pytest.approx((v.min(), v.max()), rel=2e-3), key


def fits(**changes: object) -> dict:
    parameters = {"E": 1.7, "A": 400.0, "B": 500.0, "alpha": 0.35, "beta": 0.3}
    approach3 = {"law": "chinchilla", "estimator": "t4", "n": 23, "status": "ok", "reason": None}
    points = {"N_convention": "flops", "flop_rule": "palm", "budgets": [1e18, 1e19]}
    return {"approach3": {**approach3, "parameters": parameters, **changes}, "points": points}


def test_a_law_of_ones_own():
    law = law_of_fits(fits(), "f.json")
    assert law.loss(1e9, 1e10) == pytest.approx(1.7 + 400 * 1e9**-0.35 + 500 * 1e10**-0.3)
    assert any("x below the smallest fitted, 1e18" in said for said in law.outside(1e7, 1e8))
    tied = law_of_fits(
        fits(law="tied", parameters={"E": 1.0, "A": 4.0, "B": 5.0, "alpha": 0.3}), "f"
    )
    assert tied.beta == 0.3


def test_doubt_of_a_fit_is_in_its_source():
    law = law_of_fits(fits(status="flat", reason="E not identified"), "f.json")
    assert "its status is flat: E not identified" in law.source


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"law": "interaction"}, "approach3 of f.json is interaction; budget reads chinchilla"),
        ({"parameters": {}, "status": "too_few", "reason": "2 runs"}, r"is too_few \(2 runs\)"),
        ({"parameters": {"E": None, "A": 1.0}, "status": "failed"}, "f.json has no law"),
    ],
)
def test_a_fit_that_gives_no_law_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        law_of_fits(fits(**changes), "f.json")


# serving


def test_published_inference_aware_figures():
    """Sardana & Frankle's problem with the TeX constants: the quality of 7B, 1e11 tokens served."""
    D = TEX.tokens_of_optimum(7e9)
    loss = TEX.loss(7e9, D)
    best = cheapest(TEX, loss, 1e11)
    assert pytest.approx(6.055e9, rel=2e-4) == best.N
    assert best.D / D == pytest.approx(1.164, abs=5e-4)
    ratio = Prices().cost(best.N, best.D, 1e11) / Prices().cost(7e9, D, 1e11)
    assert ratio == pytest.approx(0.99251, abs=5e-6)
    assert abs(condition(TEX, best, 1e11, Prices())) < 1e-6


@given(
    st.sampled_from(OF_N_AND_D), st.floats(1e8, 1e11), st.floats(1e8, 1e15),
    st.floats(0.01, 100), st.floats(0.01, 100),
)  # fmt: skip
def test_the_cheapest_meets_its_condition_and_has_no_cheaper_neighbour(
    law, N, served, train, serve
):
    prices = Prices(train, serve)
    loss = law.loss(N, law.tokens_of_optimum(N))
    best = cheapest(law, loss, served, prices)
    assert abs(condition(law, best, served, prices)) < 1e-6
    assert law.loss(best.N, best.D) == pytest.approx(loss)
    cost = prices.cost(best.N, best.D, served)
    for model in trained_longer(law, loss, [best.N * 0.98, best.N * 1.02]):
        assert model is None or prices.cost(model.N, model.D, served) >= cost * (1 - 1e-12)
    assert best.N <= N * (1 + 1e-9)


@given(st.sampled_from(list(LAWS.values())), st.floats(1e8, 1e12))
def test_nothing_served_is_the_compute_optimum(law, N):
    D = law.tokens_of_optimum(N)
    loss = law.loss(N, D)
    for model in (cheapest(law, loss, 0.0), compute_optimal_at(law, loss)):
        assert (model.N, model.D) == pytest.approx((N, D), rel=1e-4)


def test_condition_in_money_weighs_prices():
    """Twice the price of serving is twice the tokens served."""
    loss = EPOCH.loss(7e9, 1.4e11)
    assert cheapest(EPOCH, loss, 1e11, Prices(1, 2)).N == pytest.approx(
        cheapest(EPOCH, loss, 2e11).N
    )
    assert cheapest(EPOCH, loss, 1e11, Prices(3, 3)).N == pytest.approx(
        cheapest(EPOCH, loss, 1e11).N
    )
    with pytest.raises(ValueError, match="positive"):
        Prices(0, 1)


def test_break_even_is_where_costs_are_equal():
    loss = EPOCH.loss(7e9, 1.4e11)
    large = Trained(7e9, 1.4e11)
    (small,) = trained_longer(EPOCH, loss, [3.5e9])
    prices = Prices(2.0, 5.0)
    served = break_even(large, small, prices)
    costs = [prices.cost(m.N, m.D, served) for m in (large, small)]
    assert served > 0
    assert costs[0] == pytest.approx(costs[1])
    with pytest.raises(ValueError, match="not fewer"):
        break_even(small, large, prices)


def test_a_size_that_never_reaches_a_loss_is_none():
    assert trained_longer(EPOCH, 2.0, [1e8]) == [None]


def test_memory_cache_and_latency():
    assert weight_bytes(7e9, "bfloat16") == 14e9
    assert weight_bytes(7e9, "int4") == 3.5e9
    cache = CacheShape(32, 32, 128).bytes_per_token(2) * 4096
    assert cache == 2 * 32 * 32 * 128 * 2 * 4096
    assert seconds_to_read(14e9, 3.35e12) == pytest.approx(4.179e-3, rel=1e-3)
    assert largest_model(80e9, 0, "bfloat16") == 40e9
    assert largest_model(1e9, 2e9, "bfloat16") == 0


def test_price_of_a_million_tokens():
    rate = tokens_per_second(7e9, 989.4e12 * 0.3)
    assert rate == pytest.approx(21201, rel=1e-4)
    assert price_per_million(2.0, rate) == pytest.approx(2 * 1e6 / (21201 * 3600), rel=1e-4)


# data, energy, models, boards


@given(st.floats(1e6, 1e13), st.floats(1, 1e4), st.floats(0.5, 500))
def test_repeated_tokens_are_worth_less_and_never_more_than_the_limit(unique, epochs, star):
    D = unique * epochs
    worth = effective_tokens(D, unique, star)
    assert unique * (1 - 1e-9) <= worth <= D * (1 + 1e-9)
    assert worth <= most_effective(unique, star) * (1 + 1e-9)


def test_repeated_tokens_by_the_papers_formula():
    U, D, star = 2e11, 1e12, 14.0
    assert repetitions(D, U) == 4
    assert effective_tokens(D, U, star) == pytest.approx(U + U * star * (1 - math.exp(-4 / star)))
    assert effective_tokens(1e11, U, star) == 1e11


def test_effective_tokens_are_those_of_the_fitted_law():
    """The engine's law with N at its optimum for the unique tokens: only D is discounted."""
    E, A, B, alpha, beta = (getattr(EPOCH, k) for k in ("E", "A", "B", "alpha", "beta"))
    U = np.array([2e10])
    C = EPOCH.budget_of_tokens(U[0])
    N = EPOCH.optimum(C)[0]
    for star in FLAT:
        constants = [E, A, B, alpha, beta, star, 5.0]
        law = FITTED["data_constrained"]
        got = law.loss(constants, np.array([N]), np.array([1e11]), unique_tokens=U)
        assert EPOCH.loss(N, effective_tokens(1e11, 2e10, star)) == pytest.approx(float(got[0]))


@pytest.mark.parametrize(
    ("hours", "watts", "tonnes"),
    [(184_320, 400, 31.22), (368_640, 400, 62.44), (1_720_320, 400, 291.42),  # Llama 2's card
     (1.3e6, 700, 390), (6.4e6, 700, 1900)],  # Llama 3's card
)  # fmt: skip
def test_emissions_of_published_model_cards(hours, watts, tonnes):
    """All five cards imply .42 kg per kWh."""
    kg = emissions_kg(energy_kwh(hours, watts, 1.0), 0.4235)
    assert kg / 1000 == pytest.approx(tonnes, rel=0.02)


def test_models_stand_where_they_are_known_to():
    words = {m.name: judge(m, EPOCH).word for m in MODELS}
    assert words["GPT-3"] == words["Gopher"] == words["PaLM"] == "under-trained"
    assert words["Chinchilla"] == "near"
    assert words["LLaMA 7B"] == words["Llama 3 8B"] == "over-trained"
    assert {m.name: m.tokens_per_param for m in MODELS}["Chinchilla"] == 20
    assert all(judge(m, EPOCH).excess_loss >= 0 for m in MODELS)
    assert all(m.source for m in MODELS)


def test_every_board_has_sources():
    assert BOARDS["a100"].flops == 312e12
    for board in BOARDS.values():
        assert board.source
        assert (board.memory_bytes is None) == (board.memory_source is None)


def test_a_rate_that_can_not_be_is_refused():
    for peak, mfu in ((312e12, 0.0), (312e12, 1.1), (-1.0, 0.5), (312e12, math.nan)):
        with pytest.raises(ValueError, match="must"):
            Rate(peak, mfu)
