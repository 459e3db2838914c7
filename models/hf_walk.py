"""What the parameters of a network of transformers do, by the modules that hold them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from torch import nn
from transformers.pytorch_utils import Conv1D

_MATMULS = (nn.Linear, nn.Conv1d, Conv1D)  # Conv1D: GPT-2's linear layer, transposed
_IN_EXPERT = re.compile(r"\.experts\.\d+\.")
_ROUTER = re.compile(r"(Router|Gate|Gating)$")


class Role(StrEnum):
    """What a parameter does for one token."""

    EMBEDDING = "embedding"  # is looked up, by token
    TABLE = "table"  # is looked up otherwise, such as positions
    HEAD = "head"
    MATRIX = "matrix"  # multiplies
    EXPERT = "expert"  # multiplies the tokens that are sent to it
    REST = "rest"  # gains, biases, decays


@dataclass(frozen=True)
class Part:
    """A parameter with its role; several names of one are one."""

    name: str
    role: Role
    parameter: nn.Parameter
    guessed: bool = False  # neither a vector nor of a module that is known


def parts(net: nn.Module) -> Iterator[Part]:
    """Go through all parameters, each once."""
    embed, head = net.get_input_embeddings(), net.get_output_embeddings()
    if embed is None or head is None:
        raise ValueError(f"{type(net).__name__} has no table of tokens or no head of its own")
    owners = {
        id(p): (name, module)
        for module in net.modules()
        for name, p in module.named_parameters(recurse=False)
    }
    for name, p in net.named_parameters():
        own, module = owners[id(p)]
        if p is embed.weight:
            yield Part(name, Role.EMBEDDING, p)
        elif p is head.weight:
            yield Part(name, Role.HEAD, p)
        else:
            role = _role(name, own, module, p)
            known = role is not Role.REST or p.ndim < 2 or p.numel() == max(p.shape)
            yield Part(name, role, p, guessed=not known)


def is_tied(net: nn.Module) -> bool:
    """Whether the head shares the weights of the table of tokens."""
    return net.get_input_embeddings().weight is net.get_output_embeddings().weight


def _role(name: str, own: str, module: nn.Module, p: nn.Parameter) -> Role:
    if isinstance(module, nn.Embedding):
        return Role.TABLE
    if isinstance(module, _MATMULS) and own == "weight":
        return Role.EXPERT if _IN_EXPERT.search(name) else Role.MATRIX
    if p.ndim == 3 and getattr(module, "num_experts", None) == len(p):
        return Role.EXPERT
    if p.ndim == 2 and own == "weight" and _ROUTER.search(type(module).__name__):
        return Role.MATRIX
    return Role.REST
