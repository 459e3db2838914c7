"""Tables that people bring: mapped, checked and grouped, or refused in one line."""

import os
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analysis.grouping import Grouping, group_by_compute
from analysis.points import (
    PointsError,
    check_comparable,
    load_points,
    points_from_frame,
    points_from_records,
)
from analysis.tables import LARGEST_BYTES
from sweep.collected import record_points

FRAME = pd.DataFrame(
    {
        "N": [1e6, 2e6, 4e6, 8e6] * 2,
        "D": [8e7, 4e7, 2e7, 1e7, 8e8, 4e8, 2e8, 1e8],
        "loss": [3.2, 3.1, 3.12, 3.3, 2.8, 2.7, 2.65, 2.72],
    }
)


@pytest.fixture
def table(tmp_path):
    def write(frame: pd.DataFrame, name: str = "runs.csv") -> Path:
        path = tmp_path / name
        frame.to_csv(path, index=False)
        return path

    return write


def test_any_two_of_three_give_the_third():
    C = 6 * FRAME.N * FRAME.D
    whole = points_from_frame(FRAME.assign(C=C))
    for missing in ("N", "D", "C"):
        part = points_from_frame(FRAME.assign(C=C).drop(columns=missing))
        for name in ("N", "D", "C"):
            np.testing.assert_allclose(getattr(part, name), getattr(whole, name), rtol=1e-12)
        assert part.flop_rule == "6nd"
    assert len(whole.budgets) == 2
    assert whole.grouping is Grouping.WITHIN_2_PERCENT


def test_another_flop_rule_is_given_not_6nd():
    points = points_from_frame(FRAME.assign(C=8 * FRAME.N * FRAME.D))
    assert points.flop_rule == "given"
    assert not points.six_nd


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_formats_agree(tmp_path, suffix):
    path = tmp_path / f"a b=c, (1).{suffix}"
    {
        "csv": lambda: FRAME.to_csv(path, index=False),
        "parquet": lambda: FRAME.to_parquet(path),
        "jsonl": lambda: FRAME.to_json(path, orient="records", lines=True),
    }[suffix]()
    points = load_points(path)
    np.testing.assert_array_equal(points.loss, FRAME.loss)
    assert points.path == str(path)
    assert len(points.sha256) == 64


def test_mapping_where_and_exclusions(table):
    frame = FRAME.rename(columns={"N": "params", "loss": "val"}).assign(
        drop=[False, True] + [False] * 6, set=["a"] * 4 + ["b"] * 4
    )
    columns = {"N": "params", "loss": "val", "excluded": "drop"}
    points = load_points(table(frame), columns, "params < 8e6")
    assert len(points) == 5
    assert [e.row for e in points.excluded] == [1]
    assert list(points.row) == [0, 2, 4, 5, 6]


def test_integers_too_large_for_64_bits_are_numbers(table):
    frame = FRAME.assign(N=[2 * 10**20 + i for i in range(8)], D=[3 * 10**21] * 8)
    points = load_points(table(frame))
    np.testing.assert_allclose(points.N, 2e20)


