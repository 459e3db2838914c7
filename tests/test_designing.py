"""isoflop design and the plan's outlook: from a fit to cells that launch takes, with honest prices."""

import json
import shlex
import shutil
from pathlib import Path

import pandas as pd
import pytest
from helpers_cli import tiny_grid

from conf.schema import DesignConf
from results.store import read_records
from sweep.arguments import parse
from sweep.cells_file import cell_entry, read_cells
from sweep.design_settings import design_settings
from sweep.errors import UsageError
from sweep.grid import isoflop_grid, tapered_counts
from sweep.resolve import resolve
from sweep.verbs import VERBS

DEMO = Path(__file__).resolve().parents[1] / "results" / "reference" / "demo"
WIDTHS = (12, 16, 24, 32, 40, 48, 64, 80, 96, 112, 128, 160, 192)
LADDER = "model.ladder=[" + ",".join(f"{{n_layer:2,d_model:{d},n_head:{max(1, d // 16)}}}" for d in WIDTHS if d != 24) + ",{n_layer:2,d_model:24,n_head:2}]"  # fmt: skip


@pytest.fixture
def demo(tmp_path):
    """Root of a demo that was collected and fitted: the committed one."""
    folder = tmp_path / "root" / "demo"
    folder.mkdir(parents=True)
    for name in ("records.parquet", "fits.json"):
        shutil.copy(DEMO / name, folder / name)
    return tmp_path / "root"


def designs(root: Path) -> list[Path]:
    return sorted((root / "demo" / "designs").glob("*.json"))


def grid_of(*words: str):
    return resolve(parse("plan", ["grid=demo", *words], VERBS["plan"].reads).app).grid


# the grid


def test_the_demo_stays_uniform_and_its_cells_keep_their_ids():
    recorded = read_records(DEMO / "records.parquet")["cell_id"]
    assert sorted(c.id for c in grid_of().cells) == sorted(recorded)
    assert grid_of() == grid_of("grid.design=uniform", "grid.taper=[9,5]")


def test_a_grid_may_be_centred_and_widened_by_an_earlier_fit():
    app = parse("plan", ["grid=demo", f"grid.prior={DEMO / 'fits.json'}", LADDER,
                         "grid.tokens_per_param=null", "grid.window=null"], VERBS["plan"].reads).app  # fmt: skip
    resolved = resolve(app)
    prior = resolved.inputs.settings.prior
    for budget in app.grid.budgets:
        sizes = [c.N for c in resolved.grid.cells if c.budget == budget]
        assert min(sizes) < prior.N_opt(budget) < max(sizes)
    skipped = [s for s in resolved.grid.skipped if "outside the window" in s.reason]
    ends = {s.reason.split("window ")[1] for s in skipped if s.budget == app.grid.budgets[-1]}
    assert len(ends) == 1


@pytest.mark.parametrize(
    ("available", "counts"),
    [
        ([40] * 5, [15, 12, 9, 6, 4]),
        ([7, 7, 7, 7, 7], [7, 6, 5, 4, 4]),
        ([5, 5, 4, 5, 4], [5, 4, 4, 4, 4]),
        ([3, 20, 20], [3, 9, 4]),
        ([0, 0], [0, 0]),
        ([9], [9]),
    ],
)
def test_sizes_taper_to_four(available, counts):
    assert tapered_counts(available, (15, 4)) == counts


