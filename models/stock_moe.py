"""Our mixture of experts as a stock architecture: which one, its config, and its weights by their names.

A stock mixture has SwiGLU experts, rotary positions and RMSNorms. Imports no transformers.
"""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from models.config import MLP, GPTConfig, Positions

_PIECE = 4  # float32 numbers in 16 bytes, which torch's grouped_mm wants rows to be made of


def why_no_experts(cfg: GPTConfig) -> str | None:
    """Say which options of a mixture are in the way of an export, and what would do; None: nothing.

    Weights of a token's experts are the softmax over the chosen ones in all of them, as in training
    with two or more; what a single one weighs only Qwen3-MoE knows, and a shared expert only Granite.
    """
    if cfg.mlp is not MLP.SWIGLU or cfg.positions is not Positions.ROTARY:
        named = {
            "mlp": cfg.mlp is not MLP.SWIGLU,
            "positions": cfg.positions is not Positions.ROTARY,
        }
        wrong = ", ".join(f"model.{k}={getattr(cfg, k)}" for k, bad in named.items() if bad)
        return (
            f"{wrong} has no stock architecture beside model.n_expert={cfg.n_expert}: mixtures of "
            "experts export with model.mlp=swiglu and model.positions=rotary"
        )
    if cfg.qk_norm and cfg.n_shared_expert:
        return (
            f"model.n_shared_expert={cfg.n_shared_expert} has no stock architecture beside "
            "model.qk_norm=true: model.n_shared_expert=0 or model.qk_norm=false would export"
        )
    if not cfg.qk_norm and cfg.top_k == 1:
        return (
            "model.top_k=1 has no stock architecture: model.top_k=2 or more would export, or "
            "model.qk_norm=true"
        )
    odd = {"width of an expert": cfg.expert_width, "model.d_model": cfg.d_model}
    if wrong := [f"a {name} of {n}" for name, n in odd.items() if n % _PIECE]:
        return (
            f"{wrong[0]} is no multiple of {_PIECE}, and transformers multiplies experts in rows of "
            "whole pieces of 16 bytes: another width or model.granularity would export"
        )
    return None


def config_of_experts(cfg: GPTConfig, model_type: str) -> dict[str, Any]:
    """Values of config.json about experts; a mixture's own `intermediate_size` is of one of them."""
    width = cfg.expert_width
    if model_type == "qwen3_moe":
        return {
            "num_experts": cfg.n_expert,
            "num_experts_per_tok": cfg.top_k,
            "moe_intermediate_size": width,
            "norm_topk_prob": cfg.top_k > 1,  # one weighs its share of all, as in training
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        }
    values = {
        "num_local_experts": cfg.n_expert,
        "num_experts_per_tok": cfg.top_k,
        "intermediate_size": width,
    }
    if model_type == "mixtral":
        return values
    return values | {
        "shared_intermediate_size": cfg.n_shared_expert * width,
        "attention_multiplier": 1 / math.sqrt(cfg.head_dim),
        "embedding_multiplier": 1.0,
        "residual_multiplier": 1.0,
        "logits_scaling": 1.0,
    }


def name_experts(ours: dict[str, Tensor], a: str, b: str, model_type: str) -> Mapping[str, Tensor]:
    """Take a block's experts out of `ours` and name them as an architecture does.

    Args:
        ours: weights by our names. a: the block's prefix there. b: its prefix in the architecture.
        model_type: mixtral, qwen3_moe or granitemoeshared.
    """
    router, up, down = (ours.pop(f"{a}.moe.{n}.weight") for n in ("router", "up", "down"))
    if model_type == "granitemoeshared":
        return {
            f"{b}.block_sparse_moe.router.layer.weight": router,
            f"{b}.block_sparse_moe.input_linear.weight": up,
            f"{b}.block_sparse_moe.output_linear.weight": down,
            f"{b}.shared_mlp.input_linear.weight": ours.pop(f"{a}.moe.shared_up.weight"),
            f"{b}.shared_mlp.output_linear.weight": ours.pop(f"{a}.moe.shared_down.weight"),
        }
    mixtral = model_type == "mixtral"
    b = f"{b}.{'block_sparse_moe' if mixtral else 'mlp'}"
    names = ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")
    theirs = {f"{b}.gate.weight": router}
    for e, (both, back) in enumerate(zip(up, down, strict=True)):
        for name, w in zip(names, (*both.chunk(2), back), strict=True):
            theirs[f"{b}.experts.{e}.{name}.weight"] = w
    return theirs
