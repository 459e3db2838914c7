"""Recipes: rules give numbers, refuse what they would ignore, and know where they were fitted."""

import math
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from models.config import GPTConfig
from models.flops import FlopRule, count_params
from sweep.grid import target_of
from sweep.recipe import DEFAULTS, Recipe, RecipeSettings, choose, make_recipe, outside_regime
from sweep.recipe_regime import Target
from sweep.recipe_rules import RULES
from sweep.schedule import Schedule

DEMO = RecipeSettings(
    rule="demo",
    lr=None,
    lr_embedding=None,
    batch_rows=None,
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
FIXED = replace(DEMO, rule="fixed", lr=2e-3, batch_rows=12)
SETTINGS = {
    "fixed": FIXED,
    "demo": DEMO,
    "porian": replace(DEMO, rule="porian", schedule="constant"),
    "steplaw": replace(DEMO, rule="steplaw", schedule="cosine"),
    "deepseek": replace(DEMO, rule="deepseek", schedule="cosine", lr_floor=0.1),
    "marin": replace(DEMO, rule="marin", schedule="wsd_linear"),
}


def size(d_model: int) -> GPTConfig:
    return GPTConfig(n_layer=2, d_model=d_model, n_head=1, vocab_size=128, seq_len=128)


def recipe_of(settings: RecipeSettings, cfg: GPTConfig, steps: int) -> Recipe:
    """Return the numbers of a cell of about so many steps of 1,000 tokens."""
    choice = choose(settings, Target(cfg, FlopRule.PALM, 1000.0 * steps))
    rows = choice.rows(cfg.seq_len)
    return make_recipe(settings, choice, steps=steps, batch_rows=rows, seq_len=cfg.seq_len, N=1e5)


@example(
    steps=1, warmup_share=0.05, decay_share=0.75, schedule=Schedule.WSD, rule="demo", d_model=16
)
@given(
    steps=st.integers(1, 10**7),
    warmup_share=st.one_of(st.none(), st.floats(0, 0.1)),
    decay_share=st.one_of(st.none(), st.floats(0, 0.9)),
    schedule=st.sampled_from(Schedule),
    rule=st.sampled_from(list(SETTINGS)),
    d_model=st.sampled_from([12, 16, 24, 64, 96]),
)
def test_warm_up_is_at_most_a_tenth_and_phases_fit_in_the_run(
    steps, warmup_share, decay_share, schedule, rule, d_model
):
    free = "warmup_share" not in RULES[rule].decides
    settings = replace(
        SETTINGS[rule],
        warmup_share=warmup_share if free else None,
        decay_share=decay_share if schedule.has_decay_phase else None,
        lr_floor=None,
        schedule=str(schedule),
    )
    recipe = recipe_of(settings, size(d_model), steps)
    assert 0 <= recipe.warmup_steps <= max(1, steps / 10)
    if free:
        assert (recipe.warmup_steps == 0) == (warmup_share == 0)
    assert 0 <= recipe.decay_steps <= steps
    assert recipe.warmup_steps + recipe.decay_steps <= max(steps, 1)
    assert recipe.schedule is schedule
    assert recipe.batch_rows >= 1
    assert min(recipe.lr, recipe.lr_embedding) > 0
    assert 0 <= recipe.lr_floor <= 1
    if schedule is Schedule.CONSTANT:
        assert (recipe.decay_steps, recipe.lr_floor) == (0, 1.0)


def test_fixed_gives_every_size_the_same_numbers():
    small, large = (recipe_of(FIXED, size(d), 1000) for d in (16, 96))
    assert small == large
    assert (small.lr, small.lr_embedding, small.batch_rows) == (2e-3, 2e-3, 12)
    assert (small.warmup_steps, small.decay_steps) == (50, 200)
    own = recipe_of(replace(FIXED, lr_embedding=0.5), size(16), 1000)
    assert own.lr_embedding == 0.5


def test_demo_lowers_the_rate_of_matrices_with_width_alone():
    recipes = {d: recipe_of(DEMO, size(d), 1000) for d in (16, 32, 64)}
    assert recipes[16].lr == 2 * recipes[32].lr == 4 * recipes[64].lr
    assert len({r.lr_embedding for r in recipes.values()}) == 1
    assert [r.batch_rows for r in recipes.values()] == [8, 8, 8]


# Batches (sequences of 2048) and learning rates that the authors trained with: params_bs_map and
# params_lr_map of make_paper.ipynb in formll/resolving-scaling-law-discrepancies.
PORIAN = {
    5173248: (20, 1.30e-2),
    9809920: (32, 1.05e-2),
    28672000: (64, 7.40e-3),
    57384960: (104, 5.90e-3),
    108462080: (160, 4.70e-3),
    220872704: (256, 3.80e-3),
    455311360: (448, 3.00e-3),
    901726208: (640, 2.40e-3),
}


@pytest.mark.parametrize("N", list(PORIAN))
def test_porian_gives_what_its_authors_trained_with(N):
    """The exponents are rounded to thirds, the batches to multiples of up to 64 sequences."""
    batch, lr = PORIAN[N]
    target = ShapeOf(matmul=N, tokens=20 * N)
    choice = choose(SETTINGS["porian"], target)
    assert choice.lr == pytest.approx(lr, rel=0.04)
    assert choice.batch_tokens == pytest.approx(batch * 2048, rel=0.09)
    assert choice.warmup_share == 0.05


class ShapeOf:
    """A target of a given N, for rules that ask for nothing else of the shape."""

    cfg = size(16)  # in the standard parametrisation, which is asked for beside the rule

    def __init__(self, *, tokens, flops_without_vocabulary=None, **params):
        self.tokens, self._params = tokens, params
        self.flops_without_vocabulary = flops_without_vocabulary

    def params(self, convention):
        return self._params[convention]


def test_steplaw_at_a_size_and_a_length_worked_out_by_hand():
    """N 1e9, D 1e11: lr = 1.79 x 10^(-.713 x 9 + .307 x 11), B = .58 x 10^(.571 x 11)."""
    choice = choose(SETTINGS["steplaw"], ShapeOf(non_embedding=1e9, tokens=1e11))
    assert choice.lr == pytest.approx(1.79 * 10 ** (-6.417 + 3.377), rel=1e-8)
    assert choice.batch_tokens == pytest.approx(0.58 * 10**6.281, rel=1e-8)
    assert choice.lr * choice.lr_floor == pytest.approx(1e-5, rel=1e-8)


def test_deepseek_at_1e18():
    choice = choose(SETTINGS["deepseek"], ShapeOf(tokens=1.0, flops_without_vocabulary=1e18))
    assert choice.lr == pytest.approx(0.3118 * 10**-2.25, rel=1e-8)
    assert choice.batch_tokens == pytest.approx(0.2920 * 10 ** (0.3271 * 18), rel=1e-8)


def test_compute_of_deepseek_leaves_the_vocabulary_out():
    cfg, tokens = size(64), 1e6
    per_token = 72 * cfg.n_layer * 64**2 + 12 * cfg.n_layer * 64 * cfg.seq_len
    for rule in FlopRule:
        assert Target(cfg, rule, tokens).flops_without_vocabulary == per_token * tokens


def test_marin_at_its_reference_point_and_at_four_times_the_tokens():
    settings = SETTINGS["marin"]
    at = choose(settings, ShapeOf(tokens=2.5e9))  # 2.5e9 / (2^16 x 4096) = 9.3, so 16 sequences
    assert at.batch_tokens == 16 * 4096
    assert at.lr == pytest.approx(0.0063 / 2)
    assert at.lr_embedding == pytest.approx(6.56e-4 / 2)
    assert at.eps == pytest.approx(1.85e-8 * 2)
    assert at.beta2 == 0.9999  # .9999^(1/4), bounded
    longer = choose(settings, ShapeOf(tokens=1e10))
    assert longer.batch_tokens == 64 * 4096
    assert longer.lr == pytest.approx(0.0063 * 0.25**0.3)
    assert longer.beta2 == pytest.approx(0.9999)
    huge = choose(settings, ShapeOf(tokens=2e12))
    assert huge.batch_tokens <= 8192 * 4096
    assert huge.lr < 0.01
    assert 0.9 < huge.beta2 < 0.9999


@pytest.mark.parametrize("rule", [r for r in RULES if r not in ("fixed", "demo")])
def test_published_rules_give_whole_sequences_and_keep_what_was_asked(rule):
    cfg = GPTConfig(n_layer=8, d_model=512, n_head=8, vocab_size=256, seq_len=1000)
    choice = choose(SETTINGS[rule], target_of(1e18, FlopRule.PALM, cfg))
    recipe = make_recipe(
        SETTINGS[rule], choice, steps=500, batch_rows=choice.rows(1000), seq_len=1000, N=1e8
    )
    assert abs(recipe.batch_rows * 1000 - choice.batch_tokens) <= 500
    assert recipe.batch_tokens_asked == choice.batch_tokens
    assert (recipe.lr, recipe.lr_embedding) == (choice.lr, choice.lr_embedding)
    for name in ("lr_floor", "beta2", "eps"):
        by_rule = getattr(choice, name)
        assert (by_rule is not None) == (name in RULES[rule].decides)
        if by_rule is not None:
            assert getattr(recipe, name) == by_rule


@pytest.mark.parametrize("rule", list(RULES))
def test_numbers_of_a_rule_end_after_nine_digits(rule):
    """The last bit of a power differs between machines, and would give a cell another id."""
    if rule in ("fixed", "demo"):
        pytest.skip("products and quotients alone, which every machine rounds alike")
    choice = choose(SETTINGS[rule], target_of(1e18, FlopRule.PALM, size(96)))
    for name in ("lr", "lr_embedding", "batch_tokens", "lr_floor", "beta2", "eps"):
        value = getattr(choice, name)
        assert value is None or value == float(f"{value:.9g}")


def test_constants_reach_the_cell_as_they_were_asked():
    asked = replace(FIXED, beta1=0.8, beta2=0.9, eps=1e-7, weight_decay=0.3, grad_clip=2.0)
    recipe = recipe_of(replace(asked, lr_floor=0.2), size(16), 50)
    for name in ("beta1", "beta2", "eps", "weight_decay", "grad_clip"):
        assert getattr(recipe, name) == getattr(asked, name)
    assert recipe.lr_floor == 0.2
    plain = recipe_of(FIXED, size(16), 50)
    for name in ("beta2", "eps", "lr_floor"):
        assert getattr(plain, name) == DEFAULTS[name]


def test_weight_decay_by_timescale_averages_over_a_share_of_the_run_that_falls_with_D():
    """By hand: 1 / (lr lambda) steps are tau of the run; tau is the timescale at D/N = 20."""
    by_rule = replace(FIXED, weight_decay=None, timescale=0.25)
    N = count_params(size(64)).total
    taus = {}
    for ratio in (20, 320):
        target = Target(size(64), FlopRule.PALM, float(ratio * N))
        choice = choose(by_rule, target)
        steps = target.tokens / choice.batch_tokens
        taus[ratio] = 1 / (choice.lr * choice.weight_decay) / steps
        assert choice.weight_decay == float(f"{choice.weight_decay:.9g}")
    assert taus[20] == pytest.approx(0.25)
    assert taus[320] == pytest.approx(0.25 * 16**-0.527)
    assert recipe_of(by_rule, size(64), 50).weight_decay != DEFAULTS["weight_decay"]
    plain = replace(FIXED, weight_decay=None)
    assert recipe_of(plain, size(64), 50) == recipe_of(FIXED, size(64), 50)


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        (
            FIXED,
            {"timescale": 0.2},
            "recipe.timescale decides the weight decay: leave recipe.weight",
        ),
        (FIXED, {"timescale": 0.0, "weight_decay": None}, "recipe.timescale=0 must lie between"),
        (DEMO, {"rule": "best"}, "recipe.rule=best is unknown; it may be fixed, demo, porian"),
        (DEMO, {"schedule": "step"}, "recipe.schedule=step is unknown; it may be wsd, wsd_linear"),
        (DEMO, {"lr": 1e-3}, "recipe.lr is not used by recipe.rule=demo"),
        (DEMO, {"batch_rows": 4}, "recipe.batch_rows is not used by recipe.rule=demo"),
        (FIXED, {"rule": "porian"}, "recipe.lr is not used by recipe.rule=porian"),
        (SETTINGS["steplaw"], {"lr_floor": 0.1}, "recipe.lr_floor is not used by .*=steplaw"),
        (SETTINGS["marin"], {"beta2": 0.95}, "recipe.beta2 is not used by recipe.rule=marin"),
        (SETTINGS["marin"], {"eps": 1e-8}, "recipe.eps is not used by recipe.rule=marin"),
        (SETTINGS["porian"], {"warmup_share": 0.1}, "recipe.warmup_share is not used by .*porian"),
        (SETTINGS["deepseek"], {"decay_share": 0.2}, "decay_share is not used by .*=cosine"),
        (SETTINGS["porian"], {"lr_floor": 0.1}, "lr_floor is not used by .*=constant: .*=null"),
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


def test_a_cell_outside_the_regime_of_its_rule_is_marked_with_every_way_it_leaves_it():
    cfg = size(32)
    recipe = recipe_of(DEMO, cfg, 1000)
    N = Target(cfg, FlopRule.PALM, 1.0).params("flops")

    def mark(tokens_per_param: float, recipe: Recipe = recipe) -> str | None:
        return outside_regime(recipe, Target(cfg, FlopRule.PALM, tokens_per_param * N))

    assert mark(20) is None
    assert mark(0.5).startswith("D=")
    assert mark(0.5).endswith("D/N=0.5 outside 1..500")
    cosine = recipe_of(replace(DEMO, schedule="cosine"), cfg, 1000)
    assert mark(20, cosine) == "schedule cosine is not wsd"
    assert mark(600, cosine).count(";") == 2
    assert "fitted nowhere" in mark(20, recipe_of(FIXED, cfg, 9))


def test_each_rule_counts_N_as_its_source_does():
    cfg = GPTConfig(n_layer=16, d_model=1024, n_head=16, vocab_size=32000, seq_len=2048)
    target = Target(cfg, FlopRule.PALM, 4e9)
    N = count_params(cfg)
    assert target.params("matmul") == N.matmul
    assert target.params("non_embedding") == N.non_embedding
    assert target.params("total") == N.total
    steplaw = recipe_of(SETTINGS["steplaw"], cfg, 10)
    assert N.non_embedding < 2.146e8 < N.matmul
    assert outside_regime(steplaw, target).startswith(f"N={N.non_embedding:.3g} outside")
    marin = recipe_of(SETTINGS["marin"], cfg, 10)
    assert outside_regime(marin, target) == "optimizer AdamW is not AdamH"
    deepseek = recipe_of(SETTINGS["deepseek"], cfg, 10)
    assert outside_regime(deepseek, target) == "schedule cosine is not multi_step"


@pytest.mark.parametrize("name", [n for n, rule in RULES.items() if rule.regime])
def test_a_rule_states_what_it_was_fitted_on(name):
    regime = RULES[name].regime
    ranges = [r for r in (regime.N, regime.D, regime.tokens_per_param, regime.C) if r is not None]
    assert ranges
    for low, high in ranges:
        assert 0 < low < high
    for text in (regime.schedule, regime.final_lr, regime.optimizer, regime.trained_with):
        assert text
        assert text in regime.in_words()
    assert regime.source
    assert math.isfinite(Target(size(32), FlopRule.PALM, 1e6).params(regime.N_convention))
