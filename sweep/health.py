"""Signs that a loss is not what a law takes it for: each a column, and words where one is off."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sweep.cell import Cell
from sweep.schedule import Schedule

_LARGE_GAP = 0.1  # share of the loss: seed noise of small models is a tenth of that


def health_columns(
    cell: Cell, train_loss: float, val_loss: float, finished: bool
) -> dict[str, Any]:
    """Columns of the record about the health of a run.

    Args:
        cell: what was trained.
        train_loss: mean of the last tenth of the steps, nats per token.
        val_loss: nats per token; NaN where the run did not finish.
        finished: whether the last step was taken.
    """
    recipe = cell.recipe
    decays = recipe.schedule is not Schedule.CONSTANT and recipe.decay_steps > 0
    return {
        "train_val_gap": val_loss - train_loss,
        "warmup_share": recipe.warmup_steps / cell.steps,
        "cooldown_done": finished and decays,
    }


def load_columns(loads: Sequence[Sequence[int]]) -> dict[str, float]:
    """Columns about how a router spread validation tokens; none where there are no experts.

    Entropy: -sum_e f_e log f_e / log E of each layer, f the shares of what its experts were sent;
    1 is even, 0 all to one. A single expert is even.

    Args:
        loads: tokens sent to each expert, a list a layer.
    """
    if not loads:
        return {}
    shares = [[n / sum(load) for n in load] for load in loads]
    entropies = [
        -math.fsum(f * math.log(f) for f in s if f) / math.log(len(s)) if len(s) > 1 else 1.0
        for s in shares
    ]
    every = [f for s in shares for f in s]
    return {
        "expert_load_max": max(every),
        "expert_load_entropy": math.fsum(entropies) / len(entropies),
        "expert_dead": every.count(0) / len(every),
    }


def complaints(row: Mapping[str, Any]) -> list[str]:
    """Say what a person should know before trusting a finished cell's loss.

    Args:
        row: a record; columns that an older one lacks are NaN or None and complain of nothing.
    """
    gap, loss, noise = row["train_val_gap"], row["val_loss"], row["b_noise"]
    found = []
    if gap > _LARGE_GAP * loss:
        found.append(f"validation loss is {gap:.3g} above training loss: it memorises")
    if row["epochs"] > 1:
        found.append(f"{row['epochs']:.2f} epochs: repeated tokens teach less than fresh ones")
    if row["spikes"] == row["spikes"] and row["spikes"]:
        found.append(f"the loss spiked {int(row['spikes'])} times")
    if row["cooldown_done"] is False:
        found.append("the learning rate was not decayed, so the loss is above what D allows")
    if math.isfinite(noise) and row["batch_tokens"] > noise:
        found.append(
            f"the batch of {row['batch_tokens']:,} tokens is above b_noise={noise:,.0f}: fewer, "
            "larger steps than the tokens are worth"
        )
    if row["expert_dead"] > 0:
        found.append(
            f"{row['expert_dead']:.1%} of the experts got no validation token, and one got "
            f"{row['expert_load_max']:.0%} of a layer's: model.balance_loss spreads them"
        )
    if isinstance(row["suspect"], str):
        found.append(f"{row['suspect']}: above 1, so a clock or a peak is wrong")
    return found
