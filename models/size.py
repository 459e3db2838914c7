"""What a cell trains: one size of our GPT, or of an architecture of transformers.

Both have n_layer, d_model, head_dim, vocab_size, seq_len and size_id. `models.flops` counts either,
`models.build` builds either.
"""

from models.config import GPTConfig
from models.hf_config import HFConfig

Size = GPTConfig | HFConfig
