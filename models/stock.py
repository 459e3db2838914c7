"""Our GPT as a stock architecture of transformers: which one, its config, and the weights by its names.

Equal up to rounding, with no code of ours: rows of queries and keys are put in another order, biases
of zero are added, or the residual stream is centred. Imports no transformers.

Suffixes: C d_model, H heads, G heads of keys and values, K head_dim, V vocabulary.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from models.config import MLP, GPTConfig, Norm, Positions
from models.gpt import GPT, ROTARY_BASE
from models.stock_moe import config_of_experts, name_experts, why_no_experts

_ACTIVATION = {MLP.GELU: "gelu", MLP.SWIGLU: "silu", MLP.RELU2: "relu2"}
_EXPORTED = {
    "n_layer", "d_model", "n_head", "vocab_size", "seq_len", "positions", "tied", "n_kv_head",
    "norm", "mlp", "qk_norm", "n_expert", "top_k", "n_shared_expert", "granularity",
}  # fmt: skip
# No logit of a trained model depends on these.
_OF_TRAINING = {"z_loss", "init", "init_scale", "balance_loss", "router_z_loss"}


class NoStockForm(ValueError):
    """No stock architecture computes what the model does; says which option is in the way."""


@dataclass(frozen=True, eq=False)
class Stock:
    """One architecture of transformers, and what it calls things.

    Attributes:
        model_type: in its config.json. class_name: that AutoModelForCausalLM makes.
        norm: LayerNorms of these have a bias, which is zero then.
        gated: whether its MLP is silu(gate) x value. qk_norm: whether it has norms of heads.
        norms: before attention, before the MLP. mlp: matrices of the MLP, in our order.
        eps: key of the norms' epsilon.
        values: of its config, which switch off what our model does not have.
    """

    model_type: str
    class_name: str
    norm: Norm
    gated: bool
    qk_norm: bool = False
    norms: tuple[str, str] = ("input_layernorm", "post_attention_layernorm")
    mlp: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")
    eps: str = "rms_norm_eps"
    values: Mapping[str, Any] = field(default_factory=dict)


_UP_DOWN = ("up_proj", "down_proj")
ROTARY = (
    Stock("llama", "LlamaForCausalLM", Norm.RMSNORM, gated=True),
    Stock("arcee", "ArceeForCausalLM", Norm.RMSNORM, gated=False, mlp=_UP_DOWN),
    Stock("stablelm", "StableLmForCausalLM", Norm.LAYERNORM, gated=True, eps="layer_norm_eps",
          values={"use_qkv_bias": False, "use_parallel_residual": False}),
    Stock("starcoder2", "Starcoder2ForCausalLM", Norm.LAYERNORM, gated=False, eps="norm_epsilon",
          mlp=("c_fc", "c_proj"), values={"use_bias": False, "sliding_window": None}),
    Stock("qwen3", "Qwen3ForCausalLM", Norm.RMSNORM, gated=True, qk_norm=True,
          values={"use_sliding_window": False}),
    Stock("apertus", "ApertusForCausalLM", Norm.RMSNORM, gated=False, qk_norm=True, mlp=_UP_DOWN,
          norms=("attention_layernorm", "feedforward_layernorm")),
)  # fmt: skip
GPT2 = Stock("gpt2", "GPT2LMHeadModel", Norm.LAYERNORM, gated=False, eps="layer_norm_epsilon")
MIXTRAL = Stock("mixtral", "MixtralForCausalLM", Norm.RMSNORM, gated=True,
                values={"sliding_window": None})  # fmt: skip
GRANITE_MOE = Stock("granitemoeshared", "GraniteMoeSharedForCausalLM", Norm.RMSNORM, gated=True)
QWEN3_MOE = Stock("qwen3_moe", "Qwen3MoeForCausalLM", Norm.RMSNORM, gated=True, qk_norm=True,
                  values={"use_sliding_window": False})  # fmt: skip
MODEL_TYPES = tuple(s.model_type for s in (*ROTARY, GPT2, MIXTRAL, GRANITE_MOE, QWEN3_MOE))


def stock_of(cfg: GPTConfig) -> Stock:
    """Choose the architecture that computes what a model with these options does.

    Raises:
        NoStockForm: there is none; names the option and the values that would do.
    """
    _refuse_unknown_options(cfg)
    if cfg.n_expert is not None:
        return _stock_of_experts(cfg)
    if cfg.positions is Positions.LEARNED:
        _refuse_what_gpt2_lacks(cfg)
        return GPT2
    gated = cfg.mlp is MLP.SWIGLU
    fits = [s for s in ROTARY if (s.gated, s.qk_norm) == (gated, cfg.qk_norm)]
    return next((s for s in fits if s.norm is cfg.norm), fits[0])  # else centred: see `centres`


def _stock_of_experts(cfg: GPTConfig) -> Stock:
    if why := why_no_experts(cfg):
        raise NoStockForm(why)
    if cfg.qk_norm:
        return QWEN3_MOE
    return GRANITE_MOE if cfg.n_shared_expert else MIXTRAL


def centres(stock: Stock, cfg: GPTConfig) -> bool:
    """Whether a model of LayerNorms becomes one of RMSNorms, its residual stream centred.

    LayerNorm without a bias is RMSNorm of x - mean(x), and every reader of the residual stream is a
    norm: writing centred vectors only changes no logit (Ashkboos et al. 2024, SliceGPT,
    arXiv:2401.15024, section 3).
    """
    return stock.norm is not cfg.norm


def is_tied(stock: Stock, cfg: GPTConfig) -> bool:
    """Whether head and embedding are one table in the checkpoint, too: a centred embedding is none."""
    return cfg.tied and not centres(stock, cfg)


def config_of(model: GPT, stock: Stock, eod: int) -> dict[str, Any]:
    """Values of the architecture's config.json.

    Args:
        model: ours.
        stock: of stock_of.
        eod: id of the end-of-document token.
    """
    cfg = model.cfg
    values = {
        "architectures": [stock.class_name],
        "dtype": "float32",
        "vocab_size": cfg.vocab_size,
        "bos_token_id": None,
        "eos_token_id": eod,
        "pad_token_id": None,
        "tie_word_embeddings": is_tied(stock, cfg),
        stock.eps: model.norm.eps,
        **stock.values,
    }
    if stock is GPT2:
        sizes = {"n_layer": cfg.n_layer, "n_embd": cfg.d_model, "n_head": cfg.n_head}
        act = {"n_inner": cfg.mlp_width, "activation_function": _ACTIVATION[cfg.mlp]}
        return values | sizes | act | {"n_positions": cfg.seq_len}
    experts = {} if cfg.n_expert is None else config_of_experts(cfg, stock.model_type)
    return values | {
        "num_hidden_layers": cfg.n_layer,
        "hidden_size": cfg.d_model,
        "num_attention_heads": cfg.n_head,
        "num_key_value_heads": cfg.kv_heads,
        "head_dim": cfg.head_dim,
        "intermediate_size": cfg.mlp_width,
        "hidden_act": _ACTIVATION[cfg.mlp],
        "max_position_embeddings": cfg.seq_len,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": ROTARY_BASE,
            "partial_rotary_factor": 1.0,
        },
        **experts,
    }


def weights_of(model: GPT, stock: Stock) -> dict[str, Tensor]:
    """Weights under the architecture's names, float32, each with memory of its own.

    Raises:
        NoStockForm: the model has weights that have no place there.
    """
    ours = {name: w.detach().float().cpu() for name, w in model.state_dict().items()}
    head = ours.pop("head.weight")  # tied: the embedding, before it is centred
    if centres(stock, model.cfg):
        ours = {name: _centred(name, w) for name, w in ours.items()}
    named = _gpt2_names if stock is GPT2 else _llama_names
    theirs = named(ours, model.cfg, stock)
    if ours:
        raise NoStockForm(f"{stock.class_name} has no place for the weights {', '.join(ours)}")
    if not is_tied(stock, model.cfg):
        theirs["lm_head.weight"] = head
    return {name: w.clone(memory_format=torch.contiguous_format) for name, w in theirs.items()}


class TrainedAngles(nn.Module):
    """Rotary positions as our model has them, for the place of an architecture's own `rotary_emb`.

    Transformers multiplies positions and frequencies in float32: at position t that rounds an angle
    by up to t x 6e-8, so logits of long rows differ by more than the weights make them. With the
    angles of training in both, what is left is the weights.
    """

    def __init__(self, turn_TK2: Tensor) -> None:
        super().__init__()
        both_TK2 = torch.cat((turn_TK2, turn_TK2), dim=2).squeeze(1)
        self.cos_TK, self.sin_TK = both_TK2.unbind(-1)

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of (B, T) positions, (B, T, K) each, like x."""
        return self.cos_TK[position_ids].to(x), self.sin_TK[position_ids].to(x)


