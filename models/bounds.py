"""What bounds a training step on a GPU, from arithmetic: matmuls, memory, or launching kernels.

Three floors of the time of one step, each as if the other two cost nothing. A device works on all
three at once, so the largest is the floor of the step, and names what bounds it. No step is this
fast: matmuls reach no datasheet's rate, and nothing overlaps wholly. No torch here.
"""

from dataclasses import dataclass, replace

from models.boards import BOARDS, Board
from models.config import MLP, GPTConfig, Positions
from models.flops import FlopRule, count_params, flops_per_token
from models.hardware import find_peak

# Seconds that the host takes for a kernel in eager mode, and to launch one that is compiled. Not
# measured on these boards (make gpu-check measures it): round figures, of the order that is
# published for CUDA launches (2 to 6 microseconds) and for torch's eager dispatch.
EAGER_SECONDS, COMPILED_SECONDS = 10e-6, 5e-6
# Sources disagree on a B200's bandwidth (8 or 7.68 TB/s): a floor takes the larger.
SHOWN = (BOARDS["a100"], BOARDS["h100"], replace(BOARDS["b200"], bytes_per_second=8e12))
EAGER_KERNELS = {True: (67, 19), False: (41, 13)}  # of a layer and beside, by whether bfloat16
_UPDATE_KERNELS = 16  # gradient norm, clip, fused AdamW of two groups, the batch's copy


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Floors of one optimizer step on one board, in seconds."""

    board: str
    matmul: float
    memory: float
    launch: float
    free_tokens: float  # tokens of a step from which launching bounds it no more; inf: never

    @property
    def floor(self) -> float:
        """Seconds that a step takes at least."""
        return max(self.matmul, self.memory, self.launch)

    @property
    def at_once(self) -> float:
        """Cells of this size that could train at once before memory or matmuls set the pace.

        Each launches its own kernels, so with k of them on the board a step of all takes
        max(launch, k x matmul, k x memory); 1 where launches do not bound even one.
        """
        return max(1.0, self.launch / max(self.matmul, self.memory))

    @property
    def by(self) -> str:
        """What bounds the step: matmul, memory or launch."""
        times = {"matmul": self.matmul, "memory": self.memory, "launch": self.launch}
        return max(times, key=lambda name: times[name])


def bounds(
    cfg: GPTConfig, tokens: int, where: Board, half: bool = True, compiled: bool = True
) -> Bounds:
    """Compute the floors of one step.

    Args:
        cfg: the shape.
        tokens: of the step, all in one forward pass.
        where: board whose bandwidth is known.
        half: whether the forward pass is bfloat16; else float32 with TF32 matmuls.
        compiled: whether kernels are fused by torch.compile.

    Raises:
        ValueError: no datasheet peak for this board and dtype.
    """
    dtype = "bfloat16" if half else "tfloat32"
    peak = find_peak(where.board, dtype, where.max_watts)
    if peak is None:
        raise ValueError(f"no datasheet peak of {where.board} in {dtype}")
    per_token = flops_per_token(cfg, FlopRule.PALM) / peak.flops
    fixed, each = step_bytes(cfg, half)
    launch = kernels(cfg, half, compiled) * (COMPILED_SECONDS if compiled else EAGER_SECONDS)
    by_matmul = launch / per_token
    by_memory = max(0.0, launch - fixed / where.bytes_per_second) * where.bytes_per_second / each
    return Bounds(
        board=where.board,
        matmul=tokens * per_token,
        memory=(fixed + tokens * each) / where.bytes_per_second,
        launch=launch,
        free_tokens=min(by_matmul, by_memory),
    )


def step_bytes(cfg: GPTConfig, half: bool) -> tuple[float, float]:
    """Bytes that a step moves whatever its tokens, and for each token.

    Fixed, for each parameter: AdamW reads weight, gradient and two moments and writes all but the
    gradient, 28; the norm of the gradient and clipping, 12; the gradient written, and in bfloat16
    written and read before that, 4 or 8; weights read forward and backward, and in bfloat16 cast
    before that, 8 or 10. For each token: every tensor that a fused kernel hands on is written,
    read forward, read backward, and its gradient written and read, 5 x 2 or 4 bytes; logits in
    float32. Attention hands on its output alone, as FlashAttention does.
    """
    size = 2 if half else 4
    d, K, f = cfg.d_model, cfg.head_dim, cfg.mlp_width
    qkv, turned = (cfg.n_head + 2 * cfg.kv_heads) * K, (cfg.n_head + cfg.kv_heads) * K
    rotated = turned if cfg.positions is Positions.ROTARY or cfg.qk_norm else 0
    up = (2 if cfg.mlp is MLP.SWIGLU else 1) * f
    layer = 5 * d + qkv + rotated + up + f  # norms, attention's output, both sums
    per_token = 5 * size * (cfg.n_layer * layer + 2 * d) + 5 * 4 * cfg.vocab_size
    per_parameter = 28 + 12 + (8 + 10 if half else 4 + 8)
    return float(per_parameter * count_params(cfg).total), float(per_token)


def kernels(cfg: GPTConfig, half: bool, compiled: bool) -> int:
    """Count the kernels of one step of the default options, about.

    Eager, as torch dispatches them (tests/test_bounds.py counts), and one more a layer for the
    backward of attention, two kernels in one operation. Compiled, by what can be fused: a layer
    has 12 matmuls, 3 kernels of attention, and about 10 of norms, rotation, GELU and sums between
    them; in bfloat16 its 4 matrices and their gradients are cast besides.
    """
    if compiled:
        return (33 if half else 25) * cfg.n_layer + 10 + _UPDATE_KERNELS
    each, beside = EAGER_KERNELS[half]
    return (each + 1) * cfg.n_layer + beside + _UPDATE_KERNELS
