"""Parts of a report: other ways of counting, what would change the answer, cost, speed, health."""

from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure

from analysis import figure_data, figure_tables, plots, plots_laws, run_tables
from analysis.fit import fit
from analysis.fits_file import read_fits
from analysis.laws import LAWS
from analysis.plot_style import RC
from analysis.points import points_from_records
from analysis.report import compose
from analysis.report_change import changes
from analysis.report_html import to_html
from results.record import Probe
from tests.report_inputs import HOSTILE, planted_records, points_of
from tests.test_report import Page


@pytest.fixture(scope="module")
def records():
    return planted_records()


@pytest.fixture(scope="module")
def fits(records, tmp_path_factory):
    path = tmp_path_factory.mktemp("fit") / "fits.json"
    fit(points_from_records(records), draws=200).write(path)
    return read_fits(path)


@pytest.fixture
def ax():
    with rc_context(RC):
        yield Figure(figsize=(6, 4)).subplots()


def page_of(fits, records=None, **what) -> str:
    document = compose(fits, (), records=records, plan=None, points=None, title="planted",
                       command="isoflop report", **what)  # fmt: skip
    return to_html(document, {})


def words_of(fits, records=None, **what) -> str:
    return Page(page_of(fits, records, **what)).words


# other ways of counting


def test_a_refit_answers_in_its_own_count(fits):
    """N_total is 1.2 N here: the same D and loss, and 1.2 times the size."""
    own = next(f for f in fits["forecast"] if f["law"] == "chinchilla")
    total = next(r for r in fits["refits"] if r["N_convention"] == "total")
    answer = total["forecast"][0]
    assert answer["C"] == own["C"]
    assert answer["N"] == pytest.approx(1.2 * own["N"], rel=0.02)
    assert answer["D"] == pytest.approx(own["D"], rel=0.02)
    assert answer["loss"] == pytest.approx(own["loss"], rel=1e-3)
    assert answer["loss_interval"][0] < answer["loss"] < answer["loss_interval"][1]


def test_conventions_start_with_the_report_own(fits):
    found = figure_tables.conventions(fits)
    assert [c["own"] for c in found] == [True] + [False] * (len(found) - 1)
    assert len(found) == 1 + len(fits["refits"])
    assert found[0]["a"] == fits["approach3"]["a"]


def test_every_convention_is_a_choice_and_a_row(fits):
    html = page_of(fits)
    n = len(figure_tables.conventions(fits))
    for pick in range(n):
        assert html.count(f'<li data-pick="{pick}"') == 1
        assert html.count(f'<tr data-pick="{pick}">') == 1
    assert f'data-pick="{n}"' not in html
    assert "6nd, N flops: no exponent. Status " in Page(html).words  # these records lack that count


def test_older_fits_without_answers_of_refits_still_show_their_exponents(fits):
    old = deepcopy(fits)
    for r in old["refits"]:
        del r["forecast"]
    assert len(figure_tables.convention_exponents(old)) > len(old["refits"])
    assert len(figure_tables.convention_optima(old)) == 1
    assert "palm, N total: N opt grows" in words_of(old)


def test_no_refits_say_why(fits):
    bare = deepcopy(fits)
    bare["refits"] = [{"status": "skipped", "reason": "a points table has one N and one C"}]
    assert "Nothing was refitted: a points table has one N and one C" in words_of(bare)


# the surface


def test_a_contour_is_where_the_law_says_its_loss(fits, records):
    cells = figure_data.cell_table(points_of(records))
    lines = figure_tables.contours(fits, cells, figure_tables.target_points(fits["forecast"]))
    theta = figure_data.law_theta(fits, "chinchilla")
    losses = LAWS["chinchilla"].loss(theta, lines["N"].to_numpy(), lines["D"].to_numpy())
    np.testing.assert_allclose(losses, lines["loss"], rtol=2e-4)
    assert lines["loss"].nunique() >= 4
    for name in "ND":
        assert lines[name].min() < cells[name].min()
        assert lines[name].max() > cells[name].max()


def test_no_law_means_no_contours_but_the_cells(fits, records, ax):
    bare = deepcopy(fits)
    bare["approach3"] = {"status": "failed", "reason": "none"}
    cells = figure_data.cell_table(points_of(records))
    none = figure_tables.target_points([])
    lines = figure_tables.contours(bare, cells, none)
    assert lines.empty
    plots_laws.plot_surface(ax, cells, figure_data.minimum_table({}), lines, none)
    drawn = [tuple(p) for c in ax.collections for p in c.get_offsets()]
    assert sorted(drawn) == sorted(zip(cells["N"], cells["D"], strict=True))


