"""Figures: what they draw, in which order of colours, and that numbers read as they should."""

import math
import re
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import rc_context
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure as Canvas

from analysis import figure_data, plots, report_numbers
from analysis.figures import MOST_TIPS, Figure, render
from analysis.plot_style import PAPER, RC, budget_colours, dark_of, log_ticks, spread
from tests.report_inputs import BUDGETS, planted_records, points_of


@pytest.fixture
def cells():
    return figure_data.cell_table(points_of(planted_records()))


def minima(cells: pd.DataFrame, bad: tuple[float, ...] = ()) -> pd.DataFrame:
    rows = []
    for budget, own in cells.groupby("budget"):
        best = own.loc[own["loss"].idxmin()]
        ok = budget not in bad
        entry = {"budget": budget, "N": best["N"], "D": best["D"], "loss": best["loss"],
                 "status": "ok" if ok else "edge", "reason": None}  # fmt: skip
        rows.append(entry if ok else entry | {"N": None, "D": None, "loss": None})
    fits = {"approach2": {"minima": rows}, "holdout": [{"budget": BUDGETS[-1], "predicted": 2.3}]}
    return figure_data.minimum_table(fits)


@pytest.fixture
def ax():
    with rc_context(RC):
        yield Canvas(figsize=(6, 4)).subplots()


def stars(ax) -> list[tuple[float, float]]:
    """Where each star is."""
    return [tuple(at) for c in ax.collections if c.get_sizes()[0] > 100 for at in c.get_offsets()]


def test_profiles_mark_each_minimum_once(ax, cells):
    found = minima(cells)
    plots.plot_profiles(ax, cells, found, figure_data.profile_lines(cells, found), "nats/token")
    assert stars(ax) == [(m.N, m.loss) for m in found.itertuples()]


def test_an_unfitted_budget_is_dashed_and_hollow(ax, cells):
    bad = BUDGETS[1]
    found = minima(cells, bad=(bad,))
    lines = figure_data.profile_lines(cells, found)
    plots.plot_profiles(ax, cells, found, lines, "nats/token")
    assert len(stars(ax)) == len(BUDGETS) - 1
    own = cells[cells["budget"] == bad]
    drawn = [ln for ln in ax.lines if np.array_equal(ln.get_xdata(), own["N"])]
    assert [ln.get_linestyle() for ln in drawn] == ["--"]
    dots = next(c for c in ax.collections if len(c.get_offsets()) == len(cells))
    hollow = [to_rgb(c) == to_rgb(PAPER) for c in dots.get_facecolor()]
    assert hollow == list(cells["budget"] == bad)


def test_the_held_out_budget_says_so(ax, cells):
    found = minima(cells)
    plots.plot_profiles(ax, cells, found, figure_data.profile_lines(cells, found), "nats/token")
    labels = [t.get_text() for t in ax.texts]
    assert [t for t in labels if "held out" in t] == ["2.3×10¹² held out"]


def test_a_parabola_through_exact_losses_is_the_parabola():
    N = 1e6 * np.geomspace(1 / 3, 3, 5)
    loss = 3.0 + 0.2 * np.log(N / 1.3e6) ** 2
    table = figure_data.cell_table(
        pd.DataFrame({"N": N, "D": 1e9 / N, "C": 6e9, "loss": loss, "budget": 6e9})
    )
    fits = {"approach2": {"minima": [
        {"budget": 6e9, "N": 1.3e6, "D": 1e9 / 1.3e6, "loss": 3.0, "status": "ok"}]}}  # fmt: skip
    line = figure_data.profile_lines(table, figure_data.minimum_table(fits))
    assert set(line["kind"]) == {"parabola"}
    expected = 3.0 + 0.2 * np.log(line["N"] / 1.3e6) ** 2
    np.testing.assert_allclose(line["loss"], expected, rtol=1e-12)