BAD = {
    "no loss": (FRAME.rename(columns={"loss": "val_loss"}), r"'val_loss': columns.loss=val_loss"),
    "no N": (FRAME.rename(columns={"N": "n_params"}), r"columns.N=n_params"),
    "NaN": (FRAME.assign(loss=[np.nan] + [3.0] * 7), r"loss .* 1 of 8 rows \(row 0"),
    "infinite": (FRAME.assign(D=[1e8] * 7 + [np.inf]), r"D .* \(row 7"),
    "negative": (FRAME.assign(loss=[3.0, -1.0, 0.0] + [3.0] * 5), r"2 of 8 rows \(row 1, 2"),
    "words": (FRAME.assign(N=["7B"] + ["1e6"] * 7), r"'7B'"),
    "swapped": (FRAME.rename(columns={"N": "D", "D": "N"}), r"swapped"),
    "units": (FRAME.assign(N=FRAME.N / 1e6), r"N is in parameters"),
    "mixed": (FRAME.assign(C=[1.0, *(6 * FRAME.N * FRAME.D)[1:]]), r"in 1 of 8 rows"),
    "all out": (FRAME.assign(excluded=True), r"every row is excluded"),
    "flag": (FRAME.assign(excluded="perhaps"), r"use true or false"),
    "billions": (FRAME.assign(D=FRAME.D / 1e9, N=1e7), r"D is in tokens \(not millions"),
    "misspelt": (FRAME.rename(columns={"loss": "final_los"}), r"columns.loss=final_los"),
    "in words": (FRAME.rename(columns={"loss": "Bits per byte"}), r"columns.loss='Bits per byte'"),
    "no rows": (FRAME.iloc[:0], r"no rows"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_tables_say_where(table, case):
    frame, text = BAD[case]
    with pytest.raises(PointsError, match=text) as error:
        load_points(table(frame))
    assert "\n" not in str(error.value)


def test_bad_files_say_what(tmp_path):
    def refused(path: Path, text: str) -> None:
        with pytest.raises(PointsError, match=text):
            load_points(path)

    refused(tmp_path, "is a directory")
    refused(tmp_path / "none.csv", "does not exist")
    (tmp_path / "empty.csv").touch()
    refused(tmp_path / "empty.csv", "is empty")
    (tmp_path / "x.parquet").write_text("N,D,loss\n1,2,3\n")
    refused(tmp_path / "x.parquet", "can't be read as parquet")
    (tmp_path / "x.xlsx").write_text("x")
    refused(tmp_path / "x.xlsx", r"\.csv, \.parquet or \.jsonl")
    (tmp_path / "b.csv").write_bytes(bytes(range(256)))
    refused(tmp_path / "b.csv", "b.csv")
    with (tmp_path / "big.csv").open("wb") as f:
        f.truncate(LARGEST_BYTES + 1)  # sparse: takes no disk
    refused(tmp_path / "big.csv", "one row per run")


def test_wrong_mapping_and_query_name_what_exists(table):
    path = table(FRAME)
    with pytest.raises(PointsError, match="nearest is 'loss'"):
        load_points(path, {"loss": "los"})
    with pytest.raises(PointsError, match="use one of N, D, C, loss"):
        load_points(path, {"n": "N"})
    with pytest.raises(PointsError, match=r"fit\.where"):
        load_points(path, where="nothing > 3")
    with pytest.raises(PointsError, match="selects no row"):
        load_points(path, where="N < 0")


def test_pooled_tokenizers_are_refused_and_a_subset_is_not():
    frame = FRAME.assign(tokenizer=["bpe"] * 4 + ["bytes"] * 4)
    with pytest.raises(PointsError, match=r"2 values of tokenizer .*fit.by=tokenizer"):
        check_comparable(points_from_frame(frame))
    check_comparable(points_from_frame(frame, where="tokenizer == 'bytes'"))


def test_suspicions_are_said_and_stop_nothing():
    grows = FRAME.assign(loss=2 + 0.3 * np.log(FRAME.D / 1e7) + 1e3 / FRAME.N)
    assert any("grows with D" in w for w in points_from_frame(grows).warnings)
    twice = pd.concat([FRAME, FRAME.iloc[[3]]])
    assert any("repeat another" in w for w in points_from_frame(twice).warnings)
    assert not points_from_frame(FRAME).warnings


def test_grouping_follows_the_lowest_of_a_group():
    C = np.array([1.0, 1.019, 1.021, 1.04, 5.0, 5.01, 5.02, 5.03]) * 1e18
    budget, how = group_by_compute(C)
    assert how is Grouping.WITHIN_2_PERCENT
    assert [np.flatnonzero(budget == b).tolist() for b in np.unique(budget)] == [
        [0, 1], [2, 3], [4, 5, 6, 7],
    ]  # fmt: skip


def test_no_shared_budgets_become_log_bins():
    budget, how = group_by_compute(np.geomspace(1e18, 1e21, 40))
    assert how is Grouping.LOG_BINS
    assert np.bincount(np.unique(budget, return_inverse=True)[1]).tolist() == [10] * 4


@given(st.lists(st.floats(1e10, 1e25), min_size=1, max_size=60), st.randoms())
def test_grouping_does_not_depend_on_order(C, random):
    C = np.array(C)
    order = np.array(random.sample(range(len(C)), len(C)))
    np.testing.assert_allclose(group_by_compute(C)[0][order], group_by_compute(C[order])[0])


CELL = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.integers(-(10**30), 10**30),
    st.sampled_from(["", "nan", "7B", "1e6", "None", "é", '"', "1,5", None]),
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.sampled_from(["N", "D", "C", "loss", "budget", "excluded", "x"]), unique=True),
    st.data(),
)
def test_no_table_causes_anything_but_points_or_a_line(columns, data):
    rows = data.draw(st.lists(st.tuples(*[CELL] * len(columns)), max_size=6))
    frame = pd.DataFrame(rows, columns=columns, dtype=object)
    try:
        points = points_from_frame(frame)
    except PointsError as e:
        assert "\n" not in str(e)  # noqa: PT017 (either outcome is right)
    else:
        for values in (points.N, points.D, points.C, points.loss, points.budget):
            assert np.all(np.isfinite(values) & (values > 0))


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(content=st.binary(max_size=300), suffix=st.sampled_from(["csv", "parquet", "jsonl", "tsv"]))
def test_no_file_causes_anything_but_points_or_a_line(tmp_path, content, suffix):
    path = tmp_path / f"fuzz.{suffix}"
    path.write_bytes(content)
    with pytest.raises(PointsError):
        load_points(path)