def test_a_tapered_grid_keeps_the_ends_of_a_window_and_ids():
    uniform, tapered = grid_of(LADDER), grid_of(LADDER, "grid.design=tapered")
    assert {c.id for c in tapered.cells} < {c.id for c in uniform.cells}
    for budget in {c.budget for c in uniform.cells}:
        whole, kept = ([c for c in g.cells if c.budget == budget] for g in (uniform, tapered))
        assert (kept[0], kept[-1]) == (whole[0], whole[-1])
        assert len(kept) >= 4
        left_out = [s for s in tapered.skipped if s.budget == budget and "tapered" in s.reason]
        assert len(kept) + len(left_out) == len(whole)
    assert len(tapered.cells) < len(uniform.cells)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["grid.noise=0"], r"grid\.noise=0 must lie between 0 and 1"),
        (["grid.prior=gpt"], r"grid\.prior: gpt is no law; it may be epoch, hoffmann, demo or a fits"),
        (["grid.prior=a/none.json"], r"grid\.prior: a/none\.json does not exist"),
        (["design.target=1e12"], r"design\.target=1e\+12 lies inside the grid, whose top budget is"),
        (["grid.cells=none.json"], r"grid\.cells=none\.json does not exist; isoflop design writes"),
        (["grid.cells=x", "grid.window=8"], r"grid\.window changes nothing beside grid\.cells"),
    ],
)  # fmt: skip
def test_what_makes_no_grid_is_refused(command, words, message):
    code, _, err = command("plan", *words)
    assert code == 2
    assert pd.Series([err]).str.contains(message, regex=True).item(), err


# the plan's outlook


def outlook(command, *words: str) -> dict:
    code, out, err = command("plan", "plan.format=json", *words)
    assert code == 0, err
    return json.loads(out)["expected"]


def test_a_plan_says_what_the_grid_would_tell_beside_others_of_its_price(command):
    found = outlook(command, LADDER, "grid.design=tapered", "design.target=1e14")
    this, other = found["grids"]
    assert (found["target"], found["law"], found["noise"]) == (1e14, "demo", 0.0108)
    assert other["name"] == "uniform, equal price"
    assert other["flops"] == pytest.approx(this["flops"])
    assert this["scale"] == 1 < other["cells"]
    plain = outlook(command, LADDER, "design.target=1e14")["grids"][0]
    for quantity, sd in other["sd"].items():
        at_its_price = plain["sd"][quantity] * (plain["flops"] / other["flops"]) ** 0.5
        assert sd == pytest.approx(at_its_price, rel=0.01)  # the weak prior is in it
        assert 0 < this["coverage"][quantity] <= 0.9


def test_more_noise_and_a_farther_target_make_errors_larger(command):
    near, noisy = outlook(command), outlook(command, "grid.noise=0.0216")
    far = outlook(command, "design.target=1e15")
    for quantity in ("N_opt", "loss"):
        base = near["grids"][0]["sd"][quantity]
        assert noisy["grids"][0]["sd"][quantity] == pytest.approx(2 * base, rel=0.1)
        assert far["grids"][0]["sd"][quantity] > base


def test_a_wide_window_is_shown_with_its_coverage(command):
    found = outlook(command, LADDER, "grid.window=8")
    wide, *_, four = found["grids"]
    assert four["name"] == "window 4, equal price"
    assert wide["coverage"]["loss"] < four["coverage"]["loss"]
    _, out, _ = command("plan", "grid.window=8")
    assert "wider than x4" in out
    _, out, _ = command("plan")
    assert "wider than x4" not in out
    assert "N_opt holds" in out


# the next cells


def test_cells_of_a_design_have_the_ids_of_a_normal_grid_and_launch_takes_them(command, demo):
    code, out, err = command("design", f"root={demo}", LADDER, "design.flops=3e13")
    assert code == 0, err
    (path,) = designs(demo)
    content = json.loads(path.read_text())
    budgets = sorted({c["budget"] for c in content["cells"]})
    wide = [LADDER, f"grid.budgets={budgets}", "grid.window=64"]
    assert {c["id"] for c in content["cells"]} <= {c.id for c in grid_of(*wide).cells}
    assert sum(r["price"] for r in content["rounds"]) <= 3e13
    for cell in content["cells"]:
        assert cell["id"] in out
        assert "sharpens" in cell["why"]
    for quantity in ("N_opt", "loss"):
        before, after = (content["before"], content["rounds"][0]["after"])
        assert after[quantity]["sd"] < before[quantity]["sd"]
        low, high = after[quantity]["interval"]
        assert low < after[quantity]["estimate"] < high
    _, verb, *words = shlex.split(out.splitlines()[-1].split(": ", 1)[1])
    assert verb == "launch"
    code, out, err = command("plan", *words, "plan.format=json")
    assert code == 0, err
    assert {c["cell_id"] for c in json.loads(out)["cells"]} == {c["id"] for c in content["cells"]}
    recorded = set(read_records(demo / "demo" / "records.parquet")["cell_id"])
    assert not recorded & {c["id"] for c in content["cells"]}


