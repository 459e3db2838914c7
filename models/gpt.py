"""A lean decoder-only transformer: the one architecture every cell of the grid trains.

Pre-norm, LayerNorm without bias, rotary positions, exact GELU, MLP x4, no biases, no dropout.

Shape suffixes: B batch, T sequence, C d_model, H heads, K head_dim, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import attention
from models.config import Attention, GPTConfig, Positions


class SelfAttention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, cfg: GPTConfig, implementation: Attention) -> None:
        super().__init__()
        self.n_head, self.implementation = cfg.n_head, implementation
        self.qkv = nn.Linear(cfg.d_model, 3 * cfg.d_model, bias=False)
        self.out = nn.Linear(cfg.d_model, cfg.d_model, bias=False)

    def forward(self, x_BTC: Tensor, turn_TK: Tensor | None) -> Tensor:
        """(B, T, C) -> (B, T, C); `turn_TK` holds the rotary turns."""
        qkv_BT3HK = self.qkv(x_BTC).unflatten(-1, (3, self.n_head, -1))
        qk, v = qkv_BT3HK.split((2, 1), dim=2)  # the backward of a slice would fill zeros
        if turn_TK is not None:
            qk = rotate(qk, turn_TK)
        q_BTHK, k_BTHK = qk.unbind(2)
        return self.out(attention(q_BTHK, k_BTHK, v.squeeze(2), self.implementation).flatten(-2))


class Block(nn.Module):
    """x + attention(norm x), then x + MLP(norm x)."""

    def __init__(self, cfg: GPTConfig, implementation: Attention) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(cfg.d_model, bias=False)
        self.attn = SelfAttention(cfg, implementation)
        self.norm_2 = nn.LayerNorm(cfg.d_model, bias=False)
        self.up = nn.Linear(cfg.d_model, 4 * cfg.d_model, bias=False)
        self.down = nn.Linear(4 * cfg.d_model, cfg.d_model, bias=False)

    def forward(self, x_BTC: Tensor, turn_TK: Tensor | None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x_BTC = x_BTC + self.attn(self.norm_1(x_BTC), turn_TK)
        return x_BTC + self.down(F.gelu(self.up(self.norm_2(x_BTC))))


class GPT(nn.Module):
    """Token ids to logits. `init_weights(seed)` makes the start of training."""

    def __init__(self, cfg: GPTConfig, implementation: Attention) -> None:
        super().__init__()
        self.cfg = cfg
        self.embed = nn.Embedding(cfg.vocab_size, cfg.d_model)
        learned = cfg.positions is Positions.LEARNED
        self.positions = nn.Embedding(cfg.seq_len, cfg.d_model) if learned else None
        self.blocks = nn.ModuleList(Block(cfg, implementation) for _ in range(cfg.n_layer))
        self.norm = nn.LayerNorm(cfg.d_model, bias=False)
        self.head = nn.Linear(cfg.d_model, cfg.vocab_size, bias=False)
        if cfg.tied:
            self.head.weight = self.embed.weight
        if not learned:
            turn_TK = rotary(cfg.seq_len, cfg.head_dim)
            self.register_buffer("turn_TK", turn_TK, persistent=False)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """(B, T) token ids -> (B, T, V) logits, float32."""
        T = tokens_BT.size(1)
        x_BTC = self.embed(tokens_BT)
        turn_TK = self.turn_TK[:T] if self.positions is None else None
        if self.positions is not None:
            x_BTC = x_BTC + self.positions.weight[:T]
        for block in self.blocks:
            x_BTC = block(x_BTC, turn_TK)
        return self.head(self.norm(x_BTC)).float()

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Draw matrices from N(0, 1/fan_in), tables from N(0, 1/d); layers' outputs start at zero.

        A zero output makes every block the identity at first, whatever the depth. The draw comes
        from one CPU generator in the order of the modules, so it depends on the seed alone.
        """
        generator = torch.Generator().manual_seed(seed)
        for name, p in self.named_parameters():
            if p.ndim < 2:
                p.fill_(1.0)
            elif name.endswith(("out.weight", "down.weight")):
                p.zero_()
            else:
                draw = torch.empty(p.shape).normal_(0, p.size(1) ** -0.5, generator=generator)
                p.copy_(draw)


def rotary(seq_len: int, head_dim: int, base: float = 10_000.0) -> Tensor:
    """(T, 1, 1, K/2) unit complex numbers e^(i t f), RoFormer (arXiv:2104.09864), eq. 15."""
    freq = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angle = torch.outer(torch.arange(seq_len, dtype=torch.float64), freq)
    turn = torch.polar(torch.ones_like(angle), angle).to(torch.complex64)
    return turn.view(seq_len, 1, 1, head_dim // 2)


def rotate(x: Tensor, turn_TK: Tensor) -> Tensor:
    """Turn neighbouring pairs of the last dimension of (B, T, 2, H, K), one product a pair."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turn_TK).flatten(-2).type_as(x)
