"""A report of what is there: damaged or missing fits, no finished cell, hostile names; and several."""

import json
import re
from copy import deepcopy

import pytest

from analysis.fit import fit
from analysis.fits_file import no_fits, read_fits
from analysis.points import points_from_records
from analysis.report import write_comparison, write_report
from analysis.report_compare import NamedFit, unique_names
from results.store import collect_records, write_record
from tests.report_inputs import HOSTILE, as_records, planted_records, points_of
from tests.test_report import Page

PARTS = ("approach1", "approach2", "approach3")
LISTS = ("laws", "refits", "conflicts", "leverage", "holdout", "forecast")


@pytest.fixture(scope="module")
def records():
    return planted_records()


@pytest.fixture(scope="module")
def fits(records, tmp_path_factory):
    path = tmp_path_factory.mktemp("fit") / "fits.json"
    fit(points_from_records(records), draws=100).write(path)
    return read_fits(path)


def page(out) -> Page:
    return Page((out / "report.html").read_text("utf-8"))


def write_sweep(root, records, fits=None):
    """Lay a collected sweep down as the command line leaves it; returns words that name it."""
    folder = root / "planted"
    folder.mkdir(parents=True, exist_ok=True)
    for record in as_records(records):
        write_record(record, folder / "records")
    collect_records(folder / "records", folder / "records.parquet")
    if fits is not None:
        (folder / "fits.json").write_text(json.dumps(fits))
    return [f"root={root}", "sweep=planted"]


# one fit


def test_every_part_failed_still_draws_the_runs(fits, records, tmp_path):
    broken = deepcopy(fits)
    broken |= {name: {"status": "failed", "reason": f"{name} broke"} for name in PARTS}
    broken |= {name: [{"status": "failed", "reason": f"{name} broke"}] for name in LISTS}
    write_report(tmp_path, broken, records=records, curves=None, plan=None,
                 points=points_of(records), title="t", command="c")  # fmt: skip
    words = page(tmp_path).words
    for name in ("approach2", "approach3", "refits", "leverage", "holdout", "forecast"):
        assert f"{name} broke" in words, name
    drawn = {p.stem for p in (tmp_path / "figures").glob("*.svg")}
    assert {"profiles", "surface", "utilisation"} <= drawn


def test_parts_of_the_wrong_kind_are_no_numbers(fits, records, tmp_path):
    """A file edited by hand: texts, nulls and lists where objects belong."""
    for junk in (None, "text", [], [None], 3, {}):
        bad = {k: junk for k in fits} | {"schema_version": 1}
        write_report(tmp_path, bad, records=None, curves=None, plan=None, points=None, title="t",
                     command="c")  # fmt: skip
        assert "No forecast could be made" in page(tmp_path).words


def test_a_fits_json_of_another_version_leaves_the_runs(command, fits, records, tmp_path):
    words = write_sweep(tmp_path / "root", records, fits | {"schema_version": 99})
    code, out, err = command("report", *words)
    assert code == 1
    assert "Not in the report: " in out
    assert "has fits schema 99, this code reads 1: run isoflop fit again" in out.replace("\n", " ")
    assert "Traceback" not in err
    shown = page(tmp_path / "root" / "planted" / "report").words
    assert "has fits schema 99, this code reads 1" in shown
    assert f"{len(records)} cells" in shown
    assert (tmp_path / "root" / "planted" / "report" / "figures" / "profiles.svg").exists()


def test_a_sweep_where_nothing_finished_has_a_report(command, records, tmp_path):
    lost = records.assign(status="diverged", reason="loss is nan", val_loss=float("nan"))
    words = write_sweep(tmp_path / "root", lost)
    code, out, _ = command("report", *words)
    assert code == 1
    assert "no cell has finished" in out
    shown = page(tmp_path / "root" / "planted" / "report").words
    assert "No forecast could be made: no cell has finished, so there is nothing to fit" in shown
    assert f"{len(lost)} diverged. Lower the learning rate" in shown


def test_finished_cells_that_nobody_fitted_say_what_to_type(command, records, tmp_path):
    code, _, err = command("report", *write_sweep(tmp_path / "root", records))
    assert code == 2
    assert f"first: isoflop fit root={tmp_path / 'root'} sweep=planted" in err


def test_one_budget_makes_a_report_by_command(command, records, tmp_path):
    one = points_of(records[records["budget"] == records["budget"].max()])
    one.drop(columns="name").to_csv(tmp_path / "one.csv", index=False)
    code, _, err = command("report", "points=one.csv", "out=one", "fit.draws=20")
    assert (code, err) == (0, "")
    assert "could be held out and predicted" in page(tmp_path / "one").words


def test_hostile_columns_and_titles_stay_text(command, records, tmp_path):
    frame = points_of(records).rename(columns={"N": "<script>x", "D": "../D", "loss": "a'b\"c"})
    frame["$g$"] = ["<img src=x onerror=alert(1)>", *["../../up"] * (len(frame) - 1)]
    frame.to_csv(tmp_path / "evil.csv", index=False)
    code, _, err = command(
        "report", "points=evil.csv", "out=evil", "fit.draws=20", "columns.N=<script>x",
        "columns.D=../D", "columns.loss=a'b\"c", f"report.title={HOSTILE}",
    )  # fmt: skip
    assert (code, err) == (0, "")
    parsed = page(tmp_path / "evil")
    assert parsed.tags.count("script") == 1
    assert "img" not in parsed.tags
    assert {p.name for p in tmp_path.iterdir()} == {"evil.csv", "evil"}
    for name in ("sweep=<script>", "sweep=../up", "sweep=/etc"):
        code, _, err = command("report", name)
        assert code == 2
        assert "must be one folder name" in err