def test_a_dearer_budget_gets_four_sizes_and_probes_are_in_the_price(command, demo):
    words = [
        "design",
        f"root={demo}",
        LADDER,
        "grid.probe=true",
        "design.budgets=[1.92e12,7.68e12]",
    ]
    code, _, err = command(*words, "design.flops=1e14")
    assert code == 0, err
    content = json.loads(designs(demo)[0].read_text())
    cells = [c for c in content["cells"] if "probe" not in c]
    probes = [c for c in content["cells"] if "probe" in c]
    dearest = max(c["budget"] for c in cells)
    assert dearest == 7.68e12
    assert len({c["size"] for c in cells if c["budget"] == dearest}) >= 4
    assert {p["budget"] for p in probes} == {1.2e11, 1.92e12}  # the second-dearest there will be
    assert set(content["rounds"][0]["probes"]) == {p["id"] for p in probes}
    assert content["rounds"][0]["flops"] == pytest.approx(content["rounds"][0]["price"])
    assert content["rounds"][0]["price"] <= 1e14
    code, out, err = command("plan", f"root={demo}", LADDER, "grid.probe=true", f"grid.cells={designs(demo)[0]}", "plan.format=json")  # fmt: skip
    assert code == 0, err
    assert {p["cell_id"] for p in json.loads(out)["probes"]} == {p["id"] for p in probes}


def test_the_same_design_is_written_once(command, demo):
    for _ in range(2):
        assert command("design", f"root={demo}", LADDER, "design.flops=3e13")[0] == 0
    command("design", f"root={demo}", LADDER, "design.flops=2e13")
    assert [p.name for p in designs(demo)] == ["1.json", "2.json"]
    assert not list((demo / "demo" / "designs").glob(".*"))


def test_hours_of_a_device_are_a_budget_too(command, demo):
    assert command("design", f"root={demo}", LADDER, "design.device_hours=0.1")[0] == 0
    content = json.loads(designs(demo)[0].read_text())
    assert content["funds"] == {"unit": "device_hours", "of_a_round": 0.1}
    assert 0 < content["rounds"][0]["price"] <= 0.1


def test_rounds_go_on_until_an_interval_is_reached(command, demo):
    words = ["design", f"root={demo}", LADDER, "design.until=N_opt@1e14<=21%"]
    code, out, err = command(*words, "design.flops=2e13")
    assert code == 0, err
    content = json.loads(designs(demo)[0].read_text())
    assert content["reached"] is True
    assert len(content["rounds"]) > 1
    reached = [r["after"]["N_opt"]["sd"] * 1.6449 for r in content["rounds"]]
    assert reached == sorted(reached, reverse=True)
    assert reached[-1] <= 0.1907 < reached[-2]  # log(1.21)
    assert {c["id"] for c in content["cells"]} == set(content["rounds"][0]["cells"])
    ids = [i for r in content["rounds"] for i in r["cells"]]
    assert len(set(ids)) == len(ids)
    assert f"{len(content['rounds'])} rounds to launch" in out


