"""The grid is a pure function: every cell spends its budget, inside its window, under one id."""

import math
from dataclasses import dataclass, fields, replace

import pandas as pd
import pytest
from helpers_cells import tiny_cell
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from models.config import GPTConfig, Positions
from models.flops import FlopRule, N_flops, flops_per_token
from results.record import Probe
from sweep.arguments import parse
from sweep.cell import Cell, DataRef, si
from sweep.cells import cell_from_row, cell_to_row
from sweep.grid import isoflop_grid
from sweep.grid_settings import GridSettings
from sweep.recipe import Recipe, RecipeSettings
from sweep.recipe_regime import Optimizer
from sweep.resolve import resolve
from sweep.schedule import Schedule
from sweep.verbs import VERBS

DATA = DataRef(name="words", revision="1", tokenizer="bytes128")
LADDER = [
    GPTConfig(n_layer=1 + d // 32, d_model=d, n_head=d // 8, vocab_size=128, seq_len=64)
    for d in (8, 16, 24, 32, 48, 64, 96, 128)
]
SETTINGS = GridSettings(
    budgets=(1e10,),
    flop_rule="palm",
    tokens_per_param=20.0,
    window=4.0,
    tokens_per_param_range=(1.0, 500.0),
    seeds=(0,),
    tolerance=0.01,
    probe=False,
)
RECIPE = RecipeSettings(
    rule="fixed",
    lr=1e-3,
    lr_embedding=None,
    batch_rows=4,
    schedule="wsd",
    warmup_share=None,
    decay_share=None,
    lr_floor=None,
    beta1=0.9,
    beta2=None,
    eps=None,
    weight_decay=0.1,
    grad_clip=1.0,
)


@st.composite
def asked(draw) -> tuple[GridSettings, RecipeSettings]:
    low = draw(st.floats(0.1, 30))
    return (
        replace(
            SETTINGS,
            budgets=tuple(
                draw(st.lists(st.floats(1e7, 1e14), min_size=1, max_size=4, unique=True))
            ),
            flop_rule=str(draw(st.sampled_from(FlopRule))),
            tokens_per_param=draw(st.floats(1, 200)),
            window=draw(st.floats(1, 64)),
            tokens_per_param_range=(low, low * draw(st.floats(1.5, 1000))),
            seeds=tuple(draw(st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True))),
            tolerance=draw(st.floats(1e-4, 0.01)),
        ),
        replace(
            RECIPE,
            batch_rows=draw(st.integers(1, 64)),
            schedule=str(draw(st.sampled_from(Schedule))),
        ),
    )


@settings(max_examples=60)
@given(asked())
def test_every_cell_spends_its_budget_inside_its_window(asked):
    grid_settings, recipe = asked
    grid = isoflop_grid(grid_settings, LADDER, recipe, DATA)
    low, high = grid_settings.tokens_per_param_range
    for cell in grid.cells:
        assert abs(cell.flops / cell.budget - 1) <= grid_settings.tolerance <= 0.01
        assert cell.tokens == cell.steps * cell.recipe.batch_rows * 64
        assert cell.flops == pytest.approx(6 * cell.N * cell.tokens, rel=1e-12)
        assert low <= cell.tokens / cell.N <= high
        centre = math.sqrt(cell.budget / 6 / grid_settings.tokens_per_param)
        assert abs(math.log(cell.N / centre)) <= math.log(grid_settings.window) + 1e-12
        assert cell.recipe.warmup_steps <= max(1, cell.steps / 10)