def test_of_too_many_points_only_the_crowd_loses_its_words(cells):
    found = minima(cells)
    many = pd.concat([cells] * (MOST_TIPS // len(cells) + 1), ignore_index=True)
    lines = figure_data.profile_lines(cells, found)

    def draw(ax):
        return plots.plot_profiles(ax, many, found, lines, "nats/token")

    drawing = render(Figure("profiles", "", "", "", (draw,), many))
    assert sorted(map(len, drawing.words.values())) == [0, len(found)]


def test_references_go_through_the_middle_of_the_minima(ax, cells):
    found = minima(cells)
    empty = pd.DataFrame({"C": [], "value": []}, dtype=float)
    none = figure_data.target_table([], "N")
    plots.plot_optimum(ax, "N", found, empty, {"Kaplan .73": 0.73}, none)
    line = ax.lines[0]
    (x0, x1), (y0, y1) = line.get_xdata(), line.get_ydata()
    assert math.log(y1 / y0) / math.log(x1 / x0) == pytest.approx(0.73)
    middle = np.exp(np.log(found[["budget", "N"]]).mean())
    assert y0 * (middle["budget"] / x0) ** 0.73 == pytest.approx(middle["N"])


def test_an_interval_without_an_end_does_not_stop_the_hold_out_figure(ax):
    rows = {
        "ratio": [3.0, 9.0],
        "budget": 1e12,
        "error": 0.02,
        "low": -0.01,
        "high": [0.04, math.inf],
    }
    errors = pd.DataFrame(rows | {"of": "minimum", "tip": ""})
    plots.plot_holdout_error(ax, errors, [10.0])
    assert ax.get_ylim() == pytest.approx((-5.0, 5.0))  # a quarter beyond the end that there is


def test_residuals_are_those_of_the_fitted_law(cells):
    parameters = {"E": 1.2, "A": 18.0, "B": 160.0, "alpha": 0.30, "beta": 0.38}
    fits = {"approach3": {"law": "chinchilla"},
            "laws": [{"name": "chinchilla", "parameters": parameters}]}  # fmt: skip
    table = figure_data.residual_table(fits, cells)
    fitted = 1.2 + 18 / cells["N"] ** 0.30 + 160 / cells["D"] ** 0.38
    np.testing.assert_allclose(table["residual"], cells["loss"] / fitted - 1, rtol=1e-9)
    fits["laws"][0]["parameters"] = {"E": None}
    assert figure_data.residual_table(fits, cells).empty


def test_every_drawn_colour_has_a_dark_member(ax, cells):
    found = minima(cells, bad=(BUDGETS[0],))
    plots.plot_profiles(ax, cells, found, figure_data.profile_lines(cells, found), "nats/token")
    known = {to_rgb(c) for c in dark_of()}
    used = {to_rgb(ln.get_color()) for ln in ax.lines}
    used |= {to_rgb(c) for s in ax.collections for c in s.get_edgecolor()}
    assert used <= known


@given(st.lists(st.floats(1e8, 1e26), min_size=1, max_size=30, unique=True))
def test_budget_colours_darken_with_compute(budgets):
    colours = budget_colours(budgets)
    light = [0.2126 * r + 0.7152 * g + 0.0722 * b
             for r, g, b in (to_rgb(colours[c]) for c in sorted(colours))]  # fmt: skip
    assert all(later <= earlier + 1e-9 for earlier, later in pairwise(light))
    assert len(colours) == len(budgets)


@given(st.floats(1e-3, 1e24), st.floats(0.05, 20))
def test_log_ticks_are_few_and_inside(low, decades):
    high = low * 10**decades
    ticks = log_ticks(low, high)
    assert 2 <= len(ticks) <= 7
    assert all(low * 0.99 <= t <= high * 1.01 for t in ticks)


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=12), st.floats(0.01, 5))
def test_spread_keeps_order_and_distance(values, gap):
    moved = spread(values, gap)
    order = np.argsort(values, kind="stable")
    assert (np.diff(np.array(moved)[order]) >= gap - 1e-6).all()
    already = sorted(values)
    if all(b - a >= gap for a, b in pairwise(already)):
        np.testing.assert_allclose(moved, values, atol=1e-9)


@pytest.mark.parametrize("unknown", [None, math.nan, math.inf, -math.inf, "3", True, [], {}])
def test_unknown_is_never_a_number(unknown):
    shown = [
        show(unknown)
        for name in "count power ratio loss exponent percent duration significant parameter".split()
        for show in [getattr(report_numbers, name)]
    ]
    assert set(shown) == {report_numbers.DASH}


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (report_numbers.loss(1.65234, [1.6483, 1.6563]), "1.652 ± .004"),
        (report_numbers.loss(1.65234, [1.6483, 1.6763]), "1.652 [1.648, 1.676]"),
        (report_numbers.loss(1.65234), "1.6523"),
        (report_numbers.with_error(1.65234, 0.0021), "1.652 ± .002"),
        (report_numbers.with_error(1.65234, math.nan), "1.6523"),
        (report_numbers.count_with_interval(84_321, [71_234, 99_012]), "84k [71k, 99k]"),
        (report_numbers.count_with_interval(49.4733e9, [49.4731e9, 49.4735e9]),
         "49.47B ± under 0.01%"),
        (report_numbers.exponent(0.4937, [0.47, 0.52]), "0.49 [0.47, 0.52]"),
        (report_numbers.count(999_600), "1.00M"),
        (report_numbers.count_with_interval(31_000, [3e-18, 150_000]), "31k [under 1, 150k]"),
        (report_numbers.parameter(1.84e-6), "1.84×10⁻⁶"),
        (report_numbers.power(2.34e12), "2.3×10¹²"),
        (report_numbers.power(1e-7), "10⁻⁷"),
        (report_numbers.power(9.999e11), "10¹²"),
        (report_numbers.percent(-0.0042), "−0.42%"),
        (report_numbers.percent(0.9, signed=False), "90%"),
        (report_numbers.duration(199), "3 min 19 s"),
        (report_numbers.ratio(2.496), "2.5×"),
    ],
)  # fmt: skip
def test_numbers_read_well(shown, expected):
    assert shown.replace(report_numbers.NBSP, " ") == expected


@given(st.floats(0.5, 12), st.floats(1e-6, 0.5))
def test_a_loss_has_no_more_digits_than_its_interval(value, half):
    text = report_numbers.loss(value, [value - half, value + half])
    decimals = len(re.search(r"\.(\d+)", text)[1])
    assert 10.0**-decimals >= min(half / 20, 1e-2) * 0.99 or decimals == 2
