"""Causal attention behind one function, its implementation named, chosen once, and recorded.

Suffixes: B rows, T tokens of a row, H query heads, G heads of keys and values, K head_dim. All
layouts are FlashAttention's own, (B, T, H, K).
"""

import contextlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from models.attention_cpu import cpu_flash
from models.config import Attention
from models.kernel_rules import INSTALL, NEEDS, Place, choose, package_version

_BACKENDS = {
    Attention.CPU_FLASH: SDPBackend.FLASH_ATTENTION,
    Attention.SDPA_FLASH: SDPBackend.FLASH_ATTENTION,
    Attention.SDPA_CUDNN: SDPBackend.CUDNN_ATTENTION,
    Attention.SDPA_EFFICIENT: SDPBackend.EFFICIENT_ATTENTION,
    Attention.SDPA_FA3: SDPBackend.FLASH_ATTENTION,
    Attention.SDPA_FA4: SDPBackend.FLASH_ATTENTION,
}
_REPLACES_TORCHS_FLASH = {Attention.SDPA_FA3: "FA3", Attention.SDPA_FA4: "FA4"}
_PACKAGES = (Attention.FA2, Attention.FA3, Attention.FA4)
_BY_STARTS = (*_PACKAGES, Attention.SDPA_FLASH, *_REPLACES_TORCHS_FLASH)


@dataclass(frozen=True)
class Borders:
    """Where the documents of packed rows begin and end, in the form an implementation takes."""

    starts: Tensor | None = None  # (documents + 1,) int32: offsets in the flattened batch
    seen: Tensor | None = None  # (B, 1, T, T) bool: whether a query (row) may see a key (column)


def choose_attention(
    device: str,
    dtype: torch.dtype,
    asked: str = "auto",
    head_dims: Collection[int] = (),
    documents: bool = False,
) -> Attention:
    """Turn what was asked into the implementation that will run.

    Args:
        device: cpu or cuda; on cuda, the current device's capability counts.
        dtype: of the forward pass.
        asked: auto or a name.
        head_dims: widths of the heads of every size that will run.
        documents: whether packed documents are masked from each other.

    Raises:
        ValueError: one that can't run here, or whose package does not import; says why.
    """
    place = Place(
        device=device,
        dtype=str(dtype).removeprefix("torch."),
        capability=torch.cuda.get_device_capability() if device == "cuda" else None,
        torch=tuple(int(n) for n in torch.__version__.split(".")[:2]),
    )
    chosen = choose(place, asked, head_dims, documents)
    if chosen in (*_PACKAGES, *_REPLACES_TORCHS_FLASH):
        load_flash(chosen)
    return chosen


def attention_version(implementation: Attention) -> str:
    """Who made the kernel, and which version of it: the record's attention_version."""
    made_by = f"torch {torch.__version__}"
    if implementation is Attention.SDPA_CUDNN:
        return f"{made_by}, cudnn {torch.backends.cudnn.version()}"
    package = NEEDS[implementation].package if implementation in NEEDS else None
    if package is None:
        return made_by
    own = f"{package} {package_version(package)}"
    return f"{own}, {made_by}" if implementation in _REPLACES_TORCHS_FLASH else own


def is_deterministic(implementation: Attention, device: str) -> bool:
    """Whether the backward pass gives the same bits again, as torch is set up now.

    Fused backward passes on a GPU add in the order in which blocks end, unless
    torch.use_deterministic_algorithms(True) was called; cuDNN's has no other way.
    """
    if device == "cpu":
        return True
    return implementation is not Attention.SDPA_CUDNN and (
        torch.are_deterministic_algorithms_enabled()
    )


def borders(document_BT: Tensor, implementation: Attention) -> Borders:
    """Find the borders between documents, once for all layers of a forward pass.

    Starts are filled up with empty documents at the end to a power of two of documents, so that
    a compiled model meets few shapes. A compiler has to leave this function alone: how many
    documents there are, it can't know.

    Args:
        document_BT: number of the document that each token belongs to, unchanged within a document
            and another in the next one; equal numbers in two rows are two documents.
        implementation: as chosen.
    """
    if implementation in _BY_STARTS:
        B, T = document_BT.shape
        first_BT = torch.ones_like(document_BT, dtype=torch.bool)  # a row starts a document
        first_BT[:, 1:] = document_BT[:, 1:] != document_BT[:, :-1]
        starts = first_BT.flatten().nonzero().flatten()
        missing = (1 << (len(starts) - 1).bit_length()) - len(starts)
        return Borders(starts=F.pad(starts, (0, missing + 1), value=B * T).to(torch.int32))
    same_BTT = document_BT[:, :, None] == document_BT[:, None, :]
    return Borders(seen=same_BTT.tril()[:, None])


