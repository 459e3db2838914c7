"""Count parameters (N) and training FLOPs (C) of a shape, exactly, without building it.

Papers disagree on both counts and the disagreement moves the fitted exponents (Porian et al. 2024,
arXiv:2406.19146), so a count never travels without its convention.
"""

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from models.config import MLP, GPTConfig, Positions
from models.hf_config import HFConfig
from models.size import Size


class FlopRule(StrEnum):
    """What C counts; each is training FLOPs (backward = 2 x forward)."""

    PALM = "palm"
    PALM_CAUSAL = "palm_causal"
    SIX_ND = "6nd"
    KAPLAN = "kaplan"
    CHINCHILLA = "chinchilla"


@dataclass(frozen=True, kw_only=True)
class ParamCount:
    """Parameters by what they do; the conventions are sums of these."""

    embedding: int  # V d, a lookup: no FLOPs
    positions: int  # T d where learned
    head: int  # V d, a matmul; a tied head shares the embedding's parameters
    matrices: int  # of the layers: queries, keys, values, out, MLP or router and experts
    gains: int  # (2 L + 1) d of the norms; 2 K a layer with QK-norm
    tied: bool
    resting: int = 0  # of the matrices, those of experts that a token is not sent to

    @property
    def total(self) -> int:
        """N_total: every parameter once."""
        head = 0 if self.tied else self.head
        return self.embedding + self.positions + head + self.matrices + self.gains

    @property
    def non_embedding(self) -> int:
        """N_non_embedding: without vocabulary and position tables (Kaplan et al. 2020, sec. 2.1)."""
        return self.matrices + self.gains

    @property
    def matmul(self) -> int:
        """N_matmul: weights that multiply, the LM head in, the embedding lookup out."""
        return self.matrices + self.head

    @property
    def active(self) -> int:
        """N_active: parameters that work on one token; all of a dense model."""
        return self.total - self.resting


def count_params(cfg: Size) -> ParamCount:
    """Count the parameters of a shape.

    A layer's matrices: d^2 for queries and for out, d G K each for keys and values (G heads of
    width K), and d f for each of an MLP's two matrices (three in SwiGLU; f is cfg.mlp_width). With
    E experts of width w: d w for each matrix of each, shared ones too, and d E of the router.
    """
    if isinstance(cfg, HFConfig):
        return _params_of_hf(cfg)
    L, d, V, T = cfg.n_layer, cfg.d_model, cfg.vocab_size, cfg.seq_len
    attention = 2 * d * d + 2 * d * cfg.kv_heads * cfg.head_dim
    mlp, resting = _mlp_params(cfg)
    qk_gains = 2 * cfg.head_dim if cfg.qk_norm else 0
    return ParamCount(
        embedding=V * d,
        positions=T * d if cfg.positions is Positions.LEARNED else 0,
        head=V * d,
        matrices=L * (attention + mlp),
        gains=(2 * L + 1) * d + L * qk_gains,
        tied=cfg.tied,
        resting=L * resting,
    )


def _mlp_params(cfg: GPTConfig) -> tuple[int, int]:
    """Parameters of a layer's MLP or experts, and how many of them rest on one token."""
    one = (3 if cfg.mlp is MLP.SWIGLU else 2) * cfg.d_model * cfg.expert_width
    if cfg.n_expert is None:
        return one, 0
    experts = (cfg.n_expert + cfg.n_shared_expert) * one
    return experts + cfg.d_model * cfg.n_expert, (cfg.n_expert - cfg.top_k) * one


@lru_cache(maxsize=65_536)  # plans of thousands of cells ask for each size again and again
def flops_per_token(cfg: Size, rule: FlopRule) -> float:
    """Training FLOPs per token, at sequences of cfg.seq_len.

    palm: 6 N_matmul + 12 L H K T (Chowdhery et al. 2022, arXiv:2204.02311, appendix B). Every
    query head reads all T keys whatever the number of key heads, and a mask across documents
    saves nothing in this count. palm_causal: the same with half of the attention term. 6nd:
    6 N_total. kaplan: 6 N_non_embedding. chinchilla: Hoffmann et al. 2022 (arXiv:2203.15556),
    appendix F as printed, the vocabulary terms in. Of a mixture of experts each rule counts the
    parameters that work on a token: router, shared experts, top_k of the others.
    """
    if isinstance(cfg, HFConfig):
        return _flops_of_hf(cfg, rule)
    N = count_params(cfg)
    scores = 12 * cfg.n_layer * cfg.d_model * cfg.seq_len  # H K = d_model
    match rule:
        case FlopRule.PALM:
            return float(6 * (N.matmul - N.resting) + scores)
        case FlopRule.PALM_CAUSAL:
            return 6 * (N.matmul - N.resting) + scores / 2
        case FlopRule.SIX_ND:
            return float(6 * N.active)
        case FlopRule.KAPLAN:
            return float(6 * (N.non_embedding - N.resting))
        case FlopRule.CHINCHILLA:
            vocabulary = 4 * cfg.vocab_size * cfg.d_model  # "embeddings" and "final logits"
            return 3.0 * (vocabulary + chinchilla_layers_forward(cfg))


