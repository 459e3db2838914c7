"""Probes through the command line: planned apart, trained with the cells, in no fit."""

import json
from dataclasses import replace

import pandas as pd
import pytest
from helpers_cells import write_text
from helpers_cli import isoflop, tiny_grid
from planted_recipe import planted_records, probed_grid

from analysis.fits_file import read_fits
from analysis.recipe_transfer import Verdict, transfer
from analysis.report_answer import answer_section
from results.store import read_records
from sweep.cells import cell_from_row
from sweep.memory import USABLE, memory_needed


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Return the words of a launched sweep with probes, and its folder."""
    root = tmp_path_factory.mktemp("probed")
    words = tiny_grid(root, write_text(root / "text"), "[1e8,2e8]", grid__probe="true")
    done = isoflop("launch", *words)
    assert done.returncode == 0, done.stderr
    return words, root / "tiny"


def test_a_plan_lists_and_prices_probes_apart(sweep, command):
    words, _ = sweep
    plan = json.loads(command("plan", *words, "plan.format=json")[1])
    assert plan["probes"]
    assert all(c["probe"] is None for c in plan["cells"])
    for part, totals in (("cells", plan["totals"]), ("probes", plan["totals"]["probes"])):
        assert totals["cells"] == len(plan[part])
        assert totals["flops"] == pytest.approx(sum(c["flops"] for c in plan[part]))
    table = command("plan", *words)[1]
    assert f"Probes of the recipe ({len(plan['probes'])}), which enter no fit:" in table
    assert f"{len(plan['probes'])} probes beside them" in " ".join(table.split())
    for probe in plan["probes"]:
        assert probe["cell_id"] in table
        assert probe["probe_of"] in {c["cell_id"] for c in plan["cells"]}
    off = command("plan", *words, "grid.probe=false")[1]
    assert "no probes (grid.probe=false)" in " ".join(off.split())


def test_no_probe_is_planned_of_a_cell_that_does_not_fit(sweep, command):
    words, _ = sweep
    whole = json.loads(command("plan", *words, "plan.format=json")[1])
    largest = max(c["d_model"] for c in whole["probes"])
    (cfg,) = {cell_from_row(c).model for c in whole["cells"] if c["d_model"] == largest}
    memory = (memory_needed(cfg, 1, half=False) - 1) / USABLE
    plan = json.loads(
        command("plan", *words, "plan.format=json", f"hardware.memory_bytes={memory}")[1]
    )
    assert plan["probes"]
    assert all(c["d_model"] < largest for c in plan["cells"] + plan["probes"])
    assert {p["probe_of"] for p in plan["probes"]} <= {c["cell_id"] for c in plan["cells"]}
    assert any("a replica needs" in s["reason"] for s in plan["skipped"])


def test_probes_are_trained_judged_and_kept_out_of_the_fit(sweep, command):
    words, folder = sweep
    named = words[:2]  # root and sweep
    code, collected, _ = command("collect", *named)
    records = read_records(folder / "records.parquet")
    line = transfer(records).line
    assert code == 0
    assert line in " ".join(collected.split())
    code, fitted, err = command("fit", *named, "fit.draws=40")
    assert (code, err) == (0, "")
    assert line in " ".join(fitted.split())
    fits = read_fits(folder / "fits.json")
    probes = records[records["probe"].notna()]
    assert set(probes["probe"]) == {"lr_half", "lr_double", "batch_double", "seed"}
    assert fits["points"]["n"] == len(records) - len(probes)
    out = {e["row"] for e in fits["points"]["excluded"] if e["reason"] == "probe"}
    assert out == set(probes["cell_id"])
    for minimum in fits["approach2"]["minima"]:
        own = records["probe"].isna() & (records["budget"] == minimum["budget"])
        assert own.sum() <= 3
    assert {f["recipe"] for f in fits["forecast"]} == {str(transfer(records).verdict)}


def test_a_report_lists_probes_apart_and_says_why_they_could_not_tell(sweep, command):
    words, folder = sweep
    for verb in ("collect", "fit", "report"):
        assert command(verb, *words[:2], *(["fit.draws=40"] if verb == "fit" else []))[0] == 0
    records = read_records(folder / "records.parquet")
    verdict, probes = transfer(records), records["probe"].notna()
    page = (folder / "report" / "report.md").read_text()
    assert f"{(~probes).sum()} cells. " in page
    assert f"{probes.sum()} probes of the recipe, " in page
    rows = [line for line in page.splitlines() if line.startswith("| c")]
    for cell_id in records.loc[~probes, "cell_id"]:
        assert any(line.startswith(f"| {cell_id} |") for line in rows)
    for cell_id in records.loc[probes, "cell_id"]:
        assert not any(cell_id in line for line in rows)
    assert "The recipe was not probed" not in page
    if verdict.verdict is Verdict.NOT_PROBED:
        assert verdict.reason.split(" of ")[0] in page


def test_the_answer_repeats_why_probes_could_not_tell_and_knows_an_older_fit():
    fits = {"forecast": [{"C": 1e19, "loss": 3.0, "recipe": "not_probed"}]}

    def first(records) -> str:
        return answer_section(fits, records).blocks[0].words

    grid = probed_grid()
    noisy = planted_records(grid, noise=0.02)
    assert transfer(noisy).verdict is Verdict.NOT_PROBED
    assert first(noisy).startswith(
        f"Whether the recipe transfers is open: {transfer(noisy).reason}."
    )
    clear = planted_records(grid)
    assert first(clear) == (
        f"This fit is older than the last probes, which say: {transfer(clear).line}. Fit again."
    )
    without = planted_records(replace(grid, probes=()))
    for none in (without, None):
        assert first(none).startswith("The recipe was not probed:")


def test_a_probe_sees_the_data_of_its_cell_and_another_learning_rate(sweep):
    records = read_records(sweep[1] / "records.parquet").set_index("cell_id")
    probes = records[records["probe"] == "lr_half"]
    assert len(probes)
    for _, probe in probes.iterrows():
        own = records.loc[probe["probe_of"]]
        same = ["seed", "data_sha256", "steps", "batch_tokens", "budget", "size_id", "tokens"]
        pd.testing.assert_series_equal(probe[same], own[same], check_names=False)
        assert probe["lr"] == own["lr"] / 2
        assert probe["val_loss"] != own["val_loss"]