def attention(
    q_BTHK: Tensor,
    k_BTGK: Tensor,
    v_BTGK: Tensor,
    implementation: Attention,
    within: Borders | None = None,
) -> Tensor:
    """Causal softmax(q k^T / sqrt(K)) v, each key head serving H / G neighbouring query heads.

    Args:
        q_BTHK: queries.
        k_BTGK: keys.
        v_BTGK: values.
        implementation: as chosen; run it inside `only(implementation)`.
        within: borders of documents that do not see each other, made for this implementation.

    Returns:
        (B, T, H, K).
    """
    starts = None if within is None else within.starts
    if implementation in _PACKAGES:
        return _flash_package(implementation, q_BTHK, k_BTGK, v_BTGK, starts)
    if starts is not None:
        return _torch_varlen(q_BTHK, k_BTGK, v_BTGK, starts)
    seen_B1TT = None if within is None else within.seen
    q, k, v = (z.transpose(1, 2) for z in (q_BTHK, k_BTGK, v_BTGK))
    if implementation is Attention.REFERENCE:
        return _reference(q, k, v, seen_B1TT).transpose(1, 2)
    if implementation is Attention.CPU_FLASH:
        return cpu_flash(q, k, v, seen_B1TT).transpose(1, 2)
    grouped = q.size(1) != k.size(1)
    if grouped and implementation in (Attention.SDPA_EFFICIENT, Attention.SDPA_CUDNN):
        k, v = (z.repeat_interleave(q.size(1) // k.size(1), dim=1) for z in (k, v))
        grouped = False
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=seen_B1TT, is_causal=seen_B1TT is None, enable_gqa=grouped
    ).transpose(1, 2)


@contextlib.contextmanager
def only(implementation: Attention | None) -> Iterator[None]:
    """Forbid torch every SDPA backend but the named one while this context is open.

    Torch would otherwise fall back to another kernel without a word; here it raises instead. None
    forbids nothing.
    """
    if implementation not in _BACKENDS:
        yield
        return
    name = _REPLACES_TORCHS_FLASH.get(implementation)
    activates = name and name != torch.nn.attention.current_flash_attention_impl()  # it may nest
    if activates:
        torch.nn.attention.activate_flash_attention_impl(name)
    try:
        with sdpa_kernel(_BACKENDS[implementation]):
            yield
    finally:
        if activates:
            torch.nn.attention.restore_flash_attention_impl()


def load_flash(implementation: Attention) -> ModuleType:
    """Import the package behind an implementation: the one place that does.

    Raises:
        ValueError: it is installed and does not import, mostly a build for another torch or CUDA.
    """
    try:
        if implementation is Attention.FA2:
            import flash_attn as module
        elif implementation in (Attention.FA3, Attention.SDPA_FA3):
            import flash_attn_interface as module
        else:
            import flash_attn.cute as module
    except ImportError as e:
        raise ValueError(
            f"hardware.attention={implementation}: {NEEDS[implementation].package} "
            f"{package_version(NEEDS[implementation].package)} does not import with torch "
            f"{torch.__version__} ({e}): install the build for it, {INSTALL} says how, "
            "or choose hardware.attention=sdpa_flash"
        ) from None
    return module


def flash_arguments(q_BTHK: Tensor, starts: Tensor | None) -> tuple[str, dict[str, object]]:
    """Name and keywords of the call that the three packages share; tests bind them to each.

    Without `starts` the rows are one document each; with them, q, k and v come flattened.
    """
    how = {"causal": True, "deterministic": torch.are_deterministic_algorithms_enabled()}
    if starts is None:
        return "flash_attn_func", how
    longest = q_BTHK.size(1)  # an upper bound: the true one would wait for the device
    lengths = {"cu_seqlens_q": starts, "cu_seqlens_k": starts}
    return "flash_attn_varlen_func", {
        **lengths, "max_seqlen_q": longest, "max_seqlen_k": longest, **how
    }  # fmt: skip


def _flash_package(
    implementation: Attention, q: Tensor, k: Tensor, v: Tensor, starts: Tensor | None
) -> Tensor:
    name, keywords = flash_arguments(q, starts)
    function: Callable = getattr(load_flash(implementation), name)
    if implementation is not Attention.FA2:  # the others are no custom ops: torch can't trace them
        function = torch.compiler.disable(function)
    flat = (q, k, v) if starts is None else (z.flatten(0, 1) for z in (q, k, v))
    out = function(*flat, **keywords)
    out = out[0] if isinstance(out, tuple) else out  # some versions add the log-sum-exp
    return out.view_as(q)


def _torch_varlen(q_BTHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor, starts: Tensor) -> Tensor:
    """Torch's own flash kernel over documents of uneven length."""
    from torch.nn.attention.varlen import varlen_attn

    T = q_BTHK.size(1)
    q, k, v = (z.flatten(0, 1) for z in (q_BTHK, k_BTGK, v_BTGK))
    out = varlen_attn(
        q, k, v, starts, starts, T, T, window_size=(-1, 0), enable_gqa=q.size(1) != k.size(1)
    )
    return out.view_as(q_BTHK)


def _reference(q: Tensor, k: Tensor, v: Tensor, seen_B1TT: Tensor | None) -> Tensor:
    """Attention as written in the paper: every score made, masked and normalised, any dtype."""
    G, T = k.size(1), q.size(-2)
    q_BGRTK = q.unflatten(1, (G, -1))  # R query heads read one key head
    scores_BGRTT = q_BGRTK @ k[:, :, None].mT / q.size(-1) ** 0.5
    if seen_B1TT is None:
        hidden = torch.ones(T, T, dtype=torch.bool, device=q.device).triu(1)
    else:
        hidden = ~seen_B1TT[:, :, None]
    weights = scores_BGRTT.masked_fill(hidden, float("-inf")).softmax(-1)
    return (weights @ v[:, :, None]).flatten(1, 2)