@settings(max_examples=60)
@given(asked())
def test_every_pair_of_budget_and_size_is_a_cell_or_left_out_for_a_true_reason(asked):
    grid_settings, recipe = asked
    grid = isoflop_grid(grid_settings, LADDER, recipe, DATA)
    n_seeds, pairs = len(grid_settings.seeds), len(grid_settings.budgets) * len(LADDER)
    assert len(grid.cells) + n_seeds * len(grid.skipped) == n_seeds * pairs
    rule = FlopRule(grid_settings.flop_rule)
    by_size = {cfg.size_id: cfg for cfg in LADDER}
    low, high = grid_settings.tokens_per_param_range
    for skip in grid.skipped:
        cfg = by_size[skip.size_id]
        N = N_flops(cfg, rule)
        step = recipe.batch_rows * 64
        D = step * max(1, round(skip.budget / flops_per_token(cfg, rule) / step))
        centre = math.sqrt(skip.budget / 6 / grid_settings.tokens_per_param)
        inside = 1 / grid_settings.window <= N / centre <= grid_settings.window
        miss = abs(D * flops_per_token(cfg, rule) / skip.budget - 1)
        assert not (inside and low <= D / N <= high and miss <= grid_settings.tolerance)
        assert skip.reason


@settings(max_examples=60)
@given(asked())
def test_ids_are_distinct_and_a_function_of_what_is_asked(asked):
    grid_settings, recipe = asked
    cells = isoflop_grid(grid_settings, LADDER, recipe, DATA).cells
    assert len({c.id for c in cells}) == len(cells)
    shuffled = replace(grid_settings, budgets=grid_settings.budgets[::-1])
    again = isoflop_grid(shuffled, LADDER[::-1], recipe, DATA).cells
    assert [c.id for c in again] == [c.id for c in cells]
    assert list(cells) == sorted(cells, key=lambda c: (c.budget, c.N))


OTHER = {
    "budget": 2e10,
    "flop_rule": FlopRule.SIX_ND,
    "model": replace(tiny_cell().model, positions=Positions.LEARNED),
    "recipe": replace(tiny_cell().recipe, lr=0.011),
    "steps": 25,
    "seed": 1,
    "data": replace(tiny_cell().data, revision="2"),
    "probe": Probe.LR_HALF,
    "probe_of": "c1e10-n1k-s0-00000000",
    "on_trunk": True,
}


def test_an_id_changes_with_everything_that_is_asked():
    assert set(OTHER) == {f.name for f in fields(Cell)}
    ids = [replace(tiny_cell(), **{name: value}).id for name, value in OTHER.items()]
    assert len({tiny_cell().id, *ids}) == len(OTHER) + 1
    for name in (f.name for f in fields(Recipe)):
        value = getattr(tiny_cell().recipe, name)
        others = {
            "schedule": Schedule.COSINE,
            "rule": f"{value}x",
            "batch_tokens_asked": 123.4,
            "timescale": 0.2,
            "period_steps": 100,
            "optimizer": Optimizer.MUON,
            "momentum": 0.9,
            "adjust_lr_fn": "original",
        }
        other = others[name] if name in others else value + 1
        changed = replace(tiny_cell(), recipe=replace(tiny_cell().recipe, **{name: other}))
        assert changed.id != tiny_cell().id, name


def test_a_field_that_is_added_later_with_a_default_leaves_old_ids_as_they_were():
    @dataclass(frozen=True, kw_only=True)
    class LaterRecipe(Recipe):
        later_share: float = 0.95

    @dataclass(frozen=True, kw_only=True)
    class LaterCell(Cell):
        trunk: str | None = None

    old = tiny_cell()
    values = {f.name: getattr(old, f.name) for f in fields(Cell)}
    later = LaterRecipe(**{f.name: getattr(old.recipe, f.name) for f in fields(Recipe)})
    assert LaterCell(**{**values, "recipe": later}).id == old.id
    assert LaterCell(**{**values, "recipe": later}, trunk="a").id != old.id
    assert LaterCell(**{**values, "recipe": replace(later, later_share=0.9)}).id != old.id


