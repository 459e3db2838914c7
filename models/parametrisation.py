"""muP and CompleteP as factors on the standard parametrisation. Imports no torch.

muP is the form of Yang et al. 2022 (arXiv:2203.03466), table 8, in which the head has a multiplier and
may share the embedding's weights. CompleteP adds depth with alpha = 1 (Dey et al. 2025,
arXiv:2505.01618, table 1 and eq. 40, and the authors' code, EleutherAI/nanoGPT-mup, branch
completep). Both are for AdamW. At the base shape every factor is 1.

m_d = d_model / base_d_model; m_L = n_layer / base_n_layer, 1 under muP.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from models.config import GPTConfig, Init, Parametrisation, Positions

_MATRICES = ("qkv", "out", "up", "down")  # of a block: both sides grow with the width
_LAST = ("out", "down")  # of a branch
_GAINS = ("norm_1", "norm_2", "q_norm", "k_norm")  # of a block
_TABLES = ("embed", "positions", "head")  # one side grows


@dataclass(frozen=True)
class Factors:
    """Of one parameter, on what it has in the standard parametrisation."""

    sd: float = 1.0  # of its first values
    lr: float = 1.0
    weight_decay: float = 1.0
    eps: float = 1.0  # of AdamW


def factors(cfg: GPTConfig, name: str) -> Factors:
    """Return the factors of a parameter of the GPT.

    AdamW's update is as large as lr whatever the gradient, so a matrix of a block, which adds up
    m_d times as many of them, takes lr / m_d, and decay x m_d so that lr x decay stays; epsilon
    follows the gradient, which is 1 / m_d, within a block 1 / (m_d m_L). The start of a table or
    head keeps the spread that it has at the base width.

    Args:
        cfg: the shape.
        name: as `named_parameters` has it.

    Raises:
        ValueError: a parameter that the tables above have no row for.
    """
    if cfg.parametrisation is Parametrisation.STANDARD:
        return Factors()
    width, depth = growth(cfg)
    module, in_block = name.split(".")[-2], name.startswith("blocks.")
    by_fan_in = cfg.init is not Init.GPT2  # such a spread falls with the width in every parameter
    sd = width**0.5 if by_fan_in else 1.0
    if module in _TABLES and not in_block:
        return Factors(sd=sd, eps=1 / width)
    if module == "norm" and not in_block:
        return Factors(eps=1 / width)
    eps = 1 / (width * depth)
    if module in _GAINS and in_block:
        return Factors(eps=eps)
    if module in _MATRICES and in_block:
        sd *= width**-0.5
        if module in _LAST:  # the standard start has 1 / sqrt(2 L), here of the base depth
            sd *= depth**0.5
        return Factors(sd=sd, lr=1 / width, weight_decay=width, eps=eps)
    raise ValueError(f"model.parametrisation={cfg.parametrisation} has no rule for {name}")


def growth(cfg: GPTConfig) -> tuple[float, float]:
    """Return m_d and m_L; 1 and 1 in the standard parametrisation."""
    width = 1.0 if cfg.base_d_model is None else cfg.d_model / cfg.base_d_model
    depth = 1.0 if cfg.base_n_layer is None else cfg.n_layer / cfg.base_n_layer
    return width, depth


def query_factor(cfg: GPTConfig) -> float:
    """Return what queries are multiplied by: scores are then q k sqrt(K_base) / K, K of a head.

    So they go as 1 / K where heads grow with the width, and are the usual q k / sqrt(K) at the base
    shape, and at every width where all heads are equal.
    """
    if cfg.parametrisation is Parametrisation.STANDARD:
        return 1.0
    return (base_shape(cfg).head_dim / cfg.head_dim) ** 0.5


def branch_factor(cfg: GPTConfig) -> float:
    """Return what attention and MLP are multiplied by where they join the stream: m_L^-1."""
    return 1 / growth(cfg)[1]


def output_factor(cfg: GPTConfig) -> float:
    """Return what logits are multiplied by: m_d^-1."""
    return 1 / growth(cfg)[0]


def base_shape(cfg: GPTConfig) -> GPTConfig:
    """Return the model at its base width (and depth), with heads as near as can be to its own.

    Raises:
        ValueError: the base width has no such heads.
    """
    d_model, n_layer = cfg.base_d_model or cfg.d_model, cfg.base_n_layer or cfg.n_layer
    shared = cfg.n_head // cfg.kv_heads
    step = 2 if cfg.positions is Positions.ROTARY else 1
    heads = [h for h in range(shared, d_model + 1, shared) if not d_model % (step * h)]
    if not heads:
        raise ValueError(
            f"model.base_d_model={d_model} can't be split into heads as in {cfg.size_id}: it must be "
            f"a multiple of {step * shared}"
        )
    n_head = min(heads, key=lambda h: abs(h - d_model / cfg.head_dim))
    return replace(cfg, n_layer=n_layer, d_model=d_model, n_head=n_head,
                   n_kv_head=n_head // shared)  # fmt: skip


def as_standard(cfg: GPTConfig, weights: Mapping[str, Any]) -> tuple[GPTConfig, dict[str, Any]]:
    """Write the multipliers into the weights: the standard model that gives the same logits.

    No architecture of transformers has a key for them.

    Queries' into their rows, or into their gains under QK-norm; branches' into the last matrix of
    each; the logits' into the gains of the last norm, so that a tied head stays tied.

    Args:
        cfg: the shape.
        weights: tensors by name, which stay as they are.
    """
    if cfg.parametrisation is Parametrisation.STANDARD:
        return cfg, dict(weights)
    standard = replace(
        cfg, parametrisation=Parametrisation.STANDARD, base_d_model=None, base_n_layer=None
    )
    written = {}
    for name, weight in weights.items():
        module = name.split(".")[-2]
        if module == "qkv" and not cfg.qk_norm:
            weight = weight.clone()
            weight[: cfg.d_model] *= query_factor(cfg)
        elif module == "q_norm":
            weight = weight * query_factor(cfg)
        elif module in _LAST:
            weight = weight * branch_factor(cfg)
        elif name == "norm.weight":
            weight = weight * output_factor(cfg)
        written[name] = weight
    return standard, written
