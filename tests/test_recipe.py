"""Recipes: rules give numbers, refuse what they would ignore, and know where they were fitted."""

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from models.config import GPTConfig
from sweep.recipe import (
    RULES,
    RecipeSettings,
    choose_batch,
    make_recipe,
    outside_regime,
)
from sweep.schedule import Schedule

DEMO = RecipeSettings(
    rule="demo",
    lr=None,
    lr_embedding=None,
    batch_rows=None,
    schedule="wsd",
    warmup_share=0.05,
    decay_share=0.2,
    lr_floor=0.0,
    beta1=0.9,
    beta2=0.95,
    eps=1e-8,
    weight_decay=0.1,
    grad_clip=1.0,
)
FIXED = replace(DEMO, rule="fixed", lr=2e-3, batch_rows=12)


def size(d_model: int) -> GPTConfig:
    return GPTConfig(n_layer=2, d_model=d_model, n_head=1, vocab_size=128, seq_len=128)


@example(steps=1, warmup_share=0.05, decay_share=0.75, schedule=Schedule.WSD, rule=DEMO, d_model=16)
@given(
    steps=st.integers(1, 10**7),
    warmup_share=st.floats(0, 0.1),
    decay_share=st.floats(0, 0.9),
    schedule=st.sampled_from(Schedule),
    rule=st.sampled_from([DEMO, FIXED]),
    d_model=st.sampled_from([12, 16, 24, 64, 96]),
)
def test_warm_up_is_at_most_a_tenth_and_phases_fit_in_the_run(
    steps, warmup_share, decay_share, schedule, rule, d_model
):
    settings = replace(
        rule, warmup_share=warmup_share, decay_share=decay_share, schedule=str(schedule)
    )
    recipe = make_recipe(settings, size(d_model), steps)
    assert 0 <= recipe.warmup_steps <= max(1, steps / 10)
    assert (recipe.warmup_steps == 0) == (warmup_share == 0)
    assert 0 <= recipe.decay_steps <= steps
    assert recipe.warmup_steps + recipe.decay_steps <= max(steps, 1)
    assert recipe.schedule is schedule
    assert recipe.batch_rows == choose_batch(settings, size(d_model)) >= 1
    assert min(recipe.lr, recipe.lr_embedding) > 0
    if schedule is Schedule.CONSTANT:
        assert recipe.decay_steps == 0


def test_fixed_gives_every_size_the_same_numbers():
    small, large = (make_recipe(FIXED, size(d), 1000) for d in (16, 96))
    assert small == large
    assert (small.lr, small.lr_embedding, small.batch_rows) == (2e-3, 2e-3, 12)
    assert (small.warmup_steps, small.decay_steps) == (50, 200)
    own = make_recipe(replace(FIXED, lr_embedding=0.5), size(16), 1000)
    assert own.lr_embedding == 0.5


def test_demo_lowers_the_rate_of_matrices_with_width_alone():
    recipes = {d: make_recipe(DEMO, size(d), 1000) for d in (16, 32, 64)}
    assert recipes[16].lr == 2 * recipes[32].lr == 4 * recipes[64].lr
    assert len({r.lr_embedding for r in recipes.values()}) == 1
    batches = [recipes[d].batch_rows for d in (16, 32, 64)]
    assert batches == sorted(batches)


def test_constants_reach_the_cell_as_they_were_asked():
    asked = replace(FIXED, beta1=0.8, beta2=0.9, eps=1e-7, weight_decay=0.3, grad_clip=2.0)
    recipe = make_recipe(replace(asked, lr_floor=0.2), size(16), 50)
    for name in ("beta1", "beta2", "eps", "weight_decay", "grad_clip"):
        assert getattr(recipe, name) == getattr(asked, name)
    assert recipe.lr_floor == 0.2


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        (DEMO, {"rule": "best"}, "recipe.rule=best is unknown; it may be fixed, demo"),
        (DEMO, {"schedule": "step"}, "recipe.schedule=step is unknown; it may be wsd, cosine"),
        (DEMO, {"lr": 1e-3}, "recipe.lr is not used by recipe.rule=demo"),
        (DEMO, {"batch_rows": 4}, "recipe.batch_rows is not used by recipe.rule=demo"),
        (FIXED, {"lr": None}, "recipe.rule=fixed needs recipe.lr"),
        (FIXED, {"batch_rows": None}, "recipe.rule=fixed needs recipe.batch_rows"),
        (FIXED, {"batch_rows": 0}, "recipe.batch_rows=0 must lie between 1 and"),
        (FIXED, {"lr": -1.0}, "recipe.lr=-1 must lie between"),
        (FIXED, {"lr": float("nan")}, "recipe.lr=nan must lie between"),
        (FIXED, {"warmup_share": 0.2}, "recipe.warmup_share=0.2 must lie between 0 and 0.1"),
        (FIXED, {"decay_share": 1.0}, "recipe.decay_share=1 must lie between 0 and 0.9"),
        (FIXED, {"beta2": 1.0}, "recipe.beta2=1 must lie"),
        (FIXED, {"grad_clip": 0.0}, "recipe.grad_clip=0 must lie"),
    ],
)
def test_settings_that_make_no_recipe_are_refused_by_name(settings, change, message):
    with pytest.raises(ValueError, match=message):
        replace(settings, **change)


def test_a_cell_outside_the_regime_of_its_rule_is_marked_with_the_way_it_leaves_it():
    regime = RULES["demo"].regime
    recipe = make_recipe(DEMO, size(32), 1000)
    N, D = 5e4, 1e6
    assert outside_regime(recipe, N, D) is None
    assert outside_regime(recipe, regime.N[1] * 2, D).startswith("N=")
    assert outside_regime(recipe, N, regime.D[1] * 2).startswith("D=")
    assert outside_regime(recipe, regime.N[1], regime.D[0]).startswith("D/N=")
    cosine = make_recipe(replace(DEMO, schedule="cosine"), size(32), 1000)
    assert outside_regime(cosine, N, D) == "schedule cosine is not wsd"
    assert "fitted nowhere" in outside_regime(make_recipe(FIXED, size(32), 9), N, D)


@pytest.mark.parametrize("name", [n for n, rule in RULES.items() if rule.regime])
def test_a_rule_states_what_it_was_fitted_on(name):
    regime = RULES[name].regime
    for low, high in (regime.N, regime.D, regime.tokens_per_param):
        assert 0 < low < high
    assert regime.source
    assert regime.optimizer