def changes_of(stock: Stock, cfg: GPTConfig) -> list[str]:
    """Say how the checkpoint's weights differ from the trained ones, a sentence each."""
    said = []
    if stock is not GPT2:
        said.append(
            "Rows of the query and key matrices"
            f"{' and gains of their norms' if cfg.qk_norm else ''} are in another order: rotary "
            "positions turn the two halves of a head here, and turned neighbouring pairs in training."
        )
    if stock.norm is Norm.LAYERNORM:
        matrices = " and matrices" if stock is GPT2 else ""
        said.append(f"The architecture's norms{matrices} have biases, which are zero.")
    if centres(stock, cfg):
        said.append(
            "The architecture has RMSNorms, the cell LayerNorms: what is written to the residual "
            "stream is centred, after which both are the same (arXiv:2401.15024, section 3)."
        )
    if cfg.tied != is_tied(stock, cfg):
        said.append("Head and embedding were tied; here the head keeps the table uncentred.")
    return said


def _refuse_unknown_options(cfg: GPTConfig) -> None:
    """Refuse an option that this file does not know, unless it is as it was before it came."""
    for f in fields(cfg):
        value = getattr(cfg, f.name)
        if f.name not in _EXPORTED | _OF_TRAINING and value != f.default:
            raise NoStockForm(
                f"model.{f.name}={value} has no form among the architectures that isoflop exports "
                f"to; model.{f.name}={'null' if f.default is None else f.default} would export"
            )


