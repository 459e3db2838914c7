"""Five architectures of transformers so small that one trains in a fraction of a second."""

from functools import cache

from models.hf_config import HFConfig, Keys, plain_json

_ATTENTION = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2}
KEYS: dict[str, Keys] = {
    "llama": {**_ATTENTION, "num_hidden_layers": 2, "intermediate_size": 88},
    "qwen3": {**_ATTENTION, "num_hidden_layers": 2, "intermediate_size": 64, "head_dim": 16},
    "mixtral": {
        **_ATTENTION,
        "num_hidden_layers": 2,
        "intermediate_size": 48,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "output_router_logits": True,
    },
    "mamba2": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_heads": 8,
        "head_dim": 8,
        "state_size": 16,
        "n_groups": 1,
        "chunk_size": 32,
    },
    "qwen3_next": {  # a gated delta net, and full attention in the second layer
        **_ATTENTION,
        "num_hidden_layers": 2,
        "layer_types": ["linear_attention", "full_attention"],
        "head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 4,
        "num_experts": 0,
        "intermediate_size": 64,
    },
}


@cache
def size_of(architecture: str, seq_len: int = 32, vocab_size: int = 128) -> HFConfig:
    """Count one of them in this process."""
    from models.hf_count import count

    keys = KEYS[architecture]
    return HFConfig(
        architecture=architecture,
        config=plain_json(keys),
        vocab_size=vocab_size,
        seq_len=seq_len,
        counts=count(architecture, keys, vocab_size, seq_len),
    )
