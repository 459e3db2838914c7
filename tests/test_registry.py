"""The registry of predictions: added to, never changed, and it shows where somebody did."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.points import points_from_frame
from analysis.registry import RegistryError, append, prediction_id, predictions, read_registry
from analysis.scoring import coverage, score


def prediction(name: str, **more) -> dict:
    return {"kind": "prediction", "id": name, "date": "2026-01-02T00:00:00+00:00", **more}


def test_lines_come_back_in_order_and_unknown_is_null(tmp_path):
    path = tmp_path / "new" / "reg.jsonl"
    append(path, [prediction("a", noise=float("nan"))])
    append(path, [prediction("b", pair=(1.0, 2.0))])
    assert [e["id"] for e in read_registry(path)] == ["a", "b"]
    assert read_registry(path)[0]["noise"] is None
    assert read_registry(tmp_path / "none") == []
    assert read_registry(path)[0]["previous"] is None


def test_what_is_written_is_never_overwritten(tmp_path):
    path = tmp_path / "reg"
    append(path, [prediction("a")])
    before = path.read_bytes()
    for entries in ([prediction("a")], [prediction("b"), prediction("b")]):
        with pytest.raises(RegistryError, match="was registered on 2026-01-02"):
            append(path, entries)
    assert path.read_bytes() == before
    append(path, [{"kind": "score", "id": "a", "date": "2026-02-01"}])
    with pytest.raises(RegistryError, match="was scored on 2026-02-01"):
        append(path, [{"kind": "score", "id": "a", "date": "2026-02-02"}])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [lines[0].replace('"loss": 2.5', '"loss": 2.4'), *lines[1:]], "line 2 does"),
        (lambda lines: lines[1:], "line 1 does not follow"),
        (lambda lines: [lines[0], lines[2]], "line 2 does not follow"),
        (lambda lines: [*lines[:2], lines[2][:-9]], "line 3 is no entry"),
        (lambda lines: [*lines[:2], lines[2].rstrip("\n")], "line 3 does not follow"),
        (lambda lines: [*lines, "{}\n"], "line 4 is no entry"),
        (lambda lines: [*lines, "\n"], "line 4 is no entry"),
        (lambda lines: [lines[0].replace('"registry": 1', '"registry": 7')], "version 7"),
    ],
)
def test_a_changed_file_is_refused(tmp_path, change, message):
    path = tmp_path / "reg"
    append(path, [prediction(name, loss=2.5) for name in "abc"])
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))
    with pytest.raises(RegistryError, match=message):
        read_registry(path)
    before = path.read_bytes()
    with pytest.raises(RegistryError):
        append(path, [prediction("d")])
    assert path.read_bytes() == before


def test_a_folder_is_no_registry(tmp_path):
    with pytest.raises(RegistryError, match="can't"):
        append(tmp_path, [prediction("a")])
    with pytest.raises(RegistryError, match="can't read"):
        read_registry(tmp_path)


def test_an_id_is_of_the_fit_the_law_and_the_target():
    content = {"fit_sha256": "f", "law": "tied", "kind_of_target": "C", "target": [1e22]}
    name = prediction_id(content)
    assert prediction_id({**content, "date": "another day"}) == name
    for change in ({"fit_sha256": "g"}, {"law": "no_E"}, {"target": [1.1e22]}):
        assert prediction_id({**content, **change}) != name


def frame_of(rows: list[tuple[float, float, float]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["N", "D", "loss"])


def registered(**changes) -> dict:
    return {
        "id": "a", "law": "tied", "level": 0.9, "date": "2026-01-02T00:00:00+00:00",
        "kind_of_target": "C", "target": [6e20], "C": 6e20, "N": 1e9, "D": 1e11, "loss": 2.0,
        "loss_interval": [1.9, 2.1], "N_range": {"p5": [8e8, None]}, "noise": 0.003,
        "variance": {"sampling": 1e-4, "form": None, "discrepancy": 0.0}, "flop_rule": "6nd",
        **changes,
    }  # fmt: skip


def test_seeds_are_averaged_and_their_noise_shrinks_with_their_number():
    points = points_from_frame(frame_of([(1e9, 1e11, 2.2), (1e9, 1e11, 2.0), (3e9, 1e11, 1.7)]))
    got = score(registered(), points)
    assert (got["n"], got["status"], got["inside_interval"]) == (2, "ok", True)
    assert got["observed"] == pytest.approx(2.1)
    assert got["z"] == pytest.approx(np.log(2 / 2.1) / np.sqrt(1e-4 + 0.003**2 / 2))


def test_a_run_that_began_before_its_prediction_does_not_count():
    points = points_from_frame(frame_of([(1e9, 1e11, 2.2)]))
    got = score(registered(), points, np.array(["2026-01-01T23:59:59+00:00"], dtype=object))
    assert got["status"] == "late"
    assert coverage([registered()], {"a": got}) == []
    later = score(registered(), points, np.array(["2026-01-02T00:00:01+00:00"], dtype=object))
    (row,) = coverage([registered()], {"a": later})
    assert (row["n"], row["inside"], row["law"]) == (1, 0, "tied")


def test_the_nearest_size_judges_unless_it_is_not_as_good():
    far = points_from_frame(frame_of([(7e8, 1e20 / 7e8, 2.0)]))
    assert "outside the 8e+08 .. 1.492e+09" in score(registered(), far)["reason"]
    other_rule = score(registered(flop_rule="palm"), far)
    assert other_rule["status"] == "not_seen"
    assert "counts palm" in other_rule["reason"]


def test_a_reader_sees_predictions_only(tmp_path):
    path = Path(tmp_path / "reg")
    append(path, [prediction("a"), {"kind": "score", "id": "a", "date": "2026"}])
    assert [json.dumps(e["id"]) for e in predictions(read_registry(path))] == ['"a"']