def test_public_sweeps_load():
    folder = os.environ.get("ISOFLOP_SHARED_DATA")
    if not folder:
        pytest.skip("ISOFLOP_SHARED_DATA is not set")
    columns = {"excluded": "excluded_by_epoch"}
    points = load_points(Path(folder) / "chinchilla_epoch245.csv", columns)
    assert (len(points), len(points.excluded)) == (240, 5)
    assert points.grouping is Grouping.LOG_BINS
    gadre = load_points(
        Path(folder) / "gadre_models.csv", {"loss": "loss_c4_val"}, "dataset_name == 'rpj'"
    )
    assert len(gadre) == 35


def test_records_give_finished_cells_under_each_convention(records):
    frame = records()
    frame.loc[0, ["status", "reason"]] = ["diverged", "loss is NaN at step 3"]
    points = points_from_records(frame)
    assert points.six_nd
    assert len(points) == len(frame) - 1
    assert "diverged: loss is NaN" in points.excluded[0].reason
    total = points_from_records(frame, "total")
    assert total.N_convention == "total"
    assert np.all(total.N > points.N)
    with pytest.raises(PointsError, match="use one of flops, total"):
        points_from_records(frame, "embedding")
    with pytest.raises(PointsError, match="no finished cell"):
        points_from_records(frame.assign(status="failed"))
    mixed = frame.assign(tokenizer=["a"] * 5 + ["b"] * (len(frame) - 5))
    with pytest.raises(PointsError, match="tokenizer"):
        check_comparable(points_from_records(mixed))


@pytest.fixture
def records():
    """Make records of a small sweep by the schema itself: a planted law, no training."""
    from dataclasses import asdict, fields
    from typing import get_type_hints

    from results.record import Record

    hints = get_type_hints(Record)
    blank = {int: 1, float: 1.0, str: "x", bool: True}

    def make() -> pd.DataFrame:
        rows = []
        for C in (1e13, 1e14, 1e15):
            for k, N in enumerate(np.geomspace(0.3, 3, 6) * 0.1 * np.sqrt(C)):
                D = int(C / (6 * N))
                spent = 6 * N * D
                values = {
                    f.name: blank.get(hints[f.name], None) for f in fields(Record)
                } | {
                    "cell_id": f"c{C:.0e}-{k}", "attempt": 0, "budget": C, "flop_rule": "palm",
                    "flops": spent, "N_flops": N, "N_total": int(1.3 * N), "tokens": D,
                    "N_non_embedding": int(0.7 * N), "N_matmul": int(1.1 * N), "size_id": f"s{k}",
                    "val_loss": 1.5 + 30 / N**0.35 + 90 / D**0.35, "status": "finished",
                    "flops_palm": spent, "flops_palm_causal": 0.8 * spent,
                    "flops_6nd": 1.3 * spent, "flops_kaplan": 0.7 * spent,
                    "flops_chinchilla": 1.2 * spent, "reason": None,
                }  # fmt: skip
                rows.append(asdict(Record(**values)))
        return pd.DataFrame(rows)

    return make


