"""What rows of cells and records say of an architecture of transformers."""

import math
from collections.abc import Mapping
from typing import Any

from models.hf_config import Counts, HFConfig
from models.size import Size
from sweep.hf_counts import transformers_version


def hf_to_row(cfg: HFConfig) -> dict[str, Any]:
    """Return the columns of the shape; unknown where only our GPT chooses."""
    ours = ("positions", "n_kv_head", "norm", "mlp", "qk_norm", "init")
    return {
        **{name: getattr(cfg, name) for name in ("n_layer", "d_model", "vocab_size", "seq_len")},
        "n_head": cfg.counts.n_head,
        "head_dim": cfg.head_dim,
        "tied": cfg.counts.tied,
        **dict.fromkeys(ours),
        "z_loss": 0.0,
        "init_scale": math.nan,
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
    return cfg.counts.source if isinstance(cfg, HFConfig) else "formula"


def ran_by_hf(cfg: Size) -> dict[str, Any]:
    """Columns of the record about kernels that are transformers' own; none of our GPT."""
    if not isinstance(cfg, HFConfig):
        return {}
    return {
        "attention": "transformers",
        "attention_version": f"transformers {transformers_version()}",
        "cross_entropy": "plain",
    }
