"""Recipes: named rules that turn (size, N, D) into the numbers that a cell is trained with.

A rule carries the regime that it was fitted on. Outside it the numbers are extrapolations, the
plan marks the cell, and the record keeps the mark: a recipe that does not transfer bends the law.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

from models.config import GPTConfig
from sweep.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Numbers that one cell is trained with."""

    rule: str
    lr: float
    lr_embedding: float
    batch_rows: int
    warmup_steps: int
    schedule: Schedule
    decay_steps: int
    lr_floor: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    grad_clip: float


@dataclass(frozen=True, kw_only=True)
class RecipeSettings:
    """What a person asked of the recipe; None where the rule decides.

    Raises:
        ValueError: a number outside its range, or one that the rule does not use.
    """

    rule: str
    lr: float | None
    lr_embedding: float | None
    batch_rows: int | None
    schedule: str
    warmup_share: float
    decay_share: float
    lr_floor: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    grad_clip: float

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"recipe.rule={self.rule} is unknown; it may be {', '.join(RULES)}")
        if self.schedule not in list(Schedule):
            raise ValueError(
                f"recipe.schedule={self.schedule} is unknown; it may be {', '.join(Schedule)}"
            )
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ValueError(f"recipe.{name}={value:g} must lie between {low:g} and {high:g}")
        RULES[self.rule].check(self)


_RANGES = (
    ("lr", 1e-9, 10.0),
    ("lr_embedding", 1e-9, 10.0),
    ("batch_rows", 1, 2**24),
    ("warmup_share", 0.0, 0.1),
    ("decay_share", 0.0, 0.9),
    ("lr_floor", 0.0, 1.0),
    ("beta1", 0.0, 0.9999),
    ("beta2", 0.0, 0.99999),
    ("eps", 1e-20, 1e-2),
    ("weight_decay", 0.0, 10.0),
    ("grad_clip", 1e-6, 1e6),
)


@dataclass(frozen=True, kw_only=True)
class Regime:
    """Where a rule was fitted: ranges of N (C/6D), D and D/N, and what it was fitted with."""

    N: tuple[float, float]
    D: tuple[float, float]
    tokens_per_param: tuple[float, float]
    schedule: Schedule
    optimizer: str
    source: str

    def outside(self, N: float, D: float, schedule: Schedule) -> str | None:
        """Say in which way a cell lies outside, or None."""
        for name, value, (low, high) in (
            ("N", N, self.N),
            ("D", D, self.D),
            ("D/N", D / N, self.tokens_per_param),
        ):
            if not low <= value <= high:
                return f"{name}={value:.3g} outside {low:.3g}..{high:.3g}"
        return None if schedule is self.schedule else f"schedule {schedule} is not {self.schedule}"


@dataclass(frozen=True)
class Choice:
    """What a rule decides for one size."""

    lr: float
    lr_embedding: float
    batch_rows: int


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A named rule, the settings that it reads, and the regime that it was fitted on."""

    choose: Callable[[RecipeSettings, GPTConfig], Choice]
    reads: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    regime: Regime | None = None

    def check(self, settings: RecipeSettings) -> None:
        """Refuse settings that are missing, or that would be silently ignored."""
        for name in ("lr", "lr_embedding", "batch_rows"):
            given = getattr(settings, name) is not None
            if given and name not in self.reads:
                raise ValueError(
                    f"recipe.{name} is not used by recipe.rule={settings.rule}, which decides it; "
                    "for a value of your own: recipe=fixed"
                )
            if name in self.needs and not given:
                raise ValueError(f"recipe.rule={settings.rule} needs recipe.{name}")


def _fixed(settings: RecipeSettings, cfg: GPTConfig) -> Choice:
    """One learning rate and one batch for all cells."""
    lr = settings.lr
    return Choice(lr, settings.lr_embedding or lr, settings.batch_rows)


def _demo(settings: RecipeSettings, cfg: GPTConfig) -> Choice:
    """Matrices at .008 x 32/d, tables and norms at .016, 8 rows a step.

    lr falls as 1/d, as muP would have it (Yang et al. 2022, arXiv:2203.03466, table 8); a batch
    that grows with d would starve the wide models of steps.
    """
    return Choice(lr=0.008 * 32 / cfg.d_model, lr_embedding=0.016, batch_rows=8)


RULES = {
    "fixed": Rule(
        choose=_fixed,
        reads=("lr", "lr_embedding", "batch_rows"),
        needs=("lr", "batch_rows"),
    ),
    "demo": Rule(
        choose=_demo,
        regime=Regime(
            N=(1e4, 6e5),
            D=(1.5e5, 9e6),
            tokens_per_param=(1, 500),
            schedule=Schedule.WSD,
            optimizer="AdamW(.9, .95), decay .1, clip 1, warm-up .1",
            source="micro ladder on English bytes, seq_len 128: LOG.md",
        ),
    ),
}


def choose_batch(settings: RecipeSettings, cfg: GPTConfig) -> int:
    """Rows of one optimizer step: known before D, which is a whole number of steps."""
    return RULES[settings.rule].choose(settings, cfg).batch_rows


def make_recipe(settings: RecipeSettings, cfg: GPTConfig, steps: int) -> Recipe:
    """Turn a rule and the constants beside it into the numbers of one cell."""
    choice = RULES[settings.rule].choose(settings, cfg)
    schedule = Schedule(settings.schedule)
    warmup = min(max(1, round(settings.warmup_share * steps)), max(1, steps // 10))
    warmup = warmup if settings.warmup_share else 0
    share = settings.decay_share if schedule is Schedule.WSD else 1.0
    decay = min(round(share * steps), steps - warmup)
    constants = {
        f.name: getattr(settings, f.name)
        for f in fields(Recipe)
        if f.name in ("rule", "lr_floor", "beta1", "beta2", "eps", "weight_decay", "grad_clip")
    }
    return Recipe(
        lr=choice.lr,
        lr_embedding=choice.lr_embedding,
        batch_rows=choice.batch_rows,
        warmup_steps=warmup,
        schedule=schedule,
        decay_steps=0 if schedule is Schedule.CONSTANT else decay,
        **constants,
    )


def outside_regime(recipe: Recipe, N: float, D: float) -> str | None:
    """Say in which way (N, D) lies outside the regime of the recipe's rule, or None.

    A rule without a regime (fixed) was fitted nowhere.
    """
    regime = RULES[recipe.rule].regime
    if regime is None:
        return "a fixed recipe was fitted nowhere"
    return regime.outside(N, D, recipe.schedule)
