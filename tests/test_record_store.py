"""Records on disk: what goes in comes out, one row an attempt, whole or not at all."""

import math
import multiprocessing
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers_cells import tiny_cell
from hypothesis import given
from hypothesis import strategies as st

from results.record import (
    SCHEMA_VERSION,
    Record,
    RecordStatus,
    arrow_schema,
    column_types,
    describe,
)
from results.store import (
    StoreError,
    collect_records,
    read_records,
    results_of,
    terminal_cells,
    write_record,
)
from sweep.cells import cell_to_row

REFERENCE = Path(__file__).resolve().parents[1] / "results" / "reference"


def record(attempt: int = 0, status: str = "finished", seed: int = 0, **measured) -> Record:
    cell = tiny_cell(seed=seed)
    return Record(
        **cell_to_row(cell),
        sweep="s",
        attempt=attempt,
        unique_tokens=cell.tokens,
        epochs=1.0,
        status=status,
        **measured,
    )


def test_a_record_comes_back_with_its_types_and_its_gaps(tmp_path):
    written = record(val_loss=2.5, val_tokens=4096, board="a board", deterministic=True)
    write_record(written, tmp_path)
    frame = read_records(tmp_path)
    assert list(frame.columns) == [f.name for f in fields(Record)]
    row = frame.iloc[0]
    for f in fields(Record):
        value, got = getattr(written, f.name), row[f.name]
        if value is None:
            assert pd.isna(got), f.name
        elif isinstance(value, float) and math.isnan(value):
            assert math.isnan(got), f.name
        else:
            assert got == value, f.name


@given(st.floats(), st.floats(allow_nan=False))
def test_floats_keep_every_bit(loss, bpb):
    table = pa.Table.from_pylist([vars(record(val_loss=loss, bpb=bpb))], schema=arrow_schema())
    got = table.to_pandas().iloc[0]
    assert np.array([got["val_loss"], got["bpb"]]).tobytes() == np.array([loss, bpb]).tobytes()


def test_an_unknown_number_is_nan_or_null_and_never_a_made_up_one():
    bare = record()
    for f in fields(Record):
        value = getattr(bare, f.name)
        if f.name in (
            "attempt",
            "seed",
            "lr_floor",
            "decay_steps",
            "warmup_steps",
            "z_loss",
            "optimizer_flops",
        ):
            continue
        assert value != -1
        assert value != 0 or isinstance(value, bool), f.name


def test_every_column_says_what_it_is_and_numbers_that_may_be_missing_can_be():
    schema, types = arrow_schema(), column_types()
    assert schema.names == list(types) == list(describe())
    assert all(describe().values())
    assert schema.metadata[b"schema_version"] == str(SCHEMA_VERSION).encode()
    for f in fields(Record):
        if f.default is None:
            assert schema.field(f.name).nullable, f.name
        if types[f.name] is int and f.default is not None:
            assert not schema.field(f.name).nullable, f.name