def _refuse_what_gpt2_lacks(cfg: GPTConfig) -> None:
    in_the_way = {
        "norm": cfg.norm is not Norm.LAYERNORM,
        "mlp": cfg.mlp is MLP.SWIGLU,
        "qk_norm": cfg.qk_norm,
        "n_kv_head": cfg.n_kv_head is not None,
    }
    named = [f"model.{k}={_typed(getattr(cfg, k))}" for k, bad in in_the_way.items() if bad]
    if named:
        raise NoStockForm(
            f"{', '.join(named)} has no stock architecture beside model.positions=learned: GPT2's "
            "takes model.norm=layernorm, model.mlp=gelu or relu2, model.qk_norm=false and "
            "model.n_kv_head=null; with model.positions=rotary every value exports"
        )


def _typed(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _centred(name: str, w: Tensor) -> Tensor:
    """Take the mean out of what a table or matrix writes to the residual stream."""
    if name == "embed.weight":
        return (w.double() - w.double().mean(1, keepdim=True)).float()
    if name.endswith((".attn.out.weight", ".down.weight", ".shared_down.weight")):
        return (w.double() - w.double().mean(-2, keepdim=True)).float()  # of every expert, too
    return w


def _llama_names(ours: dict[str, Tensor], cfg: GPTConfig, stock: Stock) -> dict[str, Tensor]:
    """Take weights out of `ours` and name them as Llama and its kin do."""
    H, G, K = cfg.n_head, cfg.kv_heads, cfg.head_dim
    half = torch.cat((torch.arange(0, K, 2), torch.arange(1, K, 2)))  # a pair lies K/2 apart
    theirs = {"model.embed_tokens.weight": ours.pop("embed.weight")}
    theirs |= _norm("model.norm", ours.pop("norm.weight"), stock)
    for i in range(cfg.n_layer):
        a, b = f"blocks.{i}", f"model.layers.{i}"
        qkv = ours.pop(f"{a}.attn.qkv.weight").unflatten(0, (-1, K))
        for name, w_HKC in zip("qkv", qkv.split((H, G, G)), strict=True):
            w_HKC = w_HKC if name == "v" else w_HKC[:, half]
            theirs[f"{b}.self_attn.{name}_proj.weight"] = w_HKC.flatten(0, 1)
        theirs[f"{b}.self_attn.o_proj.weight"] = ours.pop(f"{a}.attn.out.weight")
        for name in ("q_norm", "k_norm") if stock.qk_norm else ():
            theirs[f"{b}.self_attn.{name}.weight"] = ours.pop(f"{a}.attn.{name}.weight")[half]
        for name, norm in zip(stock.norms, ("norm_1", "norm_2"), strict=True):
            theirs |= _norm(f"{b}.{name}", ours.pop(f"{a}.{norm}.weight"), stock)
        if cfg.n_expert is not None:
            theirs |= name_experts(ours, a, b, stock.model_type)
            continue
        up, down = ours.pop(f"{a}.up.weight"), ours.pop(f"{a}.down.weight")
        matrices = (*up.chunk(2 if stock.gated else 1), down)
        for name, w in zip(stock.mlp, matrices, strict=True):
            theirs[f"{b}.mlp.{name}.weight"] = w
    return theirs


def _gpt2_names(ours: dict[str, Tensor], cfg: GPTConfig, stock: Stock) -> dict[str, Tensor]:
    """Take weights out of `ours` and name them as GPT-2 does, whose matrices are transposed."""
    theirs = {
        "transformer.wte.weight": ours.pop("embed.weight"),
        "transformer.wpe.weight": ours.pop("positions.weight"),
    }
    theirs |= _norm("transformer.ln_f", ours.pop("norm.weight"), stock)
    matrices = {"attn.qkv": "attn.c_attn", "attn.out": "attn.c_proj", "up": "mlp.c_fc",
                "down": "mlp.c_proj"}  # fmt: skip
    for i in range(cfg.n_layer):
        a, b = f"blocks.{i}", f"transformer.h.{i}"
        for norm, name in (("norm_1", "ln_1"), ("norm_2", "ln_2")):
            theirs |= _norm(f"{b}.{name}", ours.pop(f"{a}.{norm}.weight"), stock)
        for mine, name in matrices.items():
            w = ours.pop(f"{a}.{mine}.weight")
            theirs[f"{b}.{name}.weight"] = w.T
            theirs[f"{b}.{name}.bias"] = torch.zeros(len(w))
    return theirs


def _norm(name: str, gain: Tensor, stock: Stock) -> dict[str, Tensor]:
    bias = {f"{name}.bias": torch.zeros_like(gain)} if stock.norm is Norm.LAYERNORM else {}
    return {f"{name}.weight": gain, **bias}