@pytest.mark.parametrize("price", ["-1", "nan", "inf"])
def test_a_price_that_is_none_is_refused(command, price):
    code, _, err = command("report", f"report.price={price}")
    assert code == 2
    assert "report.price=" in err
    assert "must be dollars for a device-hour, 0 or more" in err


# several fits


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    path = tmp_path_factory.mktemp("fit") / "fits.json"
    fit(points_from_records(planted_records(seed=1)), draws=100).write(path)
    return read_fits(path)


def compared(out, *named: NamedFit) -> str:
    write_comparison(out, list(named), title="both", command="isoflop report")
    return page(out).words


def test_fits_stand_side_by_side_with_their_own_numbers(fits, other, tmp_path):
    words = compared(tmp_path, NamedFit("one", "a", fits), NamedFit("two", "b", other))
    best = min(("one", fits), ("two", other), key=lambda e: e[1]["forecast"][0]["loss"])[0]
    assert f"FLOPs {best} expects the lowest loss" in words
    assert "Their intervals overlap" in words or "their intervals do not meet" in words
    for f in (fits, other):
        assert f"{f['approach3']['alpha']:.3f}" in words
    names = {p.name for p in tmp_path.rglob("*") if p.is_file()}
    assert {"report.html", "report.md", "columns.md"} <= names
    assert {
        f"{n}.{k}" for n in ("compared", "exponents") for k in ("svg", "png", "pdf", "csv")
    } <= names


def test_fits_that_count_otherwise_are_told_apart_first(fits, other, tmp_path):
    strange = deepcopy(other)
    strange["points"] |= {"flop_rule": "6nd", "N_convention": "total", "loss_unit": "bits"}
    strange["level"] = 0.5
    strange["forecast"] = [f | {"C": f["C"] * 2} for f in strange["forecast"]]
    words = compared(tmp_path, NamedFit("one", "a", fits), NamedFit("two", "b", strange))
    for said in ("FLOPs are counted by: palm in one; 6nd in two", "N is counted as: flops in one",
                 "So their losses do not compare", "different levels",
                 "No two of these fits were asked for the same budget"):  # fmt: skip
        assert said in words
    assert "lowest loss, " not in (tmp_path / "figures" / "compared.svg").read_text()


def test_a_fit_that_failed_stands_beside_one_that_did_not(fits, tmp_path):
    words = compared(tmp_path, NamedFit("one", "a", fits), NamedFit(HOSTILE, "b", no_fits("empty")))
    assert "empty" in words
    assert page(tmp_path).tags.count("script") == 1


@pytest.mark.slow
def test_fits_by_command(command, fits, other, tmp_path):
    for name, content in (
        ("run a", fits),
        ("b=1 (x)", other),
        ("c,d", fits | {"schema_version": 7}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "fits.json").write_text(json.dumps(content))
    code, out, err = command("report", "fits=[run a,b=1 (x)/fits.json]", "out=both")
    assert (code, err) == (0, "")
    assert {"run a", "b=1 (x)"} <= set(re.split(r"  +|\n", "  ".join(page(tmp_path / "both").text)))
    assert "What compute is worth" in page(tmp_path / "both").words
    assert re.search(r"A is worth.*run a.*b=1 \(x\).*× \[", page(tmp_path / "both").words)
    code, out, _ = command("report", "fits=[run a,'c,d',none]", "out=some")
    assert code == 1
    assert "schema 7, this code reads 1" in out.replace("\n", " ")
    words = page(tmp_path / "some").words
    assert "c,d is not in this comparison: " in words
    assert "none is not in this comparison: " in words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fits=[none,nowhere]", "out=o"], "none does not exist.*nowhere does not exist"),
        (["fits=[none]"], r"fits=\[A,B\] needs out=FOLDER"),
        (["fits=[none]", "out=o", "points=a.csv"], "points is not read with fits="),
        (["fits=[none]", "out=o", "fit.draws=20"], "fit.draws is not read with fits="),
        (["fits=[none]", "out=o", "report.price=2"], "report.price is not read with fits="),
        (["fits=[none]", "out=o", "sweep=x"], "sweep is not read with fits="),
    ],
)  # fmt: skip
def test_a_wrong_comparison_is_refused(command, tmp_path, words, message):
    code, _, err = command("report", *words)
    assert code == 2
    assert re.search(message, err)
    assert not (tmp_path / "o").exists()


def test_names_of_fits_are_as_short_as_tells_them_apart(tmp_path):
    paths = [tmp_path / p for p in ("a/x/fits.json", "b/x/fits.json", "y/fits.json", "z.json")]
    assert unique_names(paths)[:3] == ["a/x", "b/x", "y"]
    assert unique_names(paths)[3] == "z.json"
    assert len(set(unique_names([paths[0], paths[0]]))) == 2
