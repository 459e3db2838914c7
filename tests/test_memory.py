"""What a replica needs, by arithmetic, and a micro-batch that is found by running out of memory."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers_cells import CPU, MODEL, data_settings, tiny_cell
from hypothesis import given
from hypothesis import strategies as st

from models.config import LOGITS, MLP, GPTConfig
from models.flops import count_params
from models.gpt import GPT
from sweep.data import open_data
from sweep.device import Device, check_replica, open_device
from sweep.errors import UsageError
from sweep.grid import Grid
from sweep.memory import (
    USABLE,
    memory_needed,
    nearest_that_fits,
    rows_that_fit,
    why_too_large,
    without_too_large,
)
from sweep.train import Trainer

GB = 1e9
LLAMA_7B = GPTConfig(n_layer=32, d_model=4096, n_head=32, vocab_size=32_000, seq_len=2048)
SHAPES = st.builds(
    lambda L, h, V: GPTConfig(n_layer=L, d_model=16 * h, n_head=h, vocab_size=V, seq_len=64),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(2, 100_000),
)


def test_4b_parameters_fill_80_gb_with_adamw():
    big = GPTConfig(n_layer=36, d_model=3072, n_head=24, vocab_size=32_000, seq_len=2048)
    assert memory_needed(big, 0, half=False) == pytest.approx(16 * 4.27e9, rel=0.01)
    assert why_too_large(big, half=True, memory_bytes=80 * GB)
    assert why_too_large(replace(big, n_layer=28), half=True, memory_bytes=80 * GB) is None


def test_a_refusal_says_what_is_needed_and_what_would_fit():
    reason = why_too_large(LLAMA_7B, half=True, memory_bytes=80 * GB)
    assert reason.startswith(
        "a replica needs 136 GB with one sequence at a time, of 73.6 usable GB"
    )
    smaller = nearest_that_fits(LLAMA_7B, half=True, memory_bytes=80 * GB)
    assert f"{smaller.size_id} would fit" in reason
    assert (smaller.d_model, smaller.n_head) == (4096, 32)
    assert why_too_large(replace(smaller, n_layer=smaller.n_layer + 1), True, 80 * GB)
    assert "nothing of this vocabulary would fit" in why_too_large(LLAMA_7B, True, 1e6)


@given(SHAPES, st.booleans(), st.floats(1e5, 1e12))
def test_the_nearest_that_fits_does_and_one_layer_more_does_not(cfg, half, memory):
    smaller = nearest_that_fits(cfg, half, memory)
    if smaller is None:
        return
    assert memory_needed(smaller, 1, half) <= USABLE * memory
    if smaller.n_layer < cfg.n_layer:
        assert why_too_large(replace(smaller, n_layer=smaller.n_layer + 1), half, memory)


@given(SHAPES, st.integers(1, 4096), st.booleans(), st.floats(1e5, 1e12))
def test_rows_are_halved_until_they_fit(cfg, most, half, memory):
    rows = rows_that_fit(cfg, most, half, memory)
    assert 0 <= rows <= most
    if rows:
        assert memory_needed(cfg, rows, half) <= USABLE * memory
    if rows < most:
        assert memory_needed(cfg, max(1, 2 * rows), half) > USABLE * memory


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(
    ("n_layer", "d_model", "vocab", "options"),
    [
        (2, 64, 128, {}),
        (4, 128, 128, {}),
        (2, 64, 4096, {}),
        (2, 64, 128, {"n_expert": 8}),
        (2, 64, 128, {"n_expert": 8, "top_k": 4, "granularity": 1}),
        (2, 64, 128, {"n_expert": 64, "top_k": 7, "n_shared_expert": 1, "mlp": MLP.SWIGLU}),
    ],
)
def test_what_the_backward_keeps_is_what_the_formula_says(half, n_layer, d_model, vocab, options):
    """Saved tensors are a lower bound: gradients of logits come on top of them."""
    cfg = GPTConfig(
        n_layer=n_layer, d_model=d_model, n_head=2, vocab_size=vocab, seq_len=128, **options
    )
    device = open_device(CPU)
    model = GPT(cfg, device.attention)
    model.init_weights(0)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept, alive = {}, []

    def keep(t: torch.Tensor) -> torch.Tensor:
        alive.append(t)  # so that no address is used twice
        storage = t.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return t

    rows_BT = torch.randint(0, vocab, (4, 129))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            model(rows_BT[:, :-1], None, rows_BT[:, 1:])
    predicted = memory_needed(cfg, 4, half) - memory_needed(cfg, 0, half)
    assert 0.3 < sum(kept.values()) / predicted < 1.05


def test_experts_need_the_memory_of_all_of_them():
    dense = GPTConfig(n_layer=2, d_model=64, n_head=2, vocab_size=128, seq_len=128)
    sparse = replace(dense, n_expert=64)
    resting = count_params(sparse).total - count_params(sparse).active
    more = memory_needed(sparse, 0, False) - memory_needed(dense, 0, False)
    assert 16 * resting < more < 17 * resting
    # Three heads of a granularity that two do not divide: fewer layers of three, or nothing.
    odd = replace(dense, d_model=96, n_head=3, n_expert=3, granularity=3)
    assert why_too_large(odd, False, memory_needed(odd, 1, False) / USABLE - 1)
    assert nearest_that_fits(odd, False, 1e4) is None


def test_logits_in_pieces_are_charged_once_and_plain_ones_in_full():
    cfg = GPTConfig(n_layer=2, d_model=64, n_head=2, vocab_size=50_304, seq_len=1024)
    layers = 80 * 2 * 64 * 1024
    for rows in (8, 64):
        of_rows = memory_needed(cfg, rows, False) - memory_needed(cfg, 0, False)
        assert of_rows == 16 * LOGITS + 8 * 50_304 * 64 + rows * layers
        plain = memory_needed(cfg, rows, False, False) - memory_needed(cfg, 0, False, False)
        assert plain == rows * (layers + 16 * 50_304 * 1024)
    few = replace(cfg, vocab_size=LOGITS // 8192)  # all logits of 8 rows
    assert memory_needed(few, 8, False) == memory_needed(few, 8, False, False)
    assert rows_that_fit(cfg, 64, False, 6 * GB) == 64
    assert rows_that_fit(cfg, 64, False, 6 * GB, False) == 4


def test_cells_that_do_not_fit_leave_the_grid_once_a_size_with_the_reason():
    large = replace(MODEL, n_layer=20)
    cells = tuple(tiny_cell(seed=seed, model=m) for m in (MODEL, large) for seed in (0, 1))
    grid = Grid(cells=cells, skipped=())
    assert without_too_large(grid, False, None) is grid
    memory = memory_needed(large, 1, False) / USABLE - 1
    kept = without_too_large(grid, False, memory)
    assert [cell.model for cell in kept.cells] == [MODEL, MODEL]
    (skip,) = kept.skipped
    assert skip.size_id == large.size_id
    assert skip.reason == why_too_large(large, False, memory)
    assert "L19-d16-h2 would fit" in skip.reason


def test_a_cell_that_the_machine_can_not_hold_is_refused_before_anything_is_allocated():
    device = open_device(CPU)
    with pytest.raises(UsageError, match=r"L400-d40960-h2 does not fit on .*: a replica needs"):
        check_replica(replace(MODEL, n_layer=400, d_model=40_960), 8, device)
    with pytest.raises(UsageError, match=r"set hardware\.ranks to 6 at most"):
        check_replica(MODEL, 6, open_device(replace(CPU, ranks=7)))
    check_replica(MODEL, 6, device)


WIDE = replace(MODEL, n_layer=2, d_model=64, seq_len=256)
WIDER = replace(MODEL, n_layer=4, d_model=512, seq_len=256)  # its gradients alone are 50 MB
SHORT_OF_MEMORY = """
import json, resource, sys
from pathlib import Path
from helpers_cells import CPU, data_settings, tiny_cell
from sweep.data import open_data
from sweep.device import open_device
from sweep.micro_batch import DoesNotFit, out_of_memory
from sweep.train import Trainer
import test_memory

