"""What records and plans say of an architecture of transformers."""

from typing import Any

from models.hf_config import HFConfig
from models.size import Size
from sweep.hf_counts import transformers_version


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