def test_an_interval_that_is_there_needs_nothing_and_one_out_of_reach_is_said(command, demo):
    code, out, _ = command(
        "design", f"root={demo}", "design.flops=1e13", "design.until=N_opt@3e13<=90%"
    )
    assert code == 0
    assert "Nothing remains to be launched" in out
    assert designs(demo) == []
    code, out, _ = command(
        "design", f"root={demo}", "design.flops=1e13", "design.until=loss@1e17<=1%"
    )
    assert code == 0
    assert "not reached" in out


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, r"needs what the next cells may cost: design\.flops=1e18 or design\.device_hours"),
        ({"flops": 1e13, "device_hours": 1.0}, "one of the two"),
        ({"flops": -1.0}, r"design\.flops=-1 must be a positive number"),
        ({"device_hours": float("nan")}, r"design\.device_hours=nan must be a positive number"),
        ({"flops": 1e13, "quantity": "a"}, r"design\.quantity=a is unknown; it may be both, N_opt"),
        (
            {"flops": 1e13, "until": "soon"},
            r"can't be read; type it as design\.until=N_opt@1e15<=10%",
        ),
        ({"flops": 1e13, "until": "D@1e15<=1%"}, "the quantity may be N_opt, loss"),
        ({"flops": 1e13, "until": "loss@1e15<=0%"}, "the interval above 0%"),
        ({"flops": 1e13, "until": "loss@1e15<=1%", "target": 1e15}, "names its own quantity"),
        ({"flops": 1e13, "target": -1.0}, r"design\.target=-1 must lie between"),
        ({"flops": 1e13, "budgets": []}, r"design\.budgets must lie between"),
        ({"flops": 1e13, "budgets": [-1.0]}, r"design\.budgets must lie between"),
    ],
)
def test_what_a_design_is_asked_is_checked(asked, message):
    with pytest.raises(UsageError, match=message):
        design_settings(DesignConf(**asked), frozenset(f"design.{k}" for k in asked))


def test_an_interval_to_reach_is_read_as_typed():
    asked = design_settings(DesignConf(flops=1.0, until=" loss @ 1e15 <= 2.5 % "), frozenset())
    assert (asked.quantities, asked.target, asked.until.share) == (("loss",), 1e15, 0.025)


BAD = [
    (["design.flops=1e13", "design.target=1e12"], r"design\.target: C=1e\+12 lies inside the data, "
     r"whose budgets reach 1\.92e\+12: .* such as 1\.92e\+13"),
    (["design.flops=1e13", "design.until=loss@1e12<=1%"], r"design\.until: C=1e\+12 lies inside"),
    (["design.flops=1e9"], r"design\.flops=1e\+09 buys no cell: the cheapest candidate, c\S+, costs "
     r"2\.4e\+11\. Try design\.flops=\S+"),
    (["design.flops=1e13", "design.budgets=[1e20]"], r"design\.budgets must lie below the target"),
    (["design.flops=1e13", "design.fits=none.json"], r"design\.fits: none\.json does not exist"),
    (["design.flops=1e13", "sweep=other"], r"fits\.json does not exist.*isoflop fit root=.* sweep=other"),
    (["design.flops=1e13", "grid.flop_rule=6nd"], r"flop_rule=palm, cells are planned by N=flops "
     r"and flop_rule=6nd"),
    (["design.flops=1e13", "hardware.memory_bytes=1e5"], r"a replica needs .* GB"),
    (["design.flops=1e13", "grid.cells=x.json"], r"grid\.cells is what isoflop design writes"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "message"), BAD, ids=[" ".join(w) or "nothing" for w, _ in BAD])
def test_a_design_that_can_not_be_says_what_would_work(command, demo, words, message):
    before = sorted(demo.rglob("*"))
    code, _, err = command("design", f"root={demo}", *words)
    assert code == 2, err
    assert err.count("\n") == 1
    assert pd.Series([err]).str.contains(message, regex=True).item(), err
    assert sorted(demo.rglob("*")) == before


def test_the_budget_that_is_suggested_works(command, demo):
    for probe in ("false", "true"):
        words = ["design", f"root={demo}", LADDER, f"grid.probe={probe}"]
        _, _, err = command(*words, "design.flops=1e9")
        suggested = err.rsplit("Try ", 1)[1].strip()
        code, _, err = command(*words, suggested)
        assert code == 0, err