def simulated(
    seed: int = 0, noise: float = 0.003, budgets=(1e18, 6e18, 3e19, 1e20)
) -> pd.DataFrame:
    """IsoFLOP runs of a Chinchilla law, seven sizes a budget."""
    rng = np.random.default_rng(seed)
    C = np.repeat(budgets, 7)
    N = 0.1 * C**0.5 * np.tile(np.geomspace(0.25, 4, 7), len(budgets))
    D = C / (6 * N)
    loss = (1.8 + 480 / N**0.35 + 2100 / D**0.37) * np.exp(noise * rng.standard_normal(len(C)))
    return pd.DataFrame({"N": N, "D": D, "loss": loss})


def test_a_clean_sweep_has_no_warning():
    for seed in range(5):
        assert points_from_frame(simulated(seed)).warnings == ()


def along_runs() -> pd.DataFrame:
    """Ten checkpoints of each of six runs."""
    N = np.repeat(np.geomspace(1e7, 1e9, 6), 10)
    D = 20 * N * np.tile(np.linspace(0.1, 1, 10), 6)
    run = np.repeat([f"r{i}" for i in range(6)], 10)
    return pd.DataFrame({"run": run, "N": N, "D": D, "loss": 2 + 300 / N**0.3 + 900 / D**0.3})


@pytest.mark.parametrize("named", [True, False])
def test_checkpoints_along_runs_are_warned_of_and_the_query_leaves_the_last(named):
    frame = along_runs() if named else along_runs().drop(columns="run")
    (warning,) = points_from_frame(frame).warnings
    assert "learning rate had not decayed" in warning
    where = warning.split('fit.where="')[1].rstrip('"')
    last = points_from_frame(frame, where=where)
    np.testing.assert_allclose(last.D, 20 * last.N)
    assert len(last) == 6


