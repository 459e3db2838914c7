"""Laws: their values, their derivatives, and where they are lowest."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.laws import LAWS, columns
from analysis.laws_jets import Jet, differentiate, exp, log, softplus
from tests.planted import TRUTHS

NAMES = sorted(LAWS)
WITH_OPTIMUM = [name for name in NAMES if LAWS[name].has_optimum]


def needed(name: str, tokens: float = 1e9) -> dict[str, float]:
    return {column: tokens for column in LAWS[name].needs}


def test_names_are_the_published_contract():
    assert set(LAWS) == {
        *("chinchilla", "tied", "no_E", "coupled", "interaction", "multiplicative"),
        *("kaplan", "kaplan_E", "envelope", "broken", "overtraining", "data_constrained"),
    }
    assert all(law.name == name and law.source for name, law in LAWS.items())


@pytest.mark.parametrize(
    ("N", "D", "expected"), [(1e9, 2e10, 2.373882), (1.5e9, 2.29e10, 2.310304)]
)
def test_kaplan_joint_form_at_his_constants(N, D, expected):
    assert LAWS["kaplan"].loss(TRUTHS["kaplan"], N, D) == pytest.approx(expected, abs=5e-7)


def test_chinchilla_at_printed_constants_predicts_2_05_for_7b_on_1t():
    theta = [1.69, 406.4, 410.7, 0.34, 0.28]
    assert LAWS["chinchilla"].loss(theta, 7e9, 1e12) == pytest.approx(2.05, abs=5e-3)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_derivatives_agree_with_central_differences(name, data):
    law = LAWS[name]
    ranges = st.floats(-1.0, 1.0, allow_nan=False)
    N, D = 10 ** data.draw(st.floats(7, 10)), 10 ** data.draw(st.floats(9, 12))
    raw = columns([N], [D], **{c: [D / 3] for c in law.needs})
    theta = np.array(TRUTHS[name])
    internal = np.where(law.positive, np.log(np.where(law.positive, theta, 1.0)), theta)
    shift = np.array([data.draw(ranges) for _ in theta])
    internal = internal * (1 + 0.1 * shift)
    forms = [law._form(form, internal, raw) + np.zeros((1, 1)) for form in law.forms]
    value, first, second = law.derivatives(forms, raw)
    assert value == pytest.approx(law.formula(forms, raw), rel=1e-12)

    def moved(k: int, step: float) -> tuple:
        return law.derivatives([f + step * (i == k) for i, f in enumerate(forms)], raw)

    h, size = 1e-5, float(np.max(np.abs(value)))
    for k in range(len(forms)):
        up, down = moved(k, h), moved(k, -h)
        assert first[k] == pytest.approx((up[0] - down[0]) / (2 * h), rel=1e-5, abs=1e-7 * size)
        for j in range(k, len(forms)):
            slope = (up[1][j] - down[1][j]) / (2 * h)
            bend = second.get((k, j), np.zeros((1, 1)))
            assert bend == pytest.approx(slope, rel=1e-4, abs=1e-6 * size)


@pytest.mark.parametrize("name", WITH_OPTIMUM)
@settings(max_examples=30, deadline=None)
@given(log_C=st.floats(17, 26))
def test_optimum_is_lower_than_its_neighbours(name, log_C):
    law, theta, C = LAWS[name], TRUTHS[name], 10**log_C
    N, D = law.optimum(theta, C)
    assert 6 * N * D == pytest.approx(C, rel=1e-9)
    extra = needed(name, 1e30)  # the optimum is that of unlimited unique tokens
    lowest = law.loss(theta, N, D, **extra)
    for factor in (0.7, 0.97, 1.03, 1.4):
        assert law.loss(theta, N * factor, D / factor, **extra) > lowest


@pytest.mark.parametrize("name", WITH_OPTIMUM)
def test_exponent_is_the_slope_of_the_optimum(name):
    law, theta = LAWS[name], TRUTHS[name]
    N, _ = law.optimum(theta, [1e20, 1e24])
    a = law.a(theta)
    if np.isnan(a):
        assert name == "interaction"
    else:
        assert np.log(N[1] / N[0]) / np.log(1e4) == pytest.approx(a, rel=1e-9)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in WITH_OPTIMUM])
def test_laws_without_an_interior_minimum_give_nan(name):
    law = LAWS[name]
    assert np.isnan(law.optimum(TRUTHS[name], [1e20, 1e22])).all()
    assert np.isnan(law.a(TRUTHS[name]))


@pytest.mark.parametrize("alpha", [0.0, -0.2])
def test_no_optimum_when_an_exponent_is_not_positive(alpha):
    N, D = LAWS["chinchilla"].optimum([1.7, 400, 400, alpha, 0.3], 1e20)
    assert np.isnan([N, D]).all()
    assert np.isnan(LAWS["chinchilla"].a([1.7, 400, 400, alpha, 0.3]))


def test_overtraining_is_the_tied_form_with_eta_of_half_alpha():
    E, A, B, eta = TRUTHS["overtraining"]
    tied = [E, A * 6**-eta, B * 6**-eta, 2 * eta]
    N, D = np.geomspace(1e7, 1e10, 6), np.geomspace(1e12, 1e9, 6)
    expected = LAWS["tied"].loss(tied, N, D)
    assert LAWS["overtraining"].loss(TRUTHS["overtraining"], N, D) == pytest.approx(expected)
    M, C = D / N, 6 * N * D
    by_hand = E + (A * M**eta + B * M**-eta) * C**-eta
    assert LAWS["overtraining"].loss(TRUTHS["overtraining"], N, D) == pytest.approx(by_hand)


def test_single_epoch_of_the_data_constrained_law_is_chinchilla():
    theta = TRUTHS["data_constrained"]
    N, D = 3e8, 6e9
    once = LAWS["data_constrained"].loss(theta, N, D, unique_tokens=1e13)
    assert once == pytest.approx(LAWS["chinchilla"].loss(theta[:5], N, D))


def test_repeating_data_is_worth_less_than_new_data():
    theta, law = TRUTHS["data_constrained"], LAWS["data_constrained"]
    D = np.array([1e10, 4e10, 1.6e11])
    repeated = law.loss(theta, 1e9, D, unique_tokens=1e10)
    fresh = law.loss(theta, 1e9, D, unique_tokens=D)
    assert repeated[0] == pytest.approx(fresh[0])
    assert (repeated[1:] > fresh[1:]).all()
    assert (np.diff(repeated) < 0).all()


def test_kaplan_exponents_keep_the_coupled_forms_optimum():
    A, B, alpha, gamma = TRUTHS["kaplan"]
    as_coupled = [1e-300, A, B, alpha, 1.0, gamma]
    expected = LAWS["coupled"].optimum(as_coupled, 1e22)
    np.testing.assert_allclose(LAWS["kaplan"].optimum(TRUTHS["kaplan"], 1e22), expected)


def test_theta_broadcasts_against_points():
    law = LAWS["chinchilla"]
    theta = np.array([TRUTHS["chinchilla"]] * 3) * np.array([[1.0], [1.01], [0.99]])
    N, D = np.geomspace(1e7, 1e9, 4), np.geomspace(1e9, 1e11, 4)
    table = law.loss(theta[:, None, :], N, D)
    assert table.shape == (3, 4)
    assert table[2, 1] == pytest.approx(law.loss(theta[2], N[1], D[1]))
    assert law.optimum(theta[:, None, :], [1e20, 1e21])[0].shape == (3, 2)


def test_term_of_zero_is_absent():
    with_zero = LAWS["chinchilla"].loss([0.0, 20, 40, 0.1, 0.12], 1e8, 1e10)
    assert with_zero == pytest.approx(LAWS["no_E"].loss([20, 40, 0.1, 0.12], 1e8, 1e10))


def test_missing_column_is_named():
    with pytest.raises(ValueError, match="data_constrained needs the column unique_tokens"):
        LAWS["data_constrained"].loss(TRUTHS["data_constrained"], 1e9, 1e10)


def test_unknown_parameter_lists_those_there_are():
    with pytest.raises(KeyError, match=r"no parameter gamma.*'alpha'"):
        LAWS["chinchilla"].index("gamma")


@settings(max_examples=50, deadline=None)
@given(x=st.floats(-3, 3), y=st.floats(0.2, 3))
def test_jets_differentiate_a_composition(x, y):
    def formula(v):
        a, b = v
        return exp(-a * a) * log(b) + softplus(a - b) / (1.0 + b * b) - 2.0 * a

    def value(a, b):
        return float(formula([np.float64(a), np.float64(b)]))

    result, first, second = differentiate(formula, [np.array([x]), np.array([y])])
    h = 1e-4
    assert result[0] == pytest.approx(value(x, y))
    assert first[0][0] == pytest.approx((value(x + h, y) - value(x - h, y)) / (2 * h), abs=1e-6)
    assert first[1][0] == pytest.approx((value(x, y + h) - value(x, y - h)) / (2 * h), abs=1e-5)
    cross = value(x + h, y + h) - value(x + h, y - h) - value(x - h, y + h) + value(x - h, y - h)
    assert second[0, 1][0] == pytest.approx(cross / (4 * h * h), abs=1e-4)
    bend = value(x + h, y) - 2 * value(x, y) + value(x - h, y)
    assert second[0, 0][0] == pytest.approx(bend / (h * h), abs=1e-4)


def test_array_minus_jet_is_a_jet():
    result = np.array([3.0]) - Jet(np.array([1.0]), {0: np.array([1.0])}, {})
    assert isinstance(result, Jet)
    assert result.value[0] == 2.0
    assert result.first[0][0] == -1.0
