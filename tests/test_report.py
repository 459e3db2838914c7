"""The report: every part is there or says why not, nothing unknown is a number, nothing executes."""

import json
import math
import re
import subprocess
import sys
import time
from copy import deepcopy
from html.parser import HTMLParser

import pandas as pd
import pytest

from analysis.fit import fit
from analysis.fits_file import read_fits
from analysis.points import points_from_records
from analysis.report import compose, write_report
from analysis.report_answer import disagree, headline
from analysis.report_html import to_html
from tests.report_inputs import HOSTILE, planted_curves, planted_records, points_of

FIGURES = ["profiles", "optimum", "surface", "residuals", "holdout", "approaches", "conventions",
           "curves", "utilisation", "summary"]  # fmt: skip


@pytest.fixture(scope="module")
def records():
    return planted_records()


@pytest.fixture(scope="module")
def fits(records, tmp_path_factory):
    path = tmp_path_factory.mktemp("fit") / "fits.json"
    fit(points_from_records(records), draws=200).write(path)
    return read_fits(path)


def make(out, fits, records=None, *, curves=None, plan=None, points=None, title="planted"):
    return write_report(out, fits, records=records, curves=curves, plan=plan, points=points,
                        title=title, command="isoflop report sweep=planted")  # fmt: skip


def words_of(fits, records=None, *, plan=None, points=None) -> str:
    """Read the text of a report whose figures are left out, as a page shows it."""
    document = compose(fits, (), records=records, plan=plan, points=points, title="planted",
                       command="isoflop report sweep=planted")  # fmt: skip
    return Page(to_html(document, {})).words