def test_a_memory_too_small_for_the_large_sizes_is_said_with_what_fits(command, demo):
    code, out, _ = command("design", f"root={demo}", LADDER, "design.flops=3e13", "hardware.memory_bytes=4e6")  # fmt: skip
    assert code == 0
    assert "a replica needs" in out
    assert "would fit" in out
    sizes = [c["size"] for c in json.loads(designs(demo)[0].read_text())["cells"]]
    assert "L2-d192-h12" not in sizes


def test_a_fit_of_other_cells_than_were_collected_is_refused(command, demo):
    path = demo / "demo" / "fits.json"
    content = json.loads(path.read_text())
    content["points"]["n"] = 22
    path.write_text(json.dumps(content))
    code, _, err = command("design", f"root={demo}", "design.flops=1e13")
    assert code == 2
    assert "is a fit to 22 cells, and 23 are collected: first, isoflop fit root=" in err
    assert " sweep=demo" in err


def test_runs_of_an_earlier_fit_say_what_they_say_in_their_own_sweep(command, demo):
    """fits.json that holds its runs, read as the sweep's own and as another's."""
    assert command("fit", f"root={demo}", "grid=demo", "fit.draws=20")[0] == 0
    fits = demo / "demo" / "fits.json"
    found = []
    for words in (["design.budgets=[3.84e12]"], ["sweep=next", f"design.fits={fits}", "design.budgets=[3.84e12]"]):  # fmt: skip
        code, out, err = command("design", f"root={demo}", LADDER, "design.flops=2e13", *words)
        assert code == 0, err
        assert "23 runs" in out
        path = demo / ("next" if "sweep=next" in words else "demo") / "designs" / "1.json"
        content = json.loads(path.read_text())
        found.append((content["before"], content["rounds"][0]["cells"]))
    assert found[0] == found[1]


def test_an_earlier_fit_stands_in_for_runs_by_its_covariance(command, demo):
    """A file of before fits held their runs."""
    fits = shutil.move(demo / "demo" / "fits.json", demo / "pilot.json")
    content = json.loads(Path(fits).read_text())
    del content["points"]["rows"]
    Path(fits).write_text(json.dumps(content))
    words = ["design", f"root={demo}", "sweep=next", LADDER, f"design.fits={fits}"]
    code, out, err = command(*words, "design.flops=3e13")
    assert code == 0, err
    assert "the fit's covariance" in out
    for row in content["laws"]:
        row["covariance"] = None
    Path(fits).write_text(json.dumps(content))
    code, _, err = command(*words, "design.flops=3e13")
    assert code == 2
    assert "chinchilla has no covariance, and the file is of before fits held their runs" in err


# a file of cells


def inputs_of(*words: str):
    return resolve(parse("plan", ["grid=demo", *words], VERBS["plan"].reads).app).inputs


def test_cells_and_probes_survive_their_file(tmp_path):
    resolved = resolve(parse("plan", ["grid=demo", "grid.probe=true", "grid.seeds=[3,5]"], VERBS["plan"].reads).app)  # fmt: skip
    path = tmp_path / "cells.json"
    entries = [cell_entry(c) for c in resolved.grid.trained]
    path.write_text(json.dumps({"schema": 1, "cells": entries[::-1]}))
    back = read_cells(path, resolved.inputs)
    assert back.cells == resolved.grid.cells
    assert {p.id for p in back.probes} == {p.id for p in resolved.grid.probes}
    bare = [
        {k: e[k] for k in ("budget", "size")}
        for e in entries
        if e["seed"] == 3 and "probe" not in e
    ]
    path.write_text(json.dumps({"schema": 1, "cells": bare}))
    assert read_cells(path, resolved.inputs).cells == tuple(c for c in resolved.grid.cells if c.seed == 3)  # fmt: skip


