"""What serving needs: memory, a floor on latency, a price per million tokens. Standard library only."""

from dataclasses import dataclass

BYTES = {
    "float32": 4.0,
    "bfloat16": 2.0,
    "float16": 2.0,
    "float8": 1.0,
    "int8": 1.0,
    "int4": 0.5,
}  # of a weight; scales of quantised blocks left out


@dataclass(frozen=True)
class CacheShape:
    """What a KV cache is made of."""

    n_layer: int
    n_kv_head: int
    head_dim: int

    def bytes_per_token(self, bytes_each: float) -> float:
        """Count a key and a value for every layer and key head."""
        return 2 * self.n_layer * self.n_kv_head * self.head_dim * bytes_each


def weight_bytes(N: float, dtype: str) -> float:
    """Bytes of N weights."""
    return N * BYTES[dtype]


def training_bytes(N: float) -> float:
    """Bytes of weights, gradients and AdamW's two moments in float32; activations are apart."""
    return 16 * N


def largest_model(memory_bytes: float, cache_bytes: float, dtype: str) -> float:
    """Parameters that fit beside a cache; 0 where the cache alone fills the memory."""
    return max(0.0, memory_bytes - cache_bytes) / BYTES[dtype]


def seconds_to_read(read_bytes: float, bytes_per_second: float) -> float:
    """Floor on the seconds of one decoding step: all weights and caches are read once from memory."""
    return read_bytes / bytes_per_second


def seconds_to_compute(N: float, batch: float, peak: float) -> float:
    """Floor on the seconds of one decoding step: 2N FLOPs for each sequence at the full peak."""
    return 2 * N * batch / peak


def price_per_million(price_per_hour: float, tokens_per_second: float) -> float:
    """Price of a million tokens of hardware that costs so much an hour."""
    return price_per_hour / 3600 / tokens_per_second * 1e6


def tokens_per_second(N: float, flops_per_second: float) -> float:
    """Tokens a second at 2N FLOPs a token (attention scores left out)."""
    return flops_per_second / (2 * N)
