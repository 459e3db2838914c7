"""What happens between the two matrices of an MLP, alone or as one of several experts."""

import torch.nn.functional as F
from torch import Tensor

from models.config import MLP


def up_width(mlp: MLP, width: int) -> int:
    """Count the outputs of the first matrix for `width` inputs of the second."""
    return 2 * width if mlp is MLP.SWIGLU else width


def bend(mlp: MLP, x: Tensor) -> Tensor:
    """(..., up_width) -> (..., width)."""
    match mlp:
        case MLP.GELU:
            return F.gelu(x)
        case MLP.RELU2:
            return F.relu(x).square()
        case MLP.SWIGLU:
            gate, value = x.chunk(2, dim=-1)
            return F.silu(gate) * value
