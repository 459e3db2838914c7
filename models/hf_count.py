"""Count N, FLOPs and memory of sizes of an architecture of transformers, on torch's meta device.

`python -P -m models.hf_count` reads sizes as JSON on stdin and prints their counts: a process of its
own, so that a plan imports neither torch nor transformers.

Weights are found by a walk over the modules. What attention multiplies is seen as it is called, on
tensors without data. What a recurrence multiplies is a formula (SCANS), since code does it in pieces of
many shapes. Torch's own counter is asked beside it, and `Counts.source` says whether it agrees.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AttentionInterface, PreTrainedConfig

from models.hf_build import build, first_line, make_config
from models.hf_config import Counts, Keys
from models.hf_walk import Part, Role, is_tied, parts

# Multiply-adds of a token in one layer's recurrence, by the attributes that its module has.
# Mamba-2 (Dao and Gu 2024, arXiv:2405.21060): a state of P x N a head is added to and read, 2 H P N.
# Gated delta rule (Yang et al. 2024, arXiv:2412.06464): a state of K x V is read for the key, added to
# and read for the query, 3 H K V. As in attention, what is no product (decays, gates) is not counted.
SCANS: dict[tuple[str, ...], Callable[[Any], int]] = {
    ("num_heads", "head_dim", "ssm_state_size"): lambda m: (
        2 * m.num_heads * m.head_dim * m.ssm_state_size
    ),
    ("num_v_heads", "head_k_dim", "head_v_dim"): lambda m: (
        3 * m.num_v_heads * m.head_k_dim * m.head_v_dim
    ),
}
_NAME = "isoflop_counts"  # of our attention, for transformers


@dataclass(frozen=True)
class Call:
    """One call of attention: heads, widths of keys and values, keys that a query reads."""

    heads: int
    key_dim: int
    value_dim: int
    keys: int
    causal: bool


def count(architecture: str, keys: Keys, vocab_size: int, seq_len: int) -> Counts:
    """Count one size.

    Raises:
        ValueError: as make_config; it sees later tokens; or it has experts, and does not say how many
            a token visits.
    """
    config = make_config(architecture, keys, vocab_size, seq_len)
    with torch.device("meta"):
        net = build(config, attn_implementation=_register(), experts_implementation="batched_mm")
    found = list(parts(net))
    n = {role: sum(p.parameter.numel() for p in found if p.role is role) for role in Role}
    calls, seen, row_bytes = _run(net, vocab_size, seq_len)
    if not all(call.causal for call in calls):
        raise ValueError(
            f"{architecture} as configured looks at later tokens, so its loss would say nothing: make it "
            "a decoder (model.base={is_decoder: true}), or name another architecture"
        )
    scan = [formula for module in net.modules() if (formula := _scan(module))]
    tied = is_tied(net)
    head = n[Role.EMBEDDING] if tied else n[Role.HEAD]
    resting = _resting(config, found)
    matrices = n[Role.MATRIX] + n[Role.EXPERT]
    scores = sum(c.heads * (c.key_dim + c.value_dim) * c.keys for c in calls)
    ours = 2 * (matrices - resting + head + scores + sum(scan))
    n_layer = _layers(config)
    return Counts(
        n_layer=n_layer,
        d_model=_whole(config, "hidden_size"),
        n_head=calls[0].heads if calls else None,
        head_dim=calls[0].key_dim if calls else None,
        tied=tied,
        embedding=n[Role.EMBEDDING],
        positions=n[Role.TABLE],
        head=head,
        matrices=matrices,
        resting=resting,
        rest=n[Role.REST],
        scores=scores,
        softmax=sum(c.heads * c.keys for c in calls),
        scan=sum(scan),
        row_bytes=row_bytes,
        source=_source(ours, seen, found, n_layer - len(calls) - len(scan), bool(scan)),
    )


def main() -> None:
    """Count the sizes on stdin; print their counts, or the one thing that is wrong."""
    asked = json.load(sys.stdin)
    said: dict[str, Any] = {"counts": []}
    for size in asked["sizes"]:
        try:
            said["counts"].append(asdict(count(**size)))
        except ValueError as e:
            said = {"refused": str(e), "size": len(said["counts"])}
            break
    print(json.dumps(said))


def _run(net: nn.Module, vocab_size: int, seq_len: int) -> tuple[list[Call], float | str, float]:
    """Send rows through the network.

    Returns:
        Calls of attention; FLOPs a token as torch counts them, or why it can't; bytes that are kept
        of a row for the backward pass.
    """
    calls: list[Call] = []
    rows = 2  # of a single one, code that turns dimensions round copies less
    tokens_BT = torch.zeros(rows, seq_len, dtype=torch.int64, device="meta")
    with _Attention.noting(calls, multiply=False), _kept(net) as kept:
        logits = _logits(net, tokens_BT)
        F.cross_entropy(logits.flatten(0, 1), tokens_BT.flatten())
    row_bytes = sum(storage.nbytes() for storage in kept.values()) / rows
    try:
        with _Attention.noting([], multiply=True), FlopCounterMode(display=False) as counter:
            _logits(net, tokens_BT[:1])
    except ValueError as e:
        return calls, str(e), row_bytes
    return calls, counter.get_total_flops() / seq_len, row_bytes


def _logits(net: nn.Module, tokens_BT: Tensor) -> Tensor:
    try:
        return net(input_ids=tokens_BT, use_cache=False).logits.float()
    except Exception as e:
        raise ValueError(
            f"{net.config.model_type} does not run on torch's meta device, so its FLOPs can't be "
            f"counted: {first_line(e)}"
        ) from None


class _Attention:
    """Stands in for attention: notes each call, and multiplies as many numbers as it would."""

    calls: list[Call] = []  # noqa: RUF012 - of the process, as transformers' register is
    multiply = False

    @classmethod
    @contextmanager
    def noting(cls, calls: list[Call], multiply: bool) -> Iterator[None]:
        """Note calls in a list; multiply: as matmuls, which torch counts; else keep what a kernel keeps."""
        cls.calls, cls.multiply = calls, multiply
        yield

    @classmethod
    def forward(
        cls,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        **how,
    ) -> tuple[Tensor, None]:
        """(B, H, T, K), (B, G, T, K), (B, G, T, V) -> (B, T, H, V)."""
        H, T = query.shape[1], key.shape[2]
        window = how.get("sliding_window") or getattr(module, "sliding_window", None) or T
        causal = getattr(module, "is_causal", True) and how.get("is_causal") is not False
        cls.calls.append(Call(H, key.shape[-1], value.shape[-1], min(T, window), causal))
        if not cls.multiply:
            return _Kernel.apply(query, key, value), None
        key, value = (x.repeat_interleave(H // x.shape[1], dim=1) for x in (key, value))
        return ((query @ key.mT) @ value).transpose(1, 2).contiguous(), None


class _Kernel(torch.autograd.Function):
    """Keeps what a fused attention keeps: its inputs and its output."""

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_empty(*query.shape[:-1], value.shape[-1]).transpose(1, 2).contiguous()
        ctx.save_for_backward(query, key, value, out)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[None, None, None]:
        return None, None, None


def _register() -> str:
    """Name our attention to transformers, which makes no mask for one that it does not know."""
    AttentionInterface.register(_NAME, _Attention.forward)
    return _NAME


@contextmanager
def _kept(net: nn.Module) -> Iterator[dict[int, torch.UntypedStorage]]:
    """Collect what is kept for the backward pass, each storage once, weights left out."""
    held = {p.untyped_storage()._cdata for p in net.parameters()}
    storages: dict[int, torch.UntypedStorage] = {}

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage._cdata not in held:
            storages.setdefault(storage._cdata, storage)  # held, so that no number comes again
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        yield storages


def _scan(module: nn.Module) -> int:
    for attributes, formula in SCANS.items():
        if all(isinstance(getattr(module, name, None), int) for name in attributes):
            return formula(module)
    return 0


def _resting(config: PreTrainedConfig, found: list[Part]) -> int:
    """Weights of experts that a token does not visit, over all layers."""
    experts = sum(p.parameter.numel() for p in found if p.role is Role.EXPERT)
    if not experts:
        return 0
    top_k, E = (_whole(config, names) for names in ("num_experts_per_tok", "num_experts"))
    return experts - experts * top_k // E


_ALIASES = {"num_experts": ("num_experts", "num_local_experts", "n_routed_experts")}


def _whole(config: PreTrainedConfig, name: str) -> int:
    for alias in _ALIASES.get(name, (name,)):
        if isinstance(value := getattr(config, alias, None), int):
            return value
    raise ValueError(
        f"{config.model_type} has no {name}, so it can't be counted; model=hf takes architectures "
        "whose configuration says it"
    )


def _layers(config: PreTrainedConfig) -> int:
    return _whole(config, "num_hidden_layers")


def _source(ours: int, seen: float | str, found: list[Part], unmixed: int, scans: bool) -> str:
    """Say who counted, and what is not exact."""
    said = [f"module walk of transformers {transformers.__version__}"]
    if scans:
        said.append("recurrences by formula")
    if unmixed > 0:
        said.append(f"what mixes tokens in {unmixed} layers is not counted")
    guessed = [p.name for p in found if p.guessed]
    if guessed:
        said.append(f"{guessed[0]} and {len(guessed) - 1} more are taken for no matrices")
    if isinstance(seen, str):
        said.append(f"torch can't count it: {seen}")
    elif seen == ours:
        said.append("torch counts the same")
    else:
        said.append(f"torch counts {seen / ours - 1:+.2%}")
    return "; ".join(said)


if __name__ == "__main__":
    main()
