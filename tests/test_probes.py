"""Probes: which cells test a recipe, how each differs from its own, and what they cost."""

from dataclasses import replace

import numpy as np
import pytest
from planted_recipe import GRID, LADDER, RECIPE, probed_grid

from models.config import GPTConfig
from results.record import Probe
from sweep.batches import Rows, batch
from sweep.cell import DataRef
from sweep.cells import cell_from_row, cell_to_row
from sweep.grid import isoflop_grid
from sweep.probes import probed_budgets, with_probes
from sweep.recipe_rules import RULES

DATA = DataRef(name="words", revision="1", tokenizer="bytes256")


def test_two_budgets_are_probed_at_their_smallest_best_and_largest_size():
    grid = probed_grid()
    by_id = {c.id: c for c in grid.cells}
    kinds = [(p.probe, by_id[p.probe_of]) for p in grid.probes]
    assert {own.budget for _, own in kinds} == {3e15, 1e17}
    for budget in (3e15, 1e17):
        sizes = [c for c in grid.cells if c.budget == budget]
        best = min(sizes, key=lambda c: abs(np.log(c.tokens / c.N / 20)))
        for kind in (Probe.LR_HALF, Probe.LR_DOUBLE):
            probed = [own for k, own in kinds if k is kind and own.budget == budget]
            assert probed == [sizes[0], best, sizes[-1]]
        for kind, count in ((Probe.BATCH_DOUBLE, 1), (Probe.SEED, 2)):
            probed = [own for k, own in kinds if k is kind and own.budget == budget]
            assert probed == [best] * count
    assert len(grid.probes) == 2 * (3 * 2 + 1 + 2)
    assert len({c.id for c in grid.trained}) == len(grid.cells) + len(grid.probes)


def test_a_probe_differs_from_its_cell_in_one_thing():
    grid = probed_grid()
    by_id = {c.id: c for c in grid.cells}
    for p in grid.probes:
        own = by_id[p.probe_of]
        assert f"-{p.probe}-" in p.id
        assert (p.budget, p.model, p.data, p.flop_rule) == (
            own.budget, own.model, own.data, own.flop_rule,
        )  # fmt: skip
        back = replace(p, probe=None, probe_of=None)
        match p.probe:
            case Probe.SEED:
                assert p.seed != own.seed
                assert replace(back, seed=own.seed) == own
            case Probe.BATCH_DOUBLE:
                assert p.recipe.batch_rows == 2 * own.recipe.batch_rows
                assert p.tokens == pytest.approx(own.tokens, abs=own.batch_tokens)
                assert p.recipe.warmup_steps == pytest.approx(own.recipe.warmup_steps / 2, abs=1)
                assert p.recipe.lr == own.recipe.lr
            case _:
                factor = 0.5 if p.probe is Probe.LR_HALF else 2
                assert p.recipe.lr == factor * own.recipe.lr
                assert p.recipe.lr_embedding == factor * own.recipe.lr_embedding
                same = {"lr": own.recipe.lr, "lr_embedding": own.recipe.lr_embedding}
                assert replace(back, recipe=replace(p.recipe, **same)) == own


def test_a_probe_of_the_batch_sees_the_same_data_in_the_same_order():
    rows = Rows(np.arange(1000), seq_len=10)
    twice = batch(rows, seed=3, step=2, batch_rows=8)
    assert (twice == np.concatenate([batch(rows, 3, step, 4) for step in (4, 5)])).all()


def test_a_floor_that_the_rule_gives_stays_where_it_is():
    recipe = replace(
        RECIPE, rule="steplaw", lr=None, batch_rows=None, lr_floor=None, schedule="cosine"
    )
    grid = with_probes(isoflop_grid(GRID, LADDER, recipe, DATA), GRID, recipe)
    ends = [p.recipe.lr * p.recipe.lr_floor for p in grid.trained]
    assert ends == pytest.approx([1e-5] * len(ends), rel=1e-8)
    assert "lr_floor" in RULES["steplaw"].decides


def test_seeds_of_the_grid_count_for_the_noise():
    def seeds(*own: int) -> list[int]:
        return [p.seed for p in probed_grid(seeds=own).probes if p.probe is Probe.SEED]

    assert seeds(0) == [1, 2] * 2
    assert seeds(1) == [0, 2] * 2
    assert seeds(0, 1) == [2] * 2
    assert seeds(0, 1, 2) == []


@pytest.mark.parametrize(
    ("budgets", "probed"),
    [
        ((1.0,), [1.0]),
        ((1.0, 2.0), [1.0, 2.0]),
        ((1.0, 2.0, 3.0), [1.0, 2.0]),
        ((5.0, 4.0, 3.0, 2.0, 1.0), [1.0, 4.0]),
    ],
)
def test_the_cheapest_and_the_second_dearest_budget_are_probed(budgets, probed):
    assert probed_budgets(set(budgets)) == probed


def test_one_budget_has_its_noise_at_two_sizes():
    grid = probed_grid(budgets=(1e16,))
    assert len({p.probe_of for p in grid.probes if p.probe is Probe.SEED}) == 2


def test_a_batch_probe_that_would_miss_the_budget_is_left_out_with_the_reason():
    """9 steps of twice the batch would be 4 or 5."""
    cfg = GPTConfig(n_layer=2, d_model=64, n_head=2, vocab_size=256, seq_len=64)
    wide = {"window": 1e4, "tokens_per_param_range": (1e-3, 1e6)}
    recipe = replace(RECIPE, batch_rows=4)
    (cell,) = isoflop_grid(replace(GRID, budgets=(1e9,), **wide), [cfg], recipe, DATA).cells
    settings = replace(GRID, budgets=(cell.flops / cell.steps * 9,), **wide)
    grid = with_probes(isoflop_grid(settings, [cfg], recipe, DATA), settings, recipe)
    assert {p.probe for p in grid.probes} == {Probe.LR_HALF, Probe.LR_DOUBLE, Probe.SEED}
    assert [s.reason for s in grid.skipped] == [
        "probe batch_double: 4 whole steps miss C by -11.1%"
    ]


def test_a_probe_survives_its_row_and_rows_of_an_earlier_day_have_none():
    for probe in probed_grid().probes:
        assert cell_from_row(cell_to_row(probe)) == probe
    cell = probed_grid().cells[0]
    row = cell_to_row(cell)
    for later in ("probe", "probe_of", "batch_tokens_asked", "timescale"):
        del row[later]
    assert cell_from_row(row) == cell