data = open_data(Path(sys.argv[1]), data_settings(sys.argv[2]), 256)
model = getattr(test_memory, sys.argv[3])
trainer = Trainer(tiny_cell(2, model=model, batch_rows=32), data.train, open_device(CPU))
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 10_000_000, resource.RLIM_INFINITY))
while True:
    try:
        losses = [trainer.train_step().item() for _ in range(2)]
        print(json.dumps({"micro_rows": trainer.micro_rows, "losses": losses}))
        break
    except DoesNotFit as e:
        print(json.dumps({"refused": str(e)}))
        break
    except RuntimeError as e:  # what fitted twice may not fit a third time into memory in pieces
        if not out_of_memory(e) or trainer.micro_rows == 1:
            raise
        rows = trainer.micro_rows // 2  # as a job does that is tried again
    del trainer
    again = tiny_cell(2, model=model, batch_rows=32)
    trainer = Trainer(again, data.train, open_device(CPU), micro_rows=rows)
"""


def short_of_memory(shards: Path, text_folder: Path, model: str) -> dict:
    """Train under a limit 10 MB above what the process holds, 64 MB of it freed and kept."""
    done = subprocess.run(
        [sys.executable, "-c", SHORT_OF_MEMORY, str(shards), str(text_folder), model],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_micro_batch_is_halved_until_memory_suffices_and_the_batch_stays(shards, text_folder):
    data = open_data(shards, data_settings(text_folder), WIDE.seq_len)
    roomy = Trainer(tiny_cell(2, model=WIDE, batch_rows=32), data.train, open_device(CPU))
    losses = [roomy.train_step().item() for _ in range(2)]
    assert roomy.micro_rows == 32
    tight = short_of_memory(shards, text_folder, "WIDE")
    assert tight["micro_rows"] in (1, 2, 4, 8, 16)
    assert tight["losses"] == pytest.approx(losses, rel=1e-5)


def test_a_shape_is_compiled_once_though_the_search_for_a_micro_batch_meets_it_first(
    shards, text_folder, monkeypatch
):
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        time.sleep(0.2)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    monkeypatch.setattr(Device, "free_memory_bytes", lambda _: 1.5 * memory_needed(MODEL, 6, False))
    data = open_data(shards, data_settings(text_folder), MODEL.seq_len)
    try:
        whole = replace(CPU, compile="true", attention="reference")  # no break in its graph
        trainer = Trainer(tiny_cell(2), data.train, open_device(whole))
        trainer.train_step()
    finally:
        open_device(CPU)
    assert trainer.micro_rows == 6
    assert len(compiled) == 1
    assert trainer.compile_seconds > 0.2


def test_not_even_one_sequence_is_refused_in_words(shards, text_folder):
    said = short_of_memory(shards, text_folder, "WIDER")["refused"]
    assert "L4-d512-h2 ran out of memory with one sequence of 256 tokens at a time" in said
    assert "take a smaller size out of model.ladder" in said