def test_intervals_without_an_end_do_not_flatten_the_rest(ax):
    answers = pd.DataFrame({
        "label": ["a", "b"], "value": [1e6, 2e6], "low": [9e5, 1e-9], "high": [1.1e6, 1e30],
        "series": "law", "pick": -1, "tip": "t",
    })  # fmt: skip
    plots_laws.plot_intervals(ax, answers, "N*", unit="count")
    low, high = ax.get_xlim()
    assert 1e4 < low < 9e5
    assert 2e6 < high < 1e8


# what would change the answer


def test_what_would_change_the_answer_is_led_by_its_numbers(fits):
    f = deepcopy(fits["forecast"][0])
    f["extrapolation"] |= {"C": 10.0, "validated_C": 2.5, "tokens_per_param": 0.5}
    f["variance"] = {"sampling": 1e-4, "form": 3e-4, "discrepancy": None}
    said = "\n".join(changes(fits, f)).replace("\u00a0", " ")
    assert (
        "reaches 10× beyond the data; predictions of held-out budgets passed at up to 2.5×" in said
    )
    assert "75% of its variance is the choice of law" in said
    assert "2× below every run" in said
    assert fits["leverage"][0]["name"] in said or "One run: without" in said


def test_nothing_known_changes_nothing():
    assert changes({}, {}) == ()


# cost and speed


def test_costs_count_every_attempt_and_no_unknown_flops(records):
    failed = records[:1].assign(attempt=1, status="failed", seconds=7200.0)
    both = pd.concat([records.assign(n_device=2), failed.assign(n_device=4)], ignore_index=True)
    spent = run_tables.costs(both, records)
    assert spent.hours == pytest.approx(2 * records["seconds"].sum() / 3600 + 8)
    finished = records[records["status"] == "finished"]
    assert spent.flops == pytest.approx(finished["flops"].sum())
    other = spent.by_budget[spent.by_budget["kind"] == "other attempts"]
    assert other["runs"].tolist() == [1]
    assert other["hours"].tolist() == [pytest.approx(8)]


def test_money_is_shown_only_where_a_price_is_set(fits, records):
    timed = records.assign(seconds=3600.0, n_device=1, device="cuda")
    assert "dollars" not in words_of(fits, timed).replace("report.price= (dollars", "")
    words = words_of(fits, timed, price=2.5)
    assert (
        f"{len(timed)}.0 GPU-hours in all, {2.5 * len(timed):.2f} dollars at 2.5 an hour" in words
    )


def test_mixed_devices_are_flagged_and_told_apart(fits, records, ax):
    boards = ["NVIDIA A100-SXM4-80GB" if i % 2 else HOSTILE for i in range(len(records))]
    mixed = records.assign(board=boards, dtype="bfloat16")
    assert "Cells ran on 2 kinds of device" in words_of(fits, mixed)
    table, _ = run_tables.speed_table(mixed)
    plots.plot_by_size(ax, table, "tokens_per_second", "tokens per second")
    assert len(ax.get_legend().get_texts()) == 2
    devices = run_tables.device_table(mixed).set_index("device")["cells"]
    assert devices.sum() == len(mixed)
    assert devices["NVIDIA A100-SXM4-80GB, bfloat16"] == len(mixed) // 2


# health


def probes_of(cell: pd.Series, half: float, double: float) -> pd.DataFrame:
    """Probes of one cell: relative losses at half and twice its learning rate, and four seeds."""
    changed = [(Probe.LR_HALF, half, 0.5), (Probe.LR_DOUBLE, double, 2.0)]
    changed += [(Probe.SEED, 1 + 1e-5 * i, 1.0) for i in range(4)]
    rows = [
        {**cell, "cell_id": f"{cell['cell_id']}-{i}", "probe": str(kind), "probe_of": cell["cell_id"],
         "lr": cell["lr"] * rate, "val_loss": cell["val_loss"] * loss, "seed": i}
        for i, (kind, loss, rate) in enumerate(changed)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_a_learning_rate_at_the_edge_of_its_probes_says_which_way(fits, records):
    cell = records.iloc[-2]
    both = pd.concat([records, probes_of(cell, half=1.02, double=0.98)], ignore_index=True)
    words = words_of(fits, both)
    assert "1 probed cell did best at the edge of the learning rates tried" in words
    assert f"{cell['cell_id']} at twice the rate" in words
    assert "Move the recipe's rate that way, and probe again" in words
    inside = pd.concat([records, probes_of(cell, half=1.02, double=1.02)], ignore_index=True)
    assert "at the edge of the learning rates" not in words_of(fits, inside)


def test_noise_is_said_with_what_to_do_about_it(fits, records):
    words = words_of(fits, records)
    assert "Noise: one run's loss lies about" in words
    assert "each cell has one seed: grid.seeds=[0,1], or grid.probe=true" in words


def test_a_utilisation_above_one_is_suspect(fits, records):
    marked = records.assign(suspect=[f"mfu is 1.2 {HOSTILE}", *[None] * (len(records) - 1)])
    assert "1 cell with a utilisation above 1" in words_of(fits, marked)