@pytest.fixture(scope="module")
def report(fits, records, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    start = time.process_time()
    make(out, fits, records, curves=planted_curves(records), plan=records[["cell_id"]],
         points=points_of(records))  # fmt: skip
    return out, time.process_time() - start


class Page(HTMLParser):
    """Tags, attributes and visible text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self._hidden = False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self._hidden = tag in ("style", "script")

    def handle_endtag(self, tag):
        self._hidden = False

    def handle_data(self, data):
        if not self._hidden:
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).replace("\u00a0", " ").split())


def page(out) -> Page:
    return Page((out / "report.html").read_text("utf-8"))


def test_writes_every_file(report):
    out, _ = report
    found = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    figures = [f"figures/{n}.{k}" for n in FIGURES for k in ("svg", "png", "pdf", "csv")]
    assert found == sorted(["report.html", "report.md", "figures/columns.md", *figures])


def test_is_one_small_file_that_fetches_nothing(report):
    out, _ = report
    html = (out / "report.html").read_bytes()
    assert len(html) < 2_000_000
    parsed = page(out)
    assert not {"img", "iframe", "object", "embed"} & set(parsed.tags)
    refs = [v for k, v in parsed.attributes if k in ("src", "href", "xlink:href", "action") and v]
    assert all(r.startswith(("#", "data:,")) for r in refs)
    assert b"url(http" not in html
    assert b"@import" not in html


def test_is_quick(report):
    assert report[1] < 15  # process time, under whatever else the machine does; 4 s alone


def test_ids_are_unique_and_links_lead_somewhere(report):
    parsed = page(report[0])
    ids = [v for k, v in parsed.attributes if k == "id"]
    assert len(ids) == len(set(ids))
    links = {v[1:] for k, v in parsed.attributes if k in ("href", "xlink:href") and v[0] == "#"}
    assert links <= set(ids)


def test_says_the_answer_in_the_order_a_reader_asks(report, fits):
    words = page(report[0]).words
    marks = ["The answer", "The recipe was not probed:", "train N* =", "What would change it:",
             "Each dot is a trained model, each colour", "N opt grows", "Grey lines join",
             "Observed over fitted loss", "was it predicted? From", "Approach 3, chinchilla by",
             "The same runs under each rule", "Each run was left out", "Loss along the way",
             "Throughput at the median step", "hours in all", "26 cells", "1 diverged",
             "remade by"]  # fmt: skip
    body = words[words.index("The answer") :]
    at = [body.find(m) for m in marks]
    assert at == sorted(at)
    assert -1 not in at
    assert f"{headline(fits)[0]['loss']:.2f}" in words
    assert "isoflop report sweep=planted" in words


@pytest.mark.parametrize("token", ["nan", "NaN", "None", "inf", "null", "Infinity"])
def test_unknown_is_never_printed(report, token):
    out, _ = report
    allowed = "loss is nan"
    words = page(out).words.replace(allowed, "")
    assert not re.search(rf"(?<![\w-]){token}(?![\w-])", words)
    assert not re.search(rf"(?<![\w-]){token}(?![\w-])", (out / "report.md").read_text("utf-8"))


def test_equal_inputs_give_equal_bytes(report, fits, records, tmp_path):
    before = json.dumps(fits)
    make(tmp_path, fits, records, curves=planted_curves(records), plan=records[["cell_id"]],
         points=points_of(records))  # fmt: skip
    for path in sorted(p for p in tmp_path.rglob("*") if p.is_file()):
        assert path.read_bytes() == (report[0] / path.relative_to(tmp_path)).read_bytes(), path
    assert json.dumps(fits) == before


def test_names_cannot_become_markup(fits, records, tmp_path):
    evil = deepcopy(fits)
    evil["points"] |= {"path": HOSTILE, "flop_rule": HOSTILE, "loss_unit": HOSTILE}
    evil["points"]["excluded"] = [{"row": HOSTILE, "reason": HOSTILE}]
    evil["points"]["warnings"] = [HOSTILE]
    evil["provenance"] = {HOSTILE: {HOSTILE: HOSTILE}}
    evil["approach2"]["minima"][0] |= {"status": "edge", "reason": HOSTILE}
    evil["laws"][0] |= {"reason": HOSTILE}
    named = records.assign(cell_id=[HOSTILE + str(i) for i in range(len(records))], board=HOSTILE)
    make(tmp_path, evil, named, points=points_of(named), title=HOSTILE,
         curves=planted_curves(named))  # fmt: skip
    parsed = page(tmp_path)
    assert parsed.tags.count("script") == 1
    assert not any(k.startswith("on") for k, _ in parsed.attributes)
    assert HOSTILE.replace("  ", " ") in parsed.words
    markdown = (tmp_path / "report.md").read_text("utf-8")
    assert "<script" not in re.sub(r"\\<", "", re.sub(r"```.*?```", "", markdown, flags=re.S))


def test_a_markdown_table_keeps_its_columns(report):
    text = (report[0] / "report.md").read_text("utf-8")
    tables = re.findall(r"(?:^\|.*\n?)+", text, flags=re.M)
    assert len(tables) >= 6
    for t in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in t.splitlines()}) == 1
    for path in re.findall(r"\]\((figures/[^)]+)\)", text):
        assert (report[0] / path).exists()


def test_figures_name_their_points(report, records):
    html = (report[0] / "report.html").read_text("utf-8")
    finished = records[records["status"] == "finished"]["cell_id"]
    for cell in finished:
        assert f"<title>{cell}\n" in html
    assert "cell_id" in (report[0] / "figures" / "columns.md").read_text("utf-8")


def test_csv_holds_the_data_drawn(report, records):
    drawn = pd.read_csv(report[0] / "figures" / "profiles.csv")
    cells = drawn[drawn["series"] == "cells"].sort_values("loss")
    finished = records[records["status"] == "finished"]
    assert cells["loss"].tolist() == pytest.approx(sorted(finished["val_loss"]))


def test_points_alone_make_a_report(fits, records, tmp_path):
    make(tmp_path, fits, points=points_of(records))
    words = page(tmp_path).words
    assert words.count("needs the records of a sweep; none were given") == 4
    assert (tmp_path / "figures" / "profiles.svg").exists()
    assert not (tmp_path / "figures" / "utilisation.svg").exists()


def test_a_fit_alone_makes_a_report(fits):
    words = words_of(fits)
    assert "the runs themselves were not given" in words
    assert "train N* =" in words


def test_a_skipped_or_failed_part_gives_its_reason(fits, records):
    broken = deepcopy(fits)
    for i, name in enumerate(("approach1", "approach2", "approach3")):
        broken[name] = {"status": "failed", "reason": f"reason number {i}"}
    for i, name in enumerate(("laws", "refits", "conflicts", "leverage", "holdout", "forecast")):
        broken[name] = [{"status": "skipped", "reason": f"list number {i}"}]
    words = words_of(broken, records, points=points_of(records))
    for reason in ("reason number 1", "reason number 2", "list number 4", "list number 5"):
        assert reason in words


def test_one_budget_and_no_finished_cell(fits, records, tmp_path):
    one = records[records["budget"] == records["budget"].max()]
    frame = points_of(one)
    fit(frame.drop(columns="name"), draws=50).write(tmp_path / "fits.json")
    make(tmp_path / "one", read_fits(tmp_path / "fits.json"), one, points=frame)
    assert "The answer" in page(tmp_path / "one").words
    none = records[records["status"] != "finished"]
    words = words_of(fits, none, plan=records[["cell_id"]])
    assert f"{len(records) - 1} of {len(records)} planned cells" in words
    make(tmp_path / "empty", fits, records[:0], curves=planted_curves(records),
         points=points_of(records)[:0])  # fmt: skip
    assert "The sweep has no records yet" in page(tmp_path / "empty").words


def test_sweep_health_is_said_in_words(fits, records):
    ill = deepcopy(fits)
    ill["approach2"]["minima"][0] |= {
        "status": "edge", "reason": "the minimum lies below the smallest model",
        "N": None, "D": None, "loss": None,
    }  # fmt: skip
    again = records[records["status"] == "finished"][:1].assign(attempt=1)
    again["val_loss"] *= 1.01
    both = pd.concat([records.assign(epochs=[*[3.0] * 2, *[1.0] * (len(records) - 2)]), again])
    both["recipe_outside_regime"] = ["D/N is 300", *[None] * (len(both) - 1)]
    plan = pd.DataFrame({"cell_id": [*records["cell_id"], "never-run"]})
    words = words_of(ill, both.reset_index(drop=True), plan=plan, points=points_of(records))
    for said in ("1 of 27 planned cells have no record (never-run)", "1 diverged.",
                 "is edge: the minimum lies below the smallest model. To mend it, add sizes",
                 "1 cell outside the regime that the recipe was fitted on (D/N is 300)",
                 "2 cells saw data more than once (up to 3 epochs)",
                 "1 cell finished more than once", "attempts differ by up to 1.0%"):  # fmt: skip
        assert said in words


def test_disagreement_with_the_plain_answer_is_the_headline(fits):
    torn = deepcopy(fits)
    for f in torn["forecast"]:
        high = f["N_interval"][1]
        f["plain"] |= {"N": high * 10, "N_interval": [high * 9, high * 12]}
    assert disagree(torn["forecast"][0]) == ["N"]
    assert disagree(fits["forecast"][0]) == []
    words = words_of(torn)
    assert words.index("Two answers that disagree") < words.index("The recipe was not probed")


def test_a_recipe_that_did_not_transfer_is_said_before_all_else(fits):
    torn = deepcopy(fits)
    for f in torn["forecast"]:
        high = f["N_interval"][1]
        f |= {"recipe": "not_transferred", "status": "unvalidated", "reason": "too far"}
        f["plain"] |= {"N": high * 10, "N_interval": [high * 9, high * 12]}
    words = words_of(torn)
    first = words.index("The recipe did not transfer")
    assert first < words.index("Two answers that disagree") < words.index("too far")


def test_beyond_validation_is_said_before_the_answer(fits):
    far = deepcopy(fits)
    for f in far["forecast"]:
        f |= {"status": "unvalidated", "reason": "1000x the top budget; these data passed 2.5x"}
    words = words_of(far)
    assert "Beyond what these data validate" in words
    assert words.index("these data passed 2.5x") < words.index("train N* =")


def test_a_law_without_an_optimum_still_forecasts_a_loss(fits):
    flat = deepcopy(fits)
    for f in flat["forecast"]:
        f |= {"N": None, "D": None, "N_interval": None, "D_interval": None}
    assert "no optimal N is known" in words_of(flat)


def test_groups_are_listed_side_by_side(fits):
    whole = deepcopy(fits)
    skipped = {"status": "skipped", "reason": "one fit per value of corpus, under groups"}
    for name in ("approach1", "approach2", "approach3"):
        whole[name] = skipped
    for name in ("laws", "refits", "conflicts", "leverage", "holdout", "forecast"):
        whole[name] = [skipped]
    whole["groups"] = {"web": fits, "books": fits}
    words = words_of(whole)
    assert "These are 2 separate fits" in words
    assert words.index(" web ") < words.index(" books ")


def test_needs_no_torch():
    code = "import sys, analysis.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_ten_thousand_points_stay_small(fits, tmp_path):
    n = 10_000
    frame = pd.DataFrame({"N": [1e6 * (1 + i % 97) for i in range(n)]})
    frame["budget"] = [10.0 ** (18 + i % 5) for i in range(n)]
    frame["C"], frame["D"] = frame["budget"], frame["budget"] / 6 / frame["N"]
    frame["loss"] = [2.0 + math.sin(i) for i in range(n)]
    make(tmp_path, fits, points=frame)
    assert (tmp_path / "report.html").stat().st_size < 5_000_000
