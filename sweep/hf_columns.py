"""What rows of cells and records say of an architecture of transformers."""

import math
from collections.abc import Mapping
from typing import Any

from models.hf_config import Counts, HFConfig
from models.size import Size
from sweep.hf_counts import transformers_version


def hf_to_row(cfg: HFConfig) -> dict[str, Any]:
    """Return the columns of the shape; unknown where only our GPT chooses."""
    ours = ("positions", "n_kv_head", "norm", "mlp", "qk_norm", "init", "n_expert", "top_k",
            "n_shared_expert", "granularity", "base_d_model", "base_n_layer")  # fmt: skip
    numbers = ("init_scale", "active_share", "balance_loss", "router_z_loss")
    return {
        **{name: getattr(cfg, name) for name in ("n_layer", "d_model", "vocab_size", "seq_len")},
        "n_head": cfg.counts.n_head,
        "head_dim": cfg.head_dim,
        "tied": cfg.counts.tied,
        "parametrisation": str(cfg.parametrisation),
        **dict.fromkeys(ours),
        "z_loss": 0.0,
        **dict.fromkeys(numbers, math.nan),
    }


def architecture_columns(cfg: Size) -> dict[str, str | None]:
    """Return the columns that rebuild an architecture of transformers; None of our GPT."""
    hf = isinstance(cfg, HFConfig)
    return {
        "architecture": cfg.architecture if hf else None,
        "architecture_config": cfg.config if hf else None,
        "architecture_counts": cfg.counts.to_json() if hf else None,
    }


def hf_from_row(row: Mapping[str, Any]) -> HFConfig | None:
    """Rebuild what the two above flattened; None where the row is of our GPT."""
    if not isinstance(row.get("architecture"), str):  # absent, or NaN where pandas reads null
        return None
    return HFConfig(
        architecture=row["architecture"],
        config=row["architecture_config"],
        vocab_size=int(row["vocab_size"]),
        seq_len=int(row["seq_len"]),
        counts=Counts.from_json(row["architecture_counts"]),
    )


def flop_source(cfg: Size) -> str:
    """Say who counted the FLOPs, and what was not counted exactly."""
    if isinstance(cfg, HFConfig):
        return cfg.counts.source
    return "formula" if cfg.n_expert is None else "formula, of active experts"


def ran_by_hf(cfg: Size) -> dict[str, Any]:
    """Columns of the record about kernels that are transformers' own; none of our GPT."""
    if not isinstance(cfg, HFConfig):
        return {}
    return {
        "attention": "transformers",
        "attention_version": f"transformers {transformers_version()}",
        "cross_entropy": "plain",
    }