# A change of this id orphans every result on disk: old records would no longer be found.
GOLDEN = Cell(
    budget=1.2e11,
    flop_rule=FlopRule.PALM,
    model=GPTConfig(n_layer=2, d_model=24, n_head=2, vocab_size=128, seq_len=128),
    recipe=Recipe(
        rule="demo",
        lr=0.008 * 32 / 24,
        lr_embedding=0.016,
        batch_rows=8,
        warmup_steps=66,
        schedule=Schedule.WSD,
        decay_steps=134,
        lr_floor=0.0,
        beta1=0.9,
        beta2=0.95,
        eps=1e-8,
        weight_decay=0.1,
        grad_clip=1.0,
    ),
    steps=669,
    seed=0,
    data=DataRef(name="english", revision="1", tokenizer="bytes128"),
)


def test_an_id_does_not_drift():
    assert GOLDEN.id == "c1.2e11-n29k-s0-1a13043a"


def test_the_golden_cell_is_one_of_the_demo():
    grid = resolve(parse("plan", ["grid=demo"], VERBS["plan"].reads).app).grid
    assert GOLDEN in grid.cells


@settings(max_examples=40)
@given(asked(), st.booleans(), st.sampled_from(Positions))
def test_a_cell_survives_its_row(asked, tied, positions):
    grid_settings, recipe = asked
    ladder = [replace(cfg, tied=tied, positions=positions) for cfg in LADDER]
    cells = isoflop_grid(grid_settings, ladder, recipe, DATA).cells
    assume(cells)
    for cell in cells:
        assert cell_from_row(cell_to_row(cell)) == cell
    rows = pd.DataFrame([cell_to_row(cell) for cell in cells]).to_dict("records")
    assert [cell_from_row(row) for row in rows] == list(cells)


def test_a_row_that_was_edited_is_not_taken_for_its_cell():
    row = cell_to_row(tiny_cell())
    with pytest.raises(ValueError, match="describe another cell"):
        cell_from_row({**row, "lr": 0.5})
    del row["steps"]
    with pytest.raises(ValueError, match="no column steps"):
        cell_from_row(row)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budgets": ()}, "grid.budgets must lie between 1 and 1e[+]30, got nothing"),
        ({"budgets": (1e9, -1.0)}, "grid.budgets must lie between 1 and 1e[+]30, got -1"),
        ({"budgets": (1e9, 1e9)}, "grid.budgets names a value twice"),
        ({"budgets": (float("nan"),)}, "grid.budgets must lie .* got nan"),
        ({"seeds": (-1,)}, "grid.seeds must lie between 0 and"),
        ({"seeds": (3, 3)}, "grid.seeds names a value twice"),
        ({"window": 0.5}, "grid.window must lie between 1 and"),
        ({"tolerance": 0.5}, "grid.tolerance must lie between 1e-06 and 0.01, got 0.5"),
        ({"tokens_per_param": 0.0}, "grid.tokens_per_param must lie"),
        ({"tokens_per_param_range": (5.0, 2.0)}, "must be .low, high. with 0 < low < high"),
        ({"tokens_per_param_range": (5.0,)}, "must be .low, high."),
        ({"design": "wide"}, "grid.design=wide is unknown; it may be uniform, tapered"),
        ({"taper": (15, 3)}, "grid.taper=.15, 3. must be .* both at least 4"),
        ({"taper": (4, 15)}, "the first not less than the second"),
        ({"taper": (9,)}, "grid.taper=.9. must be"),
        ({"window": None}, "grid.window=null need grid.prior"),
        ({"flop_rule": "6ND"}, "grid.flop_rule=6ND is unknown; it may be palm, palm_causal, 6nd"),
    ],
)
def test_settings_that_make_no_grid_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SETTINGS, **change)


def test_numbers_are_short_in_names():
    assert [si(x) for x in (7, 999, 1234, 423_000, 41_900_000, 1.5e9, 9.99e11, 2e12)] == [
        "7", "1k", "1.2k", "420k", "42M", "1.5B", "1T", "2T",
    ]  # fmt: skip