ENTRY = {"budget": 1.2e11, "size": "L2-d24-h2", "seed": 0}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "can't be read as JSON"),
        ("[]", 'has not "schema": 1'),
        ({"schema": 2, "cells": [ENTRY]}, 'has not "schema": 1'),
        ({"schema": 1, "cells": []}, "has no cells"),
        ({"schema": 1, "cells": [ENTRY | {"probe": "lr_half"}]}, "has no cells"),
        ({"schema": 1, "cells": [ENTRY, ENTRY]}, "names a cell twice"),
        ({"schema": 1, "cells": [ENTRY | {"size": "L2-d25-h2"}]}, "ladder has no L2-d25-h2; nearest"),
        ({"schema": 1, "cells": [ENTRY | {"lr": 1}]}, "cell 0 must have budget and size"),
        ({"schema": 1, "cells": [{"budget": 1e11}]}, "cell 0 must have budget and size"),
        ({"schema": 1, "cells": [ENTRY | {"budget": "big"}]}, "must be FLOPs and a whole number"),
        ({"schema": 1, "cells": [ENTRY | {"seed": -1}]}, "must be FLOPs and a whole number"),
        ({"schema": 1, "cells": [ENTRY, ENTRY | {"probe": "warm"}]}, "probe=warm is unknown"),
        ({"schema": 1, "cells": [ENTRY | {"budget": 5e8}]}, "whole steps miss C by"),
        ({"schema": 1, "cells": [ENTRY | {"id": "c1-n1-s0-00000000"}]}, "this config makes it c1.2e11"),
    ],
)  # fmt: skip
def test_a_file_that_names_no_cells_is_refused(tmp_path, content, message):
    path = tmp_path / "cells.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=r"grid\.cells=") as e:
        read_cells(path, inputs_of())
    assert message in str(e.value)


def test_another_recipe_than_the_design_was_made_for_is_refused(command, demo):
    command("design", f"root={demo}", "design.flops=1e13")
    code, _, err = command(
        "plan", f"root={demo}", f"grid.cells={designs(demo)[0]}", "recipe.beta2=0.9"
    )
    assert code == 2
    assert "recipe, data or model differ from those it was designed with" in err


# the whole way


@pytest.mark.slow
def test_a_sweep_is_designed_and_its_next_cells_are_trained(command, tmp_path, text_folder):
    """Train a tiny sweep, design its next cells, train them beside the others."""
    sizes = ",".join(f"{{n_layer:1,d_model:{d},n_head:1}}" for d in (4, 6, 8, 12, 16))
    changes = {"grid__window": 8, "grid__probe": "false", "model__ladder": f"[{sizes}]"}
    words = tiny_grid(tmp_path / "root", text_folder, budgets="[1e8,2e8]", **changes)
    words.append("cluster.workers=1")  # one import of torch
    where, folder = [f"root={tmp_path / 'root'}", "sweep=tiny"], tmp_path / "root" / "tiny"
    for verb, more in (("launch", words), ("collect", where), ("fit", [*where, "fit.draws=20"])):
        code, out, err = command(verb, *more)
        assert code == 0, err + out
    before = set(read_records(folder / "records.parquet")["cell_id"])
    code, out, err = command("design", *words[:-1], "design.flops=2e9", "design.target=4e9")
    assert code == 0, err
    (path,) = (folder / "designs").glob("*.json")
    designed = {c["id"] for c in json.loads(path.read_text())["cells"]}
    assert designed
    assert not designed & before
    _, verb, *again = shlex.split(out.splitlines()[-1].split(": ", 1)[1])
    code, out, err = command(verb, *again, words[-1])
    assert code == 0, err + out
    assert command("collect", *where)[0] == 0
    records = read_records(folder / "records.parquet")
    assert set(records["cell_id"]) == before | designed
    assert (records["status"] == "finished").all()


def test_candidates_are_made_by_the_grid_itself(command, demo):
    """Each has a whole number of steps that spends its budget within the tolerance."""
    command("design", f"root={demo}", LADDER, "design.flops=1e14")
    inputs = inputs_of(LADDER)
    grid = read_cells(designs(demo)[0], inputs)
    for cell in grid.cells:
        assert abs(cell.flops / cell.budget - 1) <= inputs.settings.tolerance
        assert 1 <= cell.tokens / cell.N <= 500
    assert isoflop_grid(*inputs).cells
