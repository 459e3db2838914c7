"""Recipes: a named rule and constants, turned into the numbers that a cell is trained with.

A rule carries the regime that it was fitted on (sweep/recipe_rules.py). Outside it the numbers are
extrapolations, the plan marks the cell, and the record keeps the mark: a recipe that does not
transfer bends the law.
"""

from dataclasses import dataclass, replace
from typing import Any

from models.config import Parametrisation
from models.parametrisation import base_shape
from sweep.recipe_regime import Optimizer, Target
from sweep.recipe_rules import RULES, Choice, nine_digits
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
    batch_tokens_asked: float | None = None  # by the rule, where whole sequences are not that
    timescale: float | None = None  # that gave the weight decay; None: it was asked for
    period_steps: int | None = None  # wsd_stepped: after so many, and each doubling, the peak falls
    optimizer: Optimizer = Optimizer.ADAMW
    momentum: float | None = None  # Muon's
    adjust_lr_fn: str | None = None  # Muon's, of the shape of a matrix


@dataclass(frozen=True, kw_only=True)
class RecipeSettings:
    """What a person asked of the recipe; None where the rule or DEFAULTS decide.

    Raises:
        ValueError: a number outside its range, or one that the rule or schedule does not use.
    """

    rule: str
    lr: float | None
    lr_embedding: float | None
    batch_rows: int | None
    schedule: str
    warmup_share: float | None
    decay_share: float | None
    lr_floor: float | None
    beta1: float
    beta2: float | None
    eps: float | None
    weight_decay: float | None
    grad_clip: float
    timescale: float | None = None
    optimizer: str = "adamw"
    momentum: float | None = None
    adjust_lr_fn: str | None = None

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
        if self.timescale is not None and self.weight_decay is not None:
            raise ValueError(
                "recipe.timescale decides the weight decay: leave recipe.weight_decay out "
                "(recipe.weight_decay=null where a recipe file sets it)"
            )
        self._check_optimizer()
        RULES[self.rule].check(self)
        self._refuse_unused_by_schedule()

    def _check_optimizer(self) -> None:
        if self.optimizer not in list(Optimizer):
            raise ValueError(
                f"recipe.optimizer={self.optimizer} is unknown; it may be {', '.join(Optimizer)}"
            )
        if self.adjust_lr_fn not in (None, *ADJUST_LR):
            raise ValueError(
                f"recipe.adjust_lr_fn={self.adjust_lr_fn} is unknown; it may be {', '.join(ADJUST_LR)}"
            )
        for name in ("momentum", "adjust_lr_fn"):
            if self.optimizer != Optimizer.MUON and getattr(self, name) is not None:
                raise ValueError(f"recipe.{name} is Muon's: recipe.optimizer=muon, or leave it out")

    def _refuse_unused_by_schedule(self) -> None:
        schedule = Schedule(self.schedule)
        unused = {
            "decay_share": not schedule.has_decay_phase,
            "lr_floor": schedule is Schedule.CONSTANT,
        }
        for name, is_unused in unused.items():
            if is_unused and getattr(self, name) is not None:
                raise ValueError(
                    f"recipe.{name} is not used by recipe.schedule={schedule}: leave it out "
                    f"(recipe.{name}=null where a recipe file sets it)"
                )


# Torch's: match_rms_adamw scales an update of A x B by .2 sqrt(max(A, B)), so that AdamW's lr and decay
# serve (Liu et al. 2025, arXiv:2502.16982, eq. 4); original by sqrt(max(1, A / B)).
ADJUST_LR = ("match_rms_adamw", "original")
MOMENTUM = 0.95
STEPPED_TOKENS_PER_PARAM = 20  # D/N up to which wsd_stepped keeps its peak
DEFAULTS = {
    "warmup_share": 0.05,
    "decay_share": 0.2,
    "lr_floor": 0.0,
    "beta2": 0.95,
    "eps": 1e-8,
    "weight_decay": 0.1,
}

_RANGES = (
    ("lr", 1e-9, 10.0),
    ("lr_embedding", 1e-9, 10.0),
    ("batch_rows", 1, 2**24),
    ("warmup_share", 0.0, 0.1),
    ("decay_share", 0.0, 0.9),
    ("lr_floor", 0.0, 1.0),
    ("beta1", 0.0, 0.9999),
    ("momentum", 0.0, 0.9999),
    ("beta2", 0.0, 0.99999),
    ("eps", 1e-20, 1e-2),
    ("weight_decay", 0.0, 10.0),
    ("grad_clip", 1e-6, 1e6),
    ("timescale", 1e-4, 100.0),
)


