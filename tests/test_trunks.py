"""Cells that branch off a trunk: what they share, what that spares, and that it changes no bit."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from helpers_cells import CPU, MODEL, RUN, data_settings, tiny_cell
from helpers_cli import isoflop, tiny_grid

from analysis.fitted import Resampling, clusters_of, drawn_by, fit_points
from analysis.laws import LAWS
from analysis.points import points_from_frame, points_from_records
from analysis.points_rows import points_of, rows_of
from results.store import flops_spent_of, read_records, results_of
from sweep.arguments import parse
from sweep.attempt import Stopped, run_attempt
from sweep.cell import Cell
from sweep.cells import cell_from_row, cell_to_row
from sweep.claim import claim
from sweep.data import open_data
from sweep.device import open_device
from sweep.errors import UsageError
from sweep.folder import SweepFolder
from sweep.resolve import resolve
from sweep.trunk_store import branchings
from sweep.trunks import before_it, chains, shared_steps, spent_flops
from sweep.verbs import VERBS
from tests.planted import TRUTHS

WSD = {"recipe__schedule": "wsd", "recipe__lr_floor": "null", "grid__trunks": "true"}


def branch(steps: int, decay: int, seed: int = 0, **recipe) -> Cell:
    return replace(tiny_cell(steps, seed=seed, decay_steps=decay, **recipe), on_trunk=True)


SHORT, MIDDLE, LONG = branch(10, 2), branch(15, 3), branch(25, 5)


@pytest.fixture(scope="module")
def device():
    """Open the CPU with one thread."""
    return open_device(CPU)


@pytest.fixture
def run(tmp_path, text_folder, shards, device):
    """Return a function that makes a new attempt at a cell, or goes on with one, in a sweep."""
    asked = data_settings(text_folder)
    data = open_data(shards, asked, MODEL.seq_len)

    def run(cell, sweep="s", resume=False, settings=RUN, data=data, **more):
        folder = SweepFolder(tmp_path / "root", sweep)
        attempt = claim(folder, cell, resume)
        try:
            return run_attempt(attempt, folder, data, asked, device, settings, **more)
        finally:
            attempt.release()

    run.folder = lambda sweep="s": SweepFolder(tmp_path / "root", sweep)
    run.data = data
    return run


def resolved(tmp_path, text_folder, **changes):
    words = tiny_grid(tmp_path / "root", text_folder, **{**WSD, **changes})
    return resolve(parse("plan", words, VERBS["plan"].reads).app)


# what cells share


def test_cells_that_differ_before_their_decay_share_no_trunk():
    assert SHORT.trunk == MIDDLE.trunk == LONG.trunk
    others = [branch(15, 3, seed=1), branch(15, 3, lr=0.02), branch(15, 3, warmup_steps=2),
              branch(15, 3, batch_rows=4)]  # fmt: skip
    assert len({c.trunk for c in [SHORT, *others]}) == 5
    assert tiny_cell().trunk is None
    assert cell_from_row(cell_to_row(LONG)) == LONG


def test_a_cell_on_a_trunk_is_not_the_separate_run_of_the_same_numbers():
    assert replace(SHORT, on_trunk=False).id != SHORT.id


def test_a_trunk_is_paid_once():
    alone = tiny_cell(12)
    cells = [LONG, alone, SHORT, MIDDLE]
    assert shared_steps(cells) == {SHORT.id: 0, MIDDLE.id: 8, LONG.id: 12, alone.id: 0}
    of_a_step = SHORT.flops / 10
    assert spent_flops(cells) == pytest.approx(of_a_step * (10 + 7 + 13 + 12))


def test_what_is_to_be_trained_is_in_order_across_cells_that_are_done():
    before = before_it([SHORT, MIDDLE, LONG])
    assert chains([LONG.id, "alone", SHORT.id], before) == [("alone",), (SHORT.id, LONG.id)]
    assert chains([LONG.id], before) == [(LONG.id,)]


def test_a_grid_of_trunks_has_one_a_size_and_seed_whatever_its_budgets(tmp_path, text_folder):
    grid = resolved(tmp_path, text_folder, grid__seeds="[0,1]").grid
    assert len({c.trunk for c in grid.cells}) == len({(c.N, c.seed) for c in grid.cells})
    assert all(c.recipe.warmup_steps <= max(1, c.steps // 10) for c in grid.trained)
    assert spent_flops(grid.cells) < 0.9 * sum(c.flops for c in grid.cells)
    more = resolved(tmp_path, text_folder, grid__seeds="[0,1]", budgets="[1e8,2e8,4e8,8e8]").grid
    assert {c.id for c in grid.cells} <= {c.id for c in more.cells}


def test_a_plan_shows_what_laws_count_and_what_is_spent(tmp_path, text_folder, command):
    words = tiny_grid(tmp_path / "root", text_folder, **WSD)
    code, out, _ = command("plan", *words, "plan.format=json")
    plan = json.loads(out)
    totals, rows = plan["totals"], plan["cells"]
    assert code == 0
    assert totals["flops"] == pytest.approx(sum(6 * r["N_flops"] * r["tokens"] for r in rows))
    assert totals["flops_spent"] == pytest.approx(sum(r["flops_spent"] for r in rows))
    assert totals["flops_spent"] < 0.9 * totals["flops"]
    later = next(r for r in rows if r["shared_steps"])
    sooner = [r for r in rows if r["trunk"] == later["trunk"] and r["steps"] < later["steps"]]
    assert later["shared_steps"] == max(r["steps"] - r["decay_steps"] for r in sooner)
    table = command("plan", *words)[1]
    assert "as trunks are trained once" in table
    assert "separate runs, equal price" in table


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe__schedule": "cosine"}, "recipe.schedule=cosine is not that: it may be wsd, wsd_linear or wsd_stepped"),
        ({"recipe__timescale": 0.2, "recipe__weight_decay": "null"},
         r"recipe.timescale gives .* weight_decay=.*: recipe.timescale=null recipe.weight_decay="),
        ({"recipe": "steplaw", "recipe__lr": "null", "recipe__batch_rows": "null"},
         r"recipe.rule=steplaw gives .* lr=.* at D=.*: recipe=fixed recipe.schedule=wsd"),
    ],
)  # fmt: skip
def test_a_recipe_that_differs_along_the_trunk_is_refused(tmp_path, text_folder, changes, message):
    with pytest.raises(UsageError, match=message):
        resolved(tmp_path, text_folder, **changes)


def test_a_cell_shorter_than_its_trunks_warm_up_allows_is_left_out(tmp_path, text_folder):
    grid = resolved(
        tmp_path, text_folder, grid__tokens_per_param=0.5, recipe__warmup_share=0.1,
        grid__tokens_per_param_range="[.1,500]", budgets="[1.1e8]", recipe__batch_rows=1,
    ).grid  # fmt: skip
    assert any("its trunk's warm-up of" in s.reason for s in grid.skipped)


@pytest.mark.slow
def test_separate_runs_do_not_join_a_sweep_of_trunks(tmp_path, text_folder, command):
    words = tiny_grid(tmp_path / "root", text_folder, budgets="[2e8]", **WSD)
    assert isoflop("launch", *words).returncode == 0
    code, _, err = command("launch", *words[:-1], "grid.trunks=false")
    assert code == 2
    assert "grid.trunks=true, not false" in err


# what they train to


def test_branches_are_bitwise_what_separate_trainings_of_them_are(run):
    """In one sweep each goes on from the one before; alone, each trains from its first step."""
    together = [run(cell) for cell in (SHORT, MIDDLE, LONG)]
    alone = [run(cell, sweep=cell.id) for cell in (SHORT, MIDDLE, LONG)]
    assert [r.shared_steps for r in together] == [0, 8, 12]
    assert [r.shared_steps for r in alone] == [0, 0, 0]
    for one, other in zip(together, alone, strict=True):
        assert (one.val_loss, one.train_loss) == (other.val_loss, other.train_loss)
        assert one.trunk == other.trunk == SHORT.trunk
        assert (one.flops, one.restarts, one.resumed_from) == (other.flops, 0, None)
    assert together[2].train_seconds < alone[2].train_seconds  # 13 steps beside 25
    rows = read_records(run.folder().records)
    assert flops_spent_of(rows).sum() == pytest.approx(spent_flops([SHORT, MIDDLE, LONG]))


def test_a_branch_has_the_evaluations_of_its_trunk(run):
    for cell in (SHORT, LONG):
        run(cell)
    path = run.folder().cell(LONG.id) / "0" / "train.jsonl"
    steps = [json.loads(line)["step"] for line in path.read_text().splitlines()]
    assert steps == [3, 5, 8, 13, 19, 25]  # those of 10 steps up to 8, then those of 25


def test_each_can_be_trained_again_with_and_without_the_trunk(run):
    first = [run(cell) for cell in (SHORT, LONG)][1]
    from_trunk = run(LONG)
    for path in branchings(run.folder(), LONG):
        path.unlink()
    from_scratch = run(LONG)
    assert (from_trunk.attempt, from_trunk.shared_steps) == (1, 20)
    assert (from_scratch.attempt, from_scratch.shared_steps) == (2, 0)
    assert first.val_loss == from_trunk.val_loss == from_scratch.val_loss


def test_a_longer_cell_that_came_first_leaves_nothing_that_a_shorter_one_would_take(run):
    run(LONG)
    assert run(SHORT).shared_steps == 0


def test_a_trunk_that_is_damaged_or_of_other_data_is_passed_over(run, capfd):
    alone = run(MIDDLE, sweep="alone")
    run(SHORT)
    (path,) = branchings(run.folder(), MIDDLE)
    path.write_bytes(path.read_bytes()[:1000])
    record = run(MIDDLE)
    assert (record.shared_steps, record.val_loss) == (0, alone.val_loss)
    assert "can't be read" in capfd.readouterr().err
    (longest, _) = branchings(run.folder(), MIDDLE)
    other = replace(run.data, sha256="0" * 64)
    assert run(LONG, data=other).shared_steps == 0
    assert f"{longest} is of a run on other data" in capfd.readouterr().err


def test_a_branch_that_is_stopped_goes_on_from_its_own_steps(run):
    run(SHORT)
    with pytest.raises(Stopped):
        run(MIDDLE, should_stop=iter([False] * 4 + [True]).__next__)
    record = run(MIDDLE, resume=True)
    assert (record.attempt, record.shared_steps, record.restarts) == (0, 8, 1)
    assert record.val_loss == run(MIDDLE, sweep="alone").val_loss


def test_without_checkpoints_only_what_longer_cells_need_stays(run):
    settings = replace(RUN, keep_checkpoints="none")
    for cell in (SHORT, MIDDLE):
        run(cell, settings=settings)
    assert [p.name for p in branchings(run.folder(), LONG)] == ["step-00000012.pt"]


@pytest.mark.slow
def test_a_launch_trains_trunks_once_and_a_rerun_alone_agrees(tmp_path, text_folder):
    words = tiny_grid(tmp_path / "root", text_folder, **WSD)
    done = isoflop("launch", *words, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    folder = SweepFolder(tmp_path / "root", "tiny")
    rows = results_of(read_records(folder.records))
    cells = resolve(parse("plan", words, VERBS["plan"].reads).app).grid.trained
    expected = shared_steps(cells)
    assert {r.cell_id: r.shared_steps for r in rows.itertuples()} == expected
    later = next(i for i, shared in expected.items() if shared)
    again = isoflop("run", *words, f"cell={later}", cwd=tmp_path)
    assert again.returncode == 0
    both = read_records(folder.records).query("cell_id == @later")["val_loss"]
    assert both.iloc[0] == both.iloc[1]
    points = points_from_records(rows)
    assert list(points.trunk) == [r.trunk for r in rows.itertuples()]


# what fits make of it


def trunked_points(named: bool = True):
    """Three sizes at five budgets, twelve seeds of each size; noise is of the trunk alone."""
    law, rng, rows = LAWS["chinchilla"], np.random.default_rng(5), []
    for size, N in enumerate((1e7, 4e7, 1.6e8)):
        for seed in range(12):
            noise = 0.01 * rng.standard_normal()
            for D in N * np.array([5.0, 10, 20, 40, 80]):
                loss = float(law.loss(np.array(TRUTHS["chinchilla"]), N, D)) * np.exp(noise)
                trunk = {"trunk": f"{size}-{seed}"} if named else {}
                rows.append({"N": N, "D": D, "loss": loss, "size_id": str(size), **trunk})
    return points_from_frame(pd.DataFrame(rows))


def test_runs_of_one_trunk_are_drawn_together_where_sizes_are_not():
    """What a trunk has of noise is in all its runs: drawn apart they would seem five times as many."""
    spreads = {}
    for named in (True, False):
        points = trunked_points(named)
        assert (
            drawn_by(points, "rows") == drawn_by(points, "size") == ("trunk" if named else "rows")
        )
        fitted = fit_points(points, "chinchilla", "ls", 1e-3, Resampling("rows", 200, 0.9))
        assert fitted.clusters == (36 if named else 180)
        spreads[named] = np.nanstd(np.log(fitted.loss_draws(np.array([4e7]), np.array([8e8]))))
    assert spreads[True] > 1.6 * spreads[False]


def test_a_size_holds_its_trunks_whole():
    points = trunked_points()
    sizes = np.repeat([str(i) for i in range(12)], 15)
    points = replace(points, size_id=sizes.astype(object))
    assert drawn_by(points, "size") == "size"
    assert (clusters_of(points, "size") == sizes).all()


def test_trunks_outlive_the_file_of_a_fit():
    points = trunked_points()
    summary = {"rows": rows_of(points), "n": len(points), "grouping": "given", "flop_rule": "6nd",
               "N_convention": "given", "loss_unit": "nats"}  # fmt: skip
    assert (points_of(summary).trunk == points.trunk).all()
    assert (points.take(points.N > 2e7).trunk == points.trunk[points.N > 2e7]).all()


def test_a_run_without_a_trunk_is_drawn_alone():
    frame = pd.DataFrame({"N": 1e7, "D": [1e8, 2e8, 4e8], "loss": [3.0, 2.9, 2.8],
                          "trunk": ["a", "a", None]})  # fmt: skip
    trunk = points_from_frame(frame).trunk
    assert trunk[0] == trunk[1] != trunk[2]
