"""A model as data: the shape of one size, and the choices that a ladder shares. Imports no torch."""

from dataclasses import dataclass
from enum import StrEnum


class Positions(StrEnum):
    """How a model knows the order of its tokens."""

    ROTARY = "rotary"
    LEARNED = "learned"


class Norm(StrEnum):
    """What a block does to its input: gain x (x - mean) / sd, or gain x x / rms. No bias."""

    LAYERNORM = "layernorm"
    RMSNORM = "rmsnorm"


class MLP(StrEnum):
    """Feed-forward layer of a block; what makes their sizes comparable: `GPTConfig.mlp_width`."""

    GELU = "gelu"  # exact
    SWIGLU = "swiglu"  # Shazeer 2020, arXiv:2002.05202
    RELU2 = "relu2"  # So et al. 2021, arXiv:2109.08668


class Init(StrEnum):
    """How the weights are drawn; `GPT.init_weights` has the formulas."""

    ZERO_OUT = "zero_out"
    FAN_IN = "fan_in"
    GPT2 = "gpt2"


class Parametrisation(StrEnum):
    """How start, multipliers and steps follow a growing shape: models/parametrisation.py."""

    STANDARD = "standard"
    MUP = "mup"
    COMPLETEP = "completep"


class Attention(StrEnum):
    """Implementations of causal attention; what each needs: models/kernel_rules.py."""

    CPU_FLASH = "cpu_flash"
    SDPA_FLASH = "sdpa_flash"
    SDPA_CUDNN = "sdpa_cudnn"
    SDPA_EFFICIENT = "sdpa_efficient"
    SDPA_FA3 = "sdpa_fa3"  # the package's kernels in the place of torch's own
    SDPA_FA4 = "sdpa_fa4"
    FA2 = "fa2"  # the package called directly
    FA3 = "fa3"
    FA4 = "fa4"
    REFERENCE = "reference"


LOGITS = 2**25  # that exist at once where the loss is computed in pieces: 128 MiB in float32


class CrossEntropy(StrEnum):
    """Implementations of the loss; none changes what is asked of a cell."""

    CHUNKED = "chunked"  # plain where all logits are few
    PLAIN = "plain"
    LIGER = "liger"  # a Triton kernel