def test_a_column_that_shifts_the_loss_is_named_and_one_that_does_not_is_not():
    frame = pd.concat([simulated(1), simulated(2).assign(loss=lambda f: 1.03 * f.loss)])
    frame["optimizer"] = np.repeat(["adamw", "muon"], len(frame) // 2)
    frame["host"] = np.resize(["a", "b", "c"], len(frame))
    frame["size"] = [f"{n:.2e}" for n in frame.N]
    warnings = points_from_frame(frame).warnings
    assert len(warnings) == 1
    assert "differ by 0.03 of themselves" in warnings[0]
    assert "fit.by=optimizer" in warnings[0]


def test_other_spellings_of_what_makes_losses_incomparable_are_refused():
    for column in ("Tokenizer_Name", "dataset_name", "context_length"):
        frame = FRAME.assign(**{column: ["x"] * 4 + ["y"] * 4})
        with pytest.raises(PointsError, match=f"fit.by={column}"):
            check_comparable(points_from_frame(frame))


def test_two_units_in_one_column_are_refused_with_the_number_of_rows(table):
    frame = simulated()
    frame.loc[::3, "N"] /= 1e6
    with pytest.raises(PointsError, match=r"in 10 of 28 rows .* two units"):
        load_points(table(frame))
    with pytest.raises(PointsError, match="not in millions or billions"):
        load_points(table(simulated().assign(N=lambda f: f.N / 1e6, D=lambda f: f.D / 1e9)))


def test_losses_in_two_units_or_no_unit_of_a_loss_are_noticed():
    bits = simulated(noise=0.002)
    bits.loc[::2, "loss"] /= np.log(2)
    (warning,) = points_from_frame(bits).warnings
    assert "14 and 14 rows (nats and bits differ by 1.44)" in warning
    two = simulated(noise=0.002)
    two.loc[::3, "loss"] *= 1.1
    (warning,) = points_from_frame(two).warnings
    assert "a factor of 1.1 apart" in warning
    assert "1.44" not in warning
    (warning,) = points_from_frame(simulated().assign(loss=lambda f: np.exp(f.loss))).warnings
    assert "a perplexity?" in warning


def test_a_ladder_of_one_ratio_says_that_N_and_D_move_together():
    N = np.geomspace(1e7, 1e9, 12)
    for D, name in ((20 * N, "D/N"), (1e10 + 0 * N, "D")):
        frame = pd.DataFrame({"N": N, "D": D, "loss": 2 + 300 / N**0.3 + 900 / D**0.3})
        assert f"{name} hardly varies" in points_from_frame(frame).warnings[0]


def test_all_missing_columns_are_named_at_once(table):
    frame = FRAME.rename(columns={"N": "params", "D": "tokens", "loss": "val_loss"})
    found = "columns.loss=val_loss columns.N=params columns.D=tokens"
    with pytest.raises(PointsError, match=found):
        load_points(table(frame))


def test_our_own_records_say_how_they_are_read_and_so_are_the_runs_of_the_sweep():
    path = Path(__file__).parents[1] / "results" / "reference" / "uniform" / "records.parquet"
    with pytest.raises(PointsError, match="root=FOLDER sweep=NAME") as refused:
        load_points(path)
    words = shlex.split(str(refused.value).partition("these runs with ")[2])
    *columns, where = [word.partition("=")[::2] for word in words]
    points = load_points(path, {k.removeprefix("columns."): v for k, v in columns}, where[1])
    own = record_points(path, "flops")
    assert len(points) == len(own)
    assert not any("probes" in w for w in points.warnings)
    for name in ("N", "D", "C", "loss"):
        np.testing.assert_array_equal(np.sort(getattr(points, name)), np.sort(getattr(own, name)))


def test_records_keep_the_columns_a_person_named_and_probes_among_them_are_not_silent():
    path = Path(__file__).parents[1] / "results" / "reference" / "uniform" / "records.parquet"
    named = {"N": "N_total", "D": "tokens", "C": "flops"}
    with pytest.raises(PointsError, match=r"these runs with columns\.loss=val_loss fit\.where="):
        load_points(path, named)
    points = load_points(path, named | {"loss": "val_loss"}, "status == 'finished'")
    (said,) = (w for w in points.warnings if "probes of a sweep" in w)
    assert said.startswith(
        f"{len(points) - len(record_points(path, 'flops'))} of {len(points)} rows"
    )


def test_semicolons_and_json_arrays_are_read(tmp_path):
    FRAME.to_csv(tmp_path / "a.csv", sep=";", index=False)
    FRAME.to_json(tmp_path / "a.json", orient="records")
    for name in ("a.csv", "a.json"):
        np.testing.assert_array_equal(load_points(tmp_path / name).loss, FRAME.loss)


def test_a_decimal_comma_is_read_where_semicolons_part_the_cells(tmp_path):
    FRAME.to_csv(tmp_path / "a.csv", sep=";", decimal=",", index=False)
    np.testing.assert_array_equal(load_points(tmp_path / "a.csv").loss, FRAME.loss)


def test_equal_errors_change_nothing_and_a_large_one_weighs_little():
    frame = simulated(noise=0.002)
    equal = points_from_frame(frame.assign(loss_sd=0.01)).weight
    np.testing.assert_allclose(equal, 1, atol=0.2)  # loss_sd / loss still differs
    np.testing.assert_allclose(points_from_frame(frame.assign(loss_sd=0.0)).weight, 1)
    one = points_from_frame(frame.assign(loss_sd=[0.3] + [0.001] * 27))
    assert one.weight[0] < 0.01
    assert one.weight.mean() == pytest.approx(1)
    assert any("loss_sd is used" in w for w in one.warnings)
    assert points_from_frame(frame).weight is None


def test_unknown_errors_are_the_median_and_wrong_ones_are_refused():
    frame = simulated(noise=0.002)
    sd = np.full(28, 0.01)
    some = points_from_frame(frame.assign(loss_sd=np.where(np.arange(28) < 3, np.nan, sd)))
    np.testing.assert_allclose(some.weight, points_from_frame(frame.assign(loss_sd=sd)).weight)
    for bad in (-0.1, np.inf, "x"):
        with pytest.raises(PointsError, match="row 0: a standard error"):
            points_from_frame(frame.assign(loss_sd=[bad] + [0.01] * 27))


def test_a_continuum_of_compute_is_binned_though_it_is_dense():
    N = np.repeat(np.geomspace(1e7, 3e9, 40), 50)
    D = N * np.tile(np.geomspace(2, 400, 50), 40)
    budget, grouping = group_by_compute(6 * N * D)
    assert grouping is Grouping.LOG_BINS
    assert len(np.unique(budget)) == 12
