"""What bounds a step on a GPU: kernels counted by torch, bytes and times by hand, the printed table."""

import json
import math
from dataclasses import replace

import pytest
import torch
from helpers_cli import isoflop
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import models.gpt
from models.bounds import COMPILED_SECONDS, EAGER_KERNELS, SHOWN, bounds, kernels, step_bytes
from models.config import Attention, GPTConfig
from models.flops import FlopRule, flops_per_token
from models.gpt import GPT
from models.hardware import find_peak

A100, H100, B200 = SHOWN
SMALL = GPTConfig(n_layer=2, d_model=64, n_head=2, vocab_size=256, seq_len=64)
VIEWS = ("view", "unsafe_view", "t.", "transpose", "permute", "slice", "split", "unsqueeze", "expand", "select",
         "detach", "alias", "unbind", "reshape", "as_strided", "squeeze", "empty", "promote_types")  # fmt: skip


class Counting(TorchDispatchMode):
    """Counts the operations that are kernels: not those that only look at memory anew."""

    n = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function).removeprefix("aten.").lstrip("_")
        self.n += not name.startswith(VIEWS)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("n_layer", [1, 3])
def test_eager_kernels_are_those_that_torch_dispatches(half, n_layer, monkeypatch):
    rotate = models.gpt.rotate
    monkeypatch.setattr(models.gpt, "rotate", lambda x, turn: rotate(x, turn, as_complex=False))
    model = GPT(replace(SMALL, n_layer=n_layer), Attention.CPU_FLASH)
    model.init_weights(0)
    rows = torch.randint(256, (2, 65), generator=torch.Generator().manual_seed(0))
    with Counting() as counting, torch.autocast("cpu", torch.bfloat16, enabled=half):
        model(rows[:, :-1], None, rows[:, 1:]).objective.backward()
    each, beside = EAGER_KERNELS[half]
    assert counting.n == each * n_layer + beside


def test_floors_are_flops_bytes_and_launches_over_their_rates():
    tokens = 32_768
    fixed, each = step_bytes(SMALL, half=True)
    got = bounds(SMALL, tokens, A100)
    assert got.matmul == tokens * flops_per_token(SMALL, FlopRule.PALM) / 312e12
    assert got.memory == (fixed + tokens * each) / 2.039e12
    assert got.launch == kernels(SMALL, True, True) * COMPILED_SECONDS
    # 58 bytes a parameter. 5 x 2 bytes of 2 layers x (5 d + 3 d + 2 d + 8 d) + 2 d; 20 a logit.
    assert fixed == 58 * (2 * 256 * 64 + 2 * 12 * 64**2 + 5 * 64)
    assert each == 10 * (2 * 18 * 64 + 2 * 64) + 20 * 256


@settings(max_examples=60)
@given(
    n_layer=st.integers(1, 40), heads=st.integers(1, 32), tokens=st.integers(256, 2**22),
    half=st.booleans(), compiled=st.booleans(), board=st.sampled_from(SHOWN),
)  # fmt: skip
def test_launches_bound_a_step_exactly_below_its_free_tokens(
    n_layer, heads, tokens, half, compiled, board
):
    cfg = replace(SMALL, n_layer=n_layer, n_head=heads, d_model=64 * heads)
    got = bounds(cfg, tokens, board, half, compiled)
    assert got.floor == max(got.matmul, got.memory, got.launch) > 0
    if not math.isclose(tokens, got.free_tokens, rel_tol=1e-9):
        assert (got.by == "launch") == (tokens < got.free_tokens)
    assert bounds(cfg, 2 * tokens, board, half, compiled).floor >= got.floor
    assert kernels(cfg, half, compiled=True) < kernels(cfg, half, compiled=False)


def test_every_board_has_a_peak_and_a_source():
    for board in SHOWN:
        assert "datasheet" in board.source
        assert find_peak(board.board, "bfloat16", board.max_watts).flops == board.flops
        assert board.bytes_per_second > 1e12
    assert bounds(SMALL, 1024, H100).matmul < bounds(SMALL, 1024, A100).matmul
    with pytest.raises(ValueError, match="no datasheet peak of NVIDIA X in bfloat16"):
        bounds(SMALL, 1024, replace(B200, board="NVIDIA X"))


def test_a_plan_prints_bounds_of_each_size_and_where_launches_end(tmp_path):
    words = [
        "grid=single_gpu",
        f"data.path={tmp_path}",
        f"root={tmp_path / 'out'}",
        "plan.bounds=true",
    ]
    said = isoflop("plan", *words)
    assert said.returncode == 0, said.stderr
    assert "L12-d768-h12" in said.stdout
    assert "B200: bound by launches up to" in said.stdout
    rows = json.loads(isoflop("plan", *words, "plan.format=json").stdout)["bounds"]
    assert [b["board"] for b in rows[0]["boards"]] == [b.board for b in SHOWN]
    for row in rows:
        for board in row["boards"]:
            assert board["floor"] == board[board["by"]]
    eager = json.loads(
        isoflop("plan", *words, "plan.format=json", "hardware.compile=false").stdout
    )["bounds"]
    assert all(e["kernels"] > r["kernels"] for e, r in zip(eager, rows, strict=True))
    assert not (tmp_path / "out").exists()
