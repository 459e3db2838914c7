"""What the recipe gives cells that share a trunk: the same at every budget, or no trunk."""

from sweep.recipe import RecipeSettings, choose
from sweep.recipe_regime import Target
from sweep.recipe_rules import Choice
from sweep.schedule import Schedule

_SHARED = ("lr", "lr_embedding", "batch_tokens", "lr_floor", "beta2", "eps", "weight_decay")


def cell_choice(settings: RecipeSettings, target: Target, on_trunk: bool) -> Choice:
    """Return what the rule gives a cell.

    A cell on a trunk has what its trunk has: what the rule gives a run of D = N.

    Raises:
        ValueError: the schedule decays from the start, or the rule gives this D other numbers than
            D = N, so that no trunk could serve both.
    """
    own = choose(settings, target)
    if not on_trunk:
        return own
    schedule = Schedule(settings.schedule)
    if not schedule.has_decay_phase:
        *some, last = (s for s in Schedule if s.has_decay_phase)
        raise ValueError(
            f"grid.trunks=true needs a learning rate that decays only at the end, and "
            f"recipe.schedule={schedule} is not that: it may be {', '.join(some)} or {last}; or "
            "grid.trunks=false"
        )
    N = target.params("flops")
    trunk = choose(settings, Target(target.cfg, target.flop_rule, N))
    for name in _SHARED:
        mine, shared = getattr(own, name), getattr(trunk, name)
        if mine != shared:
            raise ValueError(_differs(settings, target, name, mine, shared))
    return trunk


def _differs(
    settings: RecipeSettings, target: Target, name: str, mine: float | None, shared: float | None
) -> str:
    by_timescale = name == "weight_decay" and settings.timescale is not None
    what = "recipe.timescale" if by_timescale else f"recipe.rule={settings.rule}"
    instead = (
        f"recipe.timescale=null recipe.weight_decay={mine:.2g}"
        if by_timescale
        else "recipe=fixed recipe.schedule=wsd with recipe.lr and recipe.batch_rows of your own "
        "(demo and porian follow N alone too)"
    )
    return (
        f"grid.trunks=true has one trunk for all budgets of a size, but {what} gives "
        f"{target.cfg.size_id} {name}={mine:.4g} at D={target.tokens:.3g} and {shared:.4g} at "
        f"D={target.params('flops'):.3g}: {instead}, or grid.trunks=false"
    )
