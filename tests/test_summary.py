"""What isoflop fit prints: warnings first, no number without its interval, limits said."""

from pathlib import Path

import pytest

from analysis.fits_file import read_fits
from sweep.summary import summary_lines

REFERENCE = Path(__file__).resolve().parent.parent / "results" / "reference" / "demo" / "fits.json"


@pytest.fixture
def fits():
    return read_fits(REFERENCE)


def line_of(fits: dict, start: str) -> str:
    return next(line for line in summary_lines(fits) if line.startswith(start))


def test_the_runs_and_every_warning_come_first(fits):
    fits["points"]["warnings"] = ["loss grows with D", "N hardly varies"]
    lines = summary_lines(fits)
    assert lines[0].startswith(f"{fits['points']['n']} runs of {fits['points']['sizes']} sizes at")
    assert lines[1:3] == ["warning: loss grows with D", "warning: N hardly varies"]


def test_bins_of_compute_are_called_that(fits):
    fits["points"]["grouping"] = "log_bins"
    assert "no budget is really shared" in summary_lines(fits)[0]


def test_an_exponent_without_interval_has_one_digit_and_says_so(fits):
    fits["approach2"]["N_opt"] = {"coefficient": 1.0, "exponent": 0.5312, "ci": None}
    assert line_of(fits, "approach 2").startswith("approach 2: N_opt ~ C^0.5 (no interval)")


def test_a_forecast_says_its_limits_and_no_number_that_nothing_bounds(fits):
    forecast = fits["forecast"][0]
    forecast.update(status="unvalidated", reason="12x the top budget", N_interval=[1.3, 2.8e11])
    line = line_of(fits, "forecast")
    assert "N not identified (90%: a factor of 2.2e+11)" in line
    assert line.endswith("unvalidated: 12x the top budget")
    forecast.update(N=None, loss_interval=None)
    assert line_of(fits, "forecast").endswith("unvalidated, 12x the top budget")


def test_a_size_that_nothing_bounds_is_said_once(fits):
    fits["forecast"][0].update(status="flat", reason="not identified", N_interval=[1e6, 2e7])
    line = line_of(fits, "forecast")
    assert line.count("not identified") == 1


def test_the_plain_answer_stands_below_the_default(fits):
    lines = summary_lines(fits)
    plain = fits["forecast"][0]["plain"]
    at = next(i for i, line in enumerate(lines) if line.startswith("forecast"))
    assert lines[at + 1].startswith(f"    plain (chinchilla, huber): N={plain['N']:.3g}")


def test_conflicts_and_odd_rows_come_before_any_answer(fits):
    fits["conflicts"] = [{"text": "approach2 says .4, approach3 .6"}]
    fits["outliers"] = [{"row": 3, "residual": 0.2}, {"row": 9, "residual": -0.1}]
    lines = summary_lines(fits)
    first = next(i for i, line in enumerate(lines) if line.startswith("approach 1"))
    assert lines[first - 2] == "conflict: approach2 says .4, approach3 .6"
    assert "rows 3 (+22.1%), 9 (-9.5%)" in lines[first - 1]


def test_the_bias_of_the_parabolas_is_said_where_it_matters(fits):
    fits["approach2"]["exponent_bias"] = -0.031
    assert line_of(fits, "approach 2").endswith("; its parabolas bias a by -0.031")
    fits["approach2"]["exponent_bias"] = 0.0004
    assert "bias" not in line_of(fits, "approach 2")


def test_parts_that_were_skipped_say_why(fits):
    for part in ("holdout", "forecast"):
        fits[part] = [{"status": "skipped", "reason": "one budget"}]
    assert line_of(fits, "hold-out") == "hold-out: skipped, one budget"
    assert line_of(fits, "forecast") == "forecast: skipped, one budget"


def test_groups_have_their_own_lines(fits):
    whole = {**fits, "groups": {"c4": fits, "pile": fits}}
    lines = summary_lines(whole)
    assert "c4:" in lines
    assert "pile:" in lines
    assert sum(line.startswith("  approach 3") for line in lines) == 2