def test_a_twin_of_a_record_is_refused_and_the_first_stays(tmp_path):
    path = write_record(record(val_loss=2.5), tmp_path)
    before = path.read_bytes()
    with pytest.raises(StoreError, match="an attempt is recorded once"):
        write_record(record(val_loss=9.9), tmp_path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def _write_at_once(barrier, folder, loss, outcomes):
    barrier.wait()
    try:
        write_record(record(val_loss=loss), folder)
        outcomes.put("written")
    except StoreError:
        outcomes.put("refused")


def test_of_many_that_write_one_attempt_at_once_one_wins(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, outcomes = context.Barrier(6), context.Queue()
    twins = [
        context.Process(target=_write_at_once, args=(barrier, tmp_path, 1.0 + i, outcomes))
        for i in range(6)
    ]
    for twin in twins:
        twin.start()
    assert sorted(outcomes.get(timeout=60) for _ in twins) == ["refused"] * 5 + ["written"]
    for twin in twins:
        twin.join(60)
    assert len(list(tmp_path.iterdir())) == len(read_records(tmp_path)) == 1


def test_what_a_killed_writer_leaves_is_not_read(tmp_path):
    path = write_record(record(), tmp_path)
    whole = path.read_bytes()
    path.with_name("other.0.4711.part").write_bytes(whole[: len(whole) // 2])
    assert len(read_records(tmp_path)) == 1


def test_collecting_keeps_every_row_and_nan(tmp_path):
    for attempt in (2, 0, 1):
        write_record(record(attempt, val_loss=math.nan if attempt else 2.0), tmp_path / "records")
    collect_records(tmp_path / "records", tmp_path / "records.parquet")
    table = pq.read_table(tmp_path / "records.parquet")
    assert table["attempt"].to_pylist() == [0, 1, 2]
    losses = table["val_loss"].to_pylist()
    assert losses[0] == 2.0
    assert all(isinstance(x, float) and math.isnan(x) for x in losses[1:])  # NaN, not null
    pd.testing.assert_frame_equal(
        read_records(tmp_path / "records.parquet"), read_records(tmp_path / "records")
    )


def test_a_file_of_an_earlier_day_reads_with_the_defaults_of_what_came_later(tmp_path):
    path = write_record(record(val_loss=2.5), tmp_path)
    table = pq.read_table(path).drop_columns(["suspect", "b_noise", "compiled"])
    pq.write_table(table.replace_schema_metadata({"schema_version": "1"}), path)
    write_record(record(1, b_noise=4096.0, compiled=True), tmp_path)
    rows = read_records(tmp_path)
    assert list(rows.columns) == [f.name for f in fields(Record)]
    assert rows["val_loss"].tolist()[0] == 2.5
    assert math.isnan(rows["b_noise"][0])
    assert rows["b_noise"][1] == 4096.0
    assert rows["compiled"].tolist() == [None, True]
    assert rows["suspect"].isna().all()


def test_the_records_of_the_first_demo_still_load():
    rows = read_records(REFERENCE / "demo" / "records.parquet")
    assert len(rows) == 23
    assert rows["val_loss"].notna().all()


def test_the_footer_says_the_same_as_the_columns(tmp_path):
    """Values of every kind, NaN and None among them, whichever of the two is read."""
    path = write_record(record(val_loss=2.5, val_tokens=7, suspect="a", compiled=False), tmp_path)
    by_footer = read_records(tmp_path)
    pq.write_table(pq.read_table(path).replace_schema_metadata(arrow_schema().metadata), path)
    pd.testing.assert_frame_equal(by_footer, read_records(tmp_path))


def test_columns_count_where_somebody_changed_them_and_kept_the_footer(tmp_path):
    path = write_record(record(val_loss=2.5), tmp_path)
    table, kept = pq.read_table(path), pq.read_metadata(path).metadata
    place = table.column_names.index("val_loss")
    changed = table.set_column(place, table.schema.field("val_loss"), pa.array([9.0]))
    pq.write_table(changed.replace_schema_metadata(kept), path)
    assert read_records(tmp_path)["val_loss"].tolist() == [9.0]


def test_a_file_without_a_column_that_all_have_or_with_a_strange_one_is_refused(tmp_path):
    path = write_record(record(), tmp_path)
    whole = pq.read_table(path)
    pq.write_table(whole.drop_columns(["lr"]), path)
    with pytest.raises(StoreError, match="has no column lr"):
        read_records(tmp_path)
    pq.write_table(whole.append_column("from_tomorrow", pa.array([1.0])), path)
    with pytest.raises(StoreError, match=r"does not know \(from_tomorrow\)"):
        read_records(tmp_path)


def test_another_schema_version_is_refused_by_name(tmp_path):
    path = write_record(record(), tmp_path)
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({"schema_version": "99"}), path)
    with pytest.raises(StoreError, match="record schema 99, this code reads 1 and 2"):
        read_records(tmp_path)
    path.write_text("not parquet")
    with pytest.raises(StoreError, match="is not a parquet file of records"):
        read_records(tmp_path)


def test_no_records_says_what_to_type(tmp_path):
    for nothing in (tmp_path, tmp_path / "none", tmp_path / "none.parquet"):
        with pytest.raises(StoreError, match="try: isoflop launch"):
            read_records(nothing)


def test_an_unknown_status_is_no_record():
    with pytest.raises(ValueError, match="done"):
        record(status="done")


STATUS = st.lists(st.sampled_from([str(s) for s in RecordStatus]), min_size=1, max_size=5)


@given(STATUS)
def test_the_result_is_the_first_finished_attempt_else_the_last_terminal_else_the_last(statuses):
    rows = pd.DataFrame([vars(record(i, s, val_loss=float(i))) for i, s in enumerate(statuses)])
    result = results_of(rows.sample(frac=1, random_state=len(statuses)))
    assert len(result) == 1
    finished = [i for i, s in enumerate(statuses) if s == "finished"]
    terminal = [i for i, s in enumerate(statuses) if s != "failed"]
    wanted = finished[0] if finished else terminal[-1] if terminal else len(statuses) - 1
    assert result.iloc[0]["attempt"] == wanted


def test_terminal_cells_are_those_that_need_no_training(tmp_path):
    for seed, statuses in enumerate(
        (["failed", "finished"], ["diverged"], ["failed"], ["stopped"])
    ):
        for attempt, status in enumerate(statuses):
            write_record(record(attempt, status, seed), tmp_path)
    ids = [tiny_cell(seed=seed).id for seed in range(6)]
    wanted = {ids[0]: "finished", ids[1]: "diverged", ids[3]: "stopped"}
    assert terminal_cells(tmp_path, ids) == wanted
    assert terminal_cells(tmp_path, ids[1:2]) == {ids[1]: "diverged"}
    assert terminal_cells(tmp_path / "none", ids) == {}


def test_ids_with_a_point_in_them_are_found(tmp_path):
    odd = replace(record(), cell_id="c1.4e10-n11k-s0-0123abcd")
    write_record(odd, tmp_path)
    assert terminal_cells(tmp_path, [odd.cell_id]) == {odd.cell_id: "finished"}
