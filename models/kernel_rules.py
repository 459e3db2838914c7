"""What each implementation of attention and of the loss needs, and which ones run. No torch here.

Limits are those of the sources named in docs/install-flash.md. A sweep has one implementation for
all of its sizes: two cells on different kernels are not the same measurement of MFU.
"""

from collections.abc import Collection
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from models.config import Attention, CrossEntropy

HALF = ("bfloat16", "float16")
INSTALL = "docs/install-flash.md"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where attention is to run."""

    device: str  # cpu or cuda
    dtype: str  # of queries, keys and values, without `torch.`
    capability: tuple[int, int] | None = None  # CUDA compute capability
    torch: tuple[int, int] = (2, 13)


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What an implementation runs on."""

    device: str = "cuda"
    dtypes: tuple[str, ...] = HALF
    capability: tuple[int, ...] = (8, 9, 10, 11, 12)  # major numbers
    head_dim_max: int = 256
    head_dim_multiple: int = 1
    package: str | None = None  # as pip knows it
    torch: tuple[int, int] = (2, 6)  # the first that has it
    documents_torch: tuple[int, int] = (2, 6)  # the first that masks packed documents with it


_REPLACES_SDPA = (2, 13)  # torch.nn.attention.activate_flash_attention_impl
_VARLEN = (2, 13)  # torch.nn.attention.varlen with enable_gqa

NEEDS = {
    Attention.CPU_FLASH: Needs(
        device="cpu", dtypes=("float32", "bfloat16", "float64"), head_dim_max=2**20
    ),
    Attention.SDPA_FLASH: Needs(documents_torch=_VARLEN),
    Attention.SDPA_CUDNN: Needs(head_dim_max=128, head_dim_multiple=8),
    Attention.SDPA_EFFICIENT: Needs(
        dtypes=("float32", *HALF), capability=(7, 8, 9, 10, 11, 12), head_dim_max=2**16
    ),
    Attention.SDPA_FA3: Needs(
        capability=(9,), head_dim_multiple=8, package="flash-attn-3", torch=_REPLACES_SDPA,
        documents_torch=_VARLEN,
    ),
    Attention.SDPA_FA4: Needs(
        capability=(9, 10), head_dim_multiple=8, package="flash-attn-4", torch=_REPLACES_SDPA,
        documents_torch=_VARLEN,
    ),
    Attention.FA2: Needs(package="flash-attn"),
    Attention.FA3: Needs(capability=(9,), head_dim_multiple=8, package="flash-attn-3"),
    Attention.FA4: Needs(capability=(9, 10), head_dim_multiple=8, package="flash-attn-4"),
}  # fmt: skip

# Best first. The flash-attn package is the kernel that torch carries as sdpa_flash: never better.
_AUTO = (
    Attention.CPU_FLASH,
    Attention.FA3,
    Attention.FA4,
    Attention.SDPA_FLASH,
    Attention.SDPA_EFFICIENT,
    Attention.REFERENCE,
)


def why_not(
    implementation: Attention,
    place: Place,
    head_dims: Collection[int] = (),
    documents: bool = False,
) -> str | None:
    """Say why an implementation can't run, in words that follow "it", or None where it can.

    Args:
        implementation: one of Attention.
        place: device, dtype and versions.
        head_dims: widths of the heads of all sizes.
        documents: whether packed documents are masked from each other.
    """
    if implementation is Attention.REFERENCE:
        return None
    needs = NEEDS[implementation]
    if needs.device != place.device:
        return f"needs device {needs.device}, this is {place.device}"
    if place.dtype not in needs.dtypes:
        return f"needs hardware.dtype {_or(needs.dtypes)}, not {place.dtype}"
    if place.capability is not None and place.capability[0] not in needs.capability:
        found = ".".join(map(str, place.capability))
        return (
            f"needs compute capability {_or(f'{c}.x' for c in needs.capability)}, this is {found}"
        )
    if place.torch < needs.torch or (documents and place.torch < needs.documents_torch):
        needed = max(needs.torch, needs.documents_torch if documents else needs.torch)
        what = "to mask documents " if documents and place.torch >= needs.torch else ""
        return f"needs torch {_dotted(needed)} or newer {what}(this is {_dotted(place.torch)})"
    if needs.package and package_version(needs.package) is None:
        return f"needs the package {needs.package}, which is not installed: {INSTALL} says how"
    return _refused_head(implementation, place, head_dims, documents)


def choose(
    place: Place, asked: str, head_dims: Collection[int] = (), documents: bool = False
) -> Attention:
    """Turn what was asked into the implementation that will run.

    Raises:
        ValueError: one that can't run here; says why.
    """
    if asked == "auto":
        return next(a for a in _AUTO if why_not(a, place, head_dims, documents) is None)
    reason = why_not(Attention(asked), place, head_dims, documents)
    if reason is not None:
        fits = choose(place, "auto", head_dims, documents)
        raise ValueError(
            f"hardware.attention={asked} can't run here: it {reason}. "
            f"hardware.attention=auto would take {fits}"
        )
    return Attention(asked)


def choose_cross_entropy(device: str, asked: str) -> CrossEntropy:
    """Turn what was asked into the implementation of the loss that will run.

    Raises:
        ValueError: one that can't run here; says why.
    """
    implementation, reason = CrossEntropy(asked), None
    if implementation is CrossEntropy.LIGER and device != "cuda":
        reason = f"needs device cuda, this is {device}"
    elif implementation is CrossEntropy.LIGER and package_version("liger-kernel") is None:
        reason = f"needs the package liger-kernel, which is not installed: {INSTALL} says how"
    if reason is not None:
        raise ValueError(
            f"hardware.cross_entropy={asked} can't run here: it {reason}. "
            f"hardware.cross_entropy={CrossEntropy.CHUNKED} runs everywhere"
        )
    return implementation


def package_version(package: str) -> str | None:
    """Version of an installed package, without importing it; None where it is absent."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _refused_head(
    implementation: Attention, place: Place, head_dims: Collection[int], documents: bool
) -> str | None:
    needs = NEEDS[implementation]
    multiple, most = needs.head_dim_multiple, needs.head_dim_max
    if implementation is Attention.SDPA_EFFICIENT:  # its rows are whole pieces of 16 bytes
        multiple = 4 if place.dtype == "float32" else 8
    if implementation is Attention.SDPA_FLASH and documents:  # else torch pads the heads itself
        multiple = 8
    on_blackwell = place.capability is not None and place.capability[0] == 10
    if implementation in (Attention.FA4, Attention.SDPA_FA4) and on_blackwell:
        most = 128
    bad = sorted(k for k in head_dims if k % multiple or k > most)
    if not bad:
        return None
    wanted = f"a multiple of {multiple} up to" if multiple > 1 else "at most"
    return f"needs head_dim (d_model / n_head) {wanted} {most}, not {bad[0]}"


def _or(names: Collection[str]) -> str:
    return " or ".join(names)


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))