def choose(settings: RecipeSettings, target: Target) -> Choice:
    """Return what the rule gives: known before D is rounded to whole steps of its batch.

    Under muP the learning rates, and a floor that goes with them, are those that the rule gives the
    base shape at this D; models/parametrisation.py has the factors of each parameter on them.

    Raises:
        ValueError: the base width has no heads like those of the size.
    """
    choice = RULES[settings.rule].choose(settings, target)
    if target.cfg.parametrisation is not Parametrisation.STANDARD:
        base = RULES[settings.rule].choose(settings, replace(target, cfg=base_shape(target.cfg)))
        choice = replace(choice, lr=base.lr, lr_embedding=base.lr_embedding, lr_floor=base.lr_floor)
    if settings.timescale is None:
        return choice
    return replace(choice, weight_decay=_decay_by_timescale(settings.timescale, choice, target))


def _decay_by_timescale(timescale: float, choice: Choice, target: Target) -> float:
    """Give lambda = B / (lr D tau), tau = timescale x (D/N / 20)^-.527.

    AdamW averages its updates over 1 / (lr lambda) steps, tau of the run; the best tau is a power
    law in D/N (Bergsma et al. 2025, arXiv:2505.13738; the exponent is theirs, in muP and on their
    text). N counts all parameters, which is ours.
    """
    tau = timescale * (target.tokens / target.params("total") / 20) ** -0.527
    return nine_digits(choice.batch_tokens / (choice.lr * target.tokens * tau))


def make_recipe(
    settings: RecipeSettings,
    choice: Choice,
    *,
    steps: int,
    batch_rows: int,
    seq_len: int,
    N: float,
    on_trunk: bool = False,
) -> Recipe:
    """Turn a rule's choice and the constants beside it into the numbers of one cell.

    Args:
        settings: what a person asked.
        choice: what the rule gives.
        steps: optimizer steps of the cell.
        batch_rows: sequences of one step.
        seq_len: tokens of one sequence.
        N: parameters, C / (6 D).
        on_trunk: whether the cell branches off a trunk: it then warms up as a run of D = N does,
            whatever its own D.
    """
    schedule = Schedule(settings.schedule)
    warms = max(1, round(N / (batch_rows * seq_len))) if on_trunk else steps
    share = _number("warmup_share", settings, choice)
    warmup = min(max(1, round(share * warms)), max(1, warms // 10)) if share else 0
    decay = steps - warmup
    if schedule.has_decay_phase:
        decay = min(round(_number("decay_share", settings, choice) * steps), steps - warmup)
    constant = schedule is Schedule.CONSTANT
    return Recipe(
        rule=settings.rule,
        lr=choice.lr,
        lr_embedding=choice.lr_embedding,
        batch_rows=batch_rows,
        warmup_steps=warmup,
        schedule=schedule,
        decay_steps=0 if constant else decay,
        lr_floor=1.0 if constant else _number("lr_floor", settings, choice),
        beta1=settings.beta1,
        beta2=_number("beta2", settings, choice),
        eps=_number("eps", settings, choice),
        weight_decay=_number("weight_decay", settings, choice),
        grad_clip=settings.grad_clip,
        batch_tokens_asked=choice.batch_tokens
        if choice.batch_tokens != batch_rows * seq_len
        else None,
        timescale=settings.timescale,
        period_steps=max(1, round(STEPPED_TOKENS_PER_PARAM * N / (batch_rows * seq_len)))
        if schedule is Schedule.WSD_STEPPED
        else None,
        **_of_muon(settings),
    )


def _of_muon(settings: RecipeSettings) -> dict[str, Any]:
    if settings.optimizer != Optimizer.MUON:
        return {}
    return {
        "optimizer": Optimizer.MUON,
        "momentum": MOMENTUM if settings.momentum is None else settings.momentum,
        "adjust_lr_fn": settings.adjust_lr_fn or ADJUST_LR[0],
    }


def outside_regime(recipe: Recipe, target: Target) -> str | None:
    """Say in which ways a cell lies outside the regime of the recipe's rule, or None.

    A rule without a regime (fixed) was fitted nowhere.
    """
    regime = RULES[recipe.rule].regime
    if regime is None:
        return "a fixed recipe was fitted nowhere"
    return regime.outside(target, recipe.schedule, recipe.optimizer)


def _number(name: str, settings: RecipeSettings, choice: Choice) -> float:
    """Return what the rule decides, else what a person asked, else the default."""
    for value in (getattr(choice, name, None), getattr(settings, name)):
        if value is not None:
            return value
    return DEFAULTS[name]
