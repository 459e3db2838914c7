"""A cell as a flat row, and back: the same columns in plan.parquet, config.yaml and records."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from models.config import MLP, GPTConfig, Init, Norm, Parametrisation, Positions
from models.flops import FlopRule
from models.hf_config import HFConfig
from results.record import Probe
from sweep.cell import Cell, DataRef, flops_of, params_of
from sweep.hf_columns import architecture_columns, hf_from_row, hf_to_row
from sweep.recipe import Recipe
from sweep.recipe_regime import Optimizer
from sweep.schedule import Schedule

_SIZES = ("n_layer", "d_model", "n_head", "vocab_size", "seq_len")
_NAMED = {
    "positions": Positions,
    "norm": Norm,
    "mlp": MLP,
    "init": Init,
    "parametrisation": Parametrisation,
}
_WHERE_IT_APPLIES = {  # elsewhere None
    "n_kv_head": int, "base_d_model": int, "base_n_layer": int, "n_expert": int, "top_k": int,
    "n_shared_expert": int, "granularity": int, "balance_loss": float, "router_z_loss": float,
}  # fmt: skip
_CHOICES = _NAMED | {"tied": bool, "qk_norm": bool, "z_loss": float, "init_scale": float}


def cell_to_row(cell: Cell) -> dict[str, Any]:
    """Columns of the record that say what was asked, and the cell's id."""
    recipe = dataclasses.asdict(cell.recipe)
    recipe["recipe"] = recipe.pop("rule")
    del recipe["batch_rows"]
    if cell.recipe.batch_tokens_asked is None:  # the rule's tokens are whole sequences
        recipe["batch_tokens_asked"] = float(cell.batch_tokens)
    for name in ("timescale", "momentum"):
        if recipe[name] is None:
            recipe[name] = math.nan
    cfg = cell.model
    return {
        "cell_id": cell.id,
        "budget": cell.budget,
        "flop_rule": str(cell.flop_rule),
        "flops": cell.flops,
        **flops_of(cell),
        "size_id": cfg.size_id,
        **params_of(cell),
        "tokens": cell.tokens,
        **(hf_to_row(cfg) if isinstance(cfg, HFConfig) else _model_to_row(cfg)),
        **architecture_columns(cfg),
        "batch_tokens": cell.batch_tokens,
        "steps": cell.steps,
        **recipe,
        "schedule": str(cell.recipe.schedule),
        "optimizer": str(cell.recipe.optimizer),
        "optimizer_flops": cell.optimizer_flops,
        "lr_blocks": cell.lr_blocks,
        "recipe_outside_regime": cell.outside_regime,
        "seed": cell.seed,
        "probe": None if cell.probe is None else str(cell.probe),
        "probe_of": cell.probe_of,
        "trunk": cell.trunk,
        "data": cell.data.name,
        "data_revision": cell.data.revision,
        "tokenizer": cell.data.tokenizer,
        "data_mix": cell.data.mix,
        "document_mask": cell.data.document_mask,
    }


def cell_from_row(row: Mapping[str, Any]) -> Cell:
    """Rebuild the cell that `cell_to_row` flattened.

    Raises:
        ValueError: a column is missing, or the columns do not hash to the row's cell_id.
    """
    try:
        cell = _rebuild(row)
    except KeyError as e:
        raise ValueError(f"no column {e.args[0]} in the row of a cell") from None
    if cell.id != row["cell_id"]:
        raise ValueError(f"the columns of {row['cell_id']} describe another cell, {cell.id}")
    return cell


def _rebuild(row: Mapping[str, Any]) -> Cell:
    model = hf_from_row(row) or _model_from_row(row)
    recipe = Recipe(
        rule=str(row["recipe"]),
        schedule=Schedule(row["schedule"]),
        batch_rows=int(row["batch_tokens"]) // model.seq_len,
        warmup_steps=int(row["warmup_steps"]),
        decay_steps=int(row["decay_steps"]),
        **{
            k: float(row[k])
            for k in ("lr", "lr_embedding", "lr_floor", "beta1", "beta2", "eps", "weight_decay")
        },
        grad_clip=float(row["grad_clip"]),
        batch_tokens_asked=_batch_tokens_asked(row),
        timescale=_number_or_none(row.get("timescale")),
        period_steps=None if (period := _number_or_none(row.get("period_steps"))) is None
        else int(period),
        optimizer=Optimizer(name if isinstance(name := row.get("optimizer"), str) else "adamw"),
        momentum=_number_or_none(row.get("momentum")),
        adjust_lr_fn=adjust if isinstance(adjust := row.get("adjust_lr_fn"), str) else None,
    )  # fmt: skip
    probe = row.get("probe")  # absent from rows of an earlier day; NaN where pandas read null
    is_probe = isinstance(probe, str)
    return Cell(
        budget=float(row["budget"]),
        flop_rule=FlopRule(row["flop_rule"]),
        model=model,
        recipe=recipe,
        steps=int(row["steps"]),
        seed=int(row["seed"]),
        probe=Probe(probe) if is_probe else None,
        probe_of=str(row["probe_of"]) if is_probe else None,
        on_trunk=isinstance(row.get("trunk"), str),
        data=DataRef(
            name=str(row["data"]),
            revision=str(row["data_revision"]),
            tokenizer=str(row["tokenizer"]),
            mix=row["data_mix"] if isinstance(row.get("data_mix"), str) else None,
            document_mask=row.get("document_mask") in (True,),  # None or NaN in older rows
        ),
    )


def _model_to_row(cfg: GPTConfig) -> dict[str, Any]:
    row = dataclasses.asdict(cfg) | {"head_dim": cfg.head_dim, "active_share": cfg.active_share}
    unset = {
        k: math.nan for k, kind in _WHERE_IT_APPLIES.items() if kind is float and row[k] is None
    }
    return row | unset | {name: str(row[name]) for name in _NAMED}


def _model_from_row(row: Mapping[str, Any]) -> GPTConfig:
    given: dict[str, Any] = {k: int(row[k]) for k in _SIZES}
    given |= {k: kind(row[k]) for k, kind in _CHOICES.items() if k in row}  # some came later
    for name, kind in _WHERE_IT_APPLIES.items():
        value = _number_or_none(row.get(name))
        given[name] = None if value is None else kind(value)
    return GPTConfig(**given)


def _batch_tokens_asked(row: Mapping[str, Any]) -> float | None:
    asked = float(row.get("batch_tokens_asked", math.nan))
    return None if math.isnan(asked) or asked == row["batch_tokens"] else asked


def _number_or_none(value: Any) -> float | None:
    """Read a column that came later: absent from older rows, NaN where it does not apply."""
    number = math.nan if value is None else float(value)  # YAML reads nan as a text
    return None if math.isnan(number) else number