def chinchilla_layers_forward(cfg: GPTConfig) -> int:
    """Forward FLOPs per token of all layers, Hoffmann et al. 2022, appendix F.

    Per layer: 2d(q + 2k) (queries, keys, values) + 2Tq (logits) + 3HT (softmax) + 2Tq (reduction)
    + 2qd (out) + 4df (MLP), with q = H K = d and k = G K, which the paper has equal. SwiGLU, which
    the paper does not have, counts 6df: 2df for each matrix, as for the others. Nor has it experts:
    2 for each weight of theirs that works on a token, and of the router.
    """
    d, T, H = cfg.d_model, cfg.seq_len, cfg.n_head
    k = cfg.kv_heads * cfg.head_dim
    every, resting = _mlp_params(cfg)
    mlp = 2 * (every - resting)
    return cfg.n_layer * (2 * d * (d + 2 * k) + 2 * d * d + 4 * T * d + 3 * H * T + mlp)


def _params_of_hf(cfg: HFConfig) -> ParamCount:
    c = cfg.counts
    return ParamCount(
        embedding=c.embedding,
        positions=c.positions,
        head=c.head,
        matrices=c.matrices,
        gains=c.rest,
        tied=c.tied,
        resting=c.resting,
    )


def _flops_of_hf(cfg: HFConfig, rule: FlopRule) -> float:
    """Training FLOPs per token of an architecture of transformers, by what was counted of it.

    The same rules, 6 for each product of a token: weights that work on it, scores of attention,
    recurrences. palm_causal halves scores alone. The numbers are those of our GPT where the shapes
    are the same.
    """
    N, c = count_params(cfg), cfg.counts
    products = N.matmul - N.resting + c.scan
    match rule:
        case FlopRule.PALM:
            return float(6 * (products + c.scores))
        case FlopRule.PALM_CAUSAL:
            return 6.0 * products + 3.0 * c.scores
        case FlopRule.SIX_ND:
            return float(6 * N.active)
        case FlopRule.KAPLAN:
            return float(6 * (N.non_embedding - N.resting))
        case FlopRule.CHINCHILLA:
            return 3.0 * (2 * (N.embedding + products + c.scores) + 3 * c.softmax)


def N_flops(cfg: Size, rule: FlopRule) -> float:
    """Parameters for which C = 6 N D holds exactly under `rule`."""
    return flops_per_token(cfg, rule) / 6


def orthogonalise_flops(cfg: GPTConfig) -> float:
    """FLOPs of one Muon step's Newton-Schulz iterations over the matrices of all blocks.

    Five iterations X <- a X + (b G + c G G) X with G = X X^T on each matrix, its shorter side m
    first: 2 m^2 n + 2 m^3 + 2 m^2 n (torch.optim.Muon; Jordan 2024). Queries, keys and values are
    one matrix here, as are SwiGLU's gate and value, and shared experts; every other expert has its
    own, whether tokens were sent to it or not. The router is AdamW's.
    """
    d, w, shared = cfg.d_model, cfg.expert_width, cfg.n_shared_expert or 0
    up = 2 if cfg.mlp is MLP.SWIGLU else 1
    layer = _orthogonalise(d + 2 * cfg.kv_heads * cfg.head_dim, d) + _orthogonalise(d, d)
    for copies, width in ((cfg.n_expert or 1, w), (min(shared, 1), shared * w)):
        layer += copies * (_orthogonalise(up * width, d) + _orthogonalise(d, width))
    return float(cfg.n_layer * layer)


def _orthogonalise(rows: int, columns: int) -> int:
    m, n = min(rows, columns), max(rows, columns)
    return 5 * (4 * m * m * n + 2 * m**3)