DEFAULTS_OF_EXPERTS = {
    "top_k": 2, "n_shared_expert": 0, "balance_loss": 0.01, "router_z_loss": 0.001
}  # fmt: skip
OF_EXPERTS = (*DEFAULTS_OF_EXPERTS, "granularity")  # what only a mixture of experts has


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """One size of the ladder: its shape, and the choices that all sizes share.

    With n_expert every block has a mixture of experts in the place of its MLP (models/moe.py); what
    is None of it is then filled in.

    Raises:
        ValueError: a size is not positive, heads do not divide what they share, rotary positions
            are asked for with an odd head, a coefficient is out of range, experts do not divide
            the MLP, something of experts is asked without any, or a base shape is missing or unused.
    """

    n_layer: int
    d_model: int
    n_head: int
    vocab_size: int
    seq_len: int
    positions: Positions = Positions.ROTARY
    tied: bool = False
    n_kv_head: int | None = None  # None: n_head, every query head has a key of its own
    norm: Norm = Norm.LAYERNORM
    mlp: MLP = MLP.GELU
    qk_norm: bool = False
    z_loss: float = 0.0
    init: Init = Init.ZERO_OUT
    init_scale: float = 1.0
    n_expert: int | None = None  # None: dense
    top_k: int | None = None  # experts that a token is sent to
    n_shared_expert: int | None = None  # that every token passes through besides
    granularity: int | None = None  # width of the dense MLP over that of an expert
    balance_loss: float | None = None  # weights of the router's losses
    router_z_loss: float | None = None
    parametrisation: Parametrisation = Parametrisation.STANDARD
    base_d_model: int | None = None  # width at which it is the standard one
    base_n_layer: int | None = None  # completep: the depth of that

    def __post_init__(self) -> None:
        for name in ("n_layer", "d_model", "n_head", "vocab_size", "seq_len"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.d_model % self.n_head:
            raise ValueError(
                f"n_head={self.n_head} does not divide d_model={self.d_model}; "
                f"n_head may be {_near_divisors(self.d_model, self.n_head)}"
            )
        if self.positions is Positions.ROTARY and self.head_dim % 2:
            raise ValueError(
                f"d_model={self.d_model} over n_head={self.n_head} gives head_dim={self.head_dim}; "
                "rotary positions turn pairs, so head_dim must be even"
            )
        if self.n_kv_head == self.n_head:  # the same computation has the same id
            object.__setattr__(self, "n_kv_head", None)
        if self.kv_heads < 1 or self.n_head % self.kv_heads:
            raise ValueError(
                f"n_kv_head={self.n_kv_head} does not divide n_head={self.n_head}; "
                f"n_kv_head may be {_near_divisors(self.n_head, self.kv_heads)}"
            )
        for name, low, high in (("z_loss", 0.0, 1.0), ("init_scale", 1e-3, 1e3)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(
                    f"{name}={getattr(self, name):g} must lie between {low:g} and {high:g}"
                )
        self._check_experts()
        self._check_base()

    def _check_experts(self) -> None:
        """Fill in what is not said of experts, and refuse what makes none."""
        if self.n_expert is None:
            said = [name for name in OF_EXPERTS if getattr(self, name) is not None]
            if said:
                raise ValueError(
                    f"{said[0]}={getattr(self, said[0])} is of experts, and a dense model has none: "
                    "set n_expert, or leave it out"
                )
            return
        for name, value in DEFAULTS_OF_EXPERTS.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        for name, least in (("n_expert", 1), ("top_k", 1), ("n_shared_expert", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}")
        if self.top_k > self.n_expert:
            raise ValueError(
                f"top_k={self.top_k} is more than n_expert={self.n_expert}: a token is sent to "
                "some of the experts, or to all"
            )
        if self.granularity is None:
            object.__setattr__(self, "granularity", self.top_k + self.n_shared_expert)
        if self.granularity < 1 or self.mlp_width % self.granularity:
            raise ValueError(
                f"granularity={self.granularity} (top_k + n_shared_expert where it is null) does not "
                f"divide the MLP's width {self.mlp_width} at d_model={self.d_model}; "
                f"granularity may be {_near_divisors(self.mlp_width, self.granularity)}"
            )
        for name in ("balance_loss", "router_z_loss"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name):g} must lie between 0 and 1")

    def _check_base(self) -> None:
        """Hold the base shape to the parametrisation: what it reads, and nothing that it does not."""
        kind, grows = self.parametrisation, ("mup", "completep")
        for name, readers in (("base_d_model", grows), ("base_n_layer", grows[1:])):
            value = getattr(self, name)
            if kind in readers and value is None:
                raise ValueError(
                    f"parametrisation={kind} needs model.{name}, the {name.removeprefix('base_')} at "
                    "which the recipe's numbers hold"
                )
            if kind not in readers and value is not None:
                raise ValueError(
                    f"{name}={value} is not used by parametrisation={kind}: leave it out "
                    f"(model.{name}=null where a file sets it), or model.parametrisation="
                    f"{' or '.join(readers)}"
                )
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if kind != "standard" and self.n_expert is not None:
            raise ValueError(
                f"parametrisation={kind} says nothing of routers and experts: leave out n_expert, "
                "or take model.parametrisation=standard"
            )

    @property
    def head_dim(self) -> int:
        """Width of one head, K."""
        return self.d_model // self.n_head

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values, G; each serves n_head / G query heads."""
        return self.n_head if self.n_kv_head is None else self.n_kv_head

    @property
    def mlp_width(self) -> int:
        """Numbers between the two matrices of an MLP, f.

        4 d for two matrices. SwiGLU has three, so 8/3 d rounded to the nearest multiple of 8 (a
        tie upwards; at least 8): its 3 d f parameters are within 12 d of the 8 d^2 of the others.
        """
        if self.mlp is MLP.SWIGLU:
            return max(8, (8 * self.d_model + 12) // 24 * 8)
        return 4 * self.d_model

    @property
    def expert_width(self) -> int:
        """Numbers between the two matrices of one expert; of the MLP in a dense model."""
        return self.mlp_width // (self.granularity or 1)

    @property
    def active_share(self) -> float:
        """Share of the experts that work on a token, shared ones in; 1 in a dense model."""
        if self.n_expert is None:
            return 1.0
        shared = self.n_shared_expert
        return (self.top_k + shared) / (self.n_expert + shared)

    @property
    def size_id(self) -> str:
        """Shape in words; cells that share it share a model size."""
        shape = f"L{self.n_layer}-d{self.d_model}-h{self.n_head}"
        if self.n_expert is None:
            return shape
        shared = f"s{self.n_shared_expert}" if self.n_shared_expert else ""
        return f"{shape}-e{self.n_expert}k{self.top_k}{shared}g{self.granularity}"


def _near_divisors(n: int, to: int) -> str:
    divisors = [h for h in range(1, n + 1) if n % h == 0]
    return ", ".join(map(str, sorted(sorted(divisors, key=lambda h: abs(h - to))[:3])))
