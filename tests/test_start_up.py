"""What must not be waited for: torch's compiler where nothing is compiled, and pages that were there."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers_cells import CPU, data_settings, tiny_cell

from models.config import Attention
from models.gpt import GPT
from sweep.data import open_data
from sweep.device import describe, open_device
from sweep.optimizer import AdamW, make_optimizer
from sweep.settings import HardwareSettings
from sweep.train import Trainer

TESTS = Path(__file__).parent


def run_python(code: str) -> str:
    """Run code in a process of its own, which imports what a command would."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.append({str(TESTS)!r})\n{code}"],
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_cell_is_trained_and_saved_without_torchs_compiler_or_a_tracker(
    shards, text_folder, tmp_path
):
    """Imported, it takes over a second of CPU: as long as a small cell trains."""
    code = f"""
from pathlib import Path
from helpers_cells import CPU, data_settings, tiny_cell
from sweep import checkpoint
from sweep.data import open_data
from sweep.device import open_device
from sweep.evaluate import validate
from sweep.train import Trainer
cell = tiny_cell(4)
data = open_data(Path({str(shards)!r}), data_settings({str(text_folder)!r}), cell.model.seq_len)
trainer = Trainer(cell, data.train, open_device(CPU))
trainer.train_step()
path = Path({str(tmp_path)!r}) / "state.pt"
checkpoint.save({{"trainer": trainer.state()}}, path)
trainer.restore(checkpoint.load(path)["trainer"])
validate(trainer.model, data, trainer.device)
import sweep.attempt
unneeded = ("torch._dynamo", "torch._inductor", "sympy", "transformers", "tensorboard", "wandb", "trackio")
print([m for m in unneeded if m in sys.modules])
"""
    assert run_python(code) == "[]"


def test_the_optimizer_is_torchs_own_to_the_bit():
    cell, steps = tiny_cell(4), 5
    found = []
    for kind in (None, torch.optim.AdamW):
        model = GPT(cell.model, Attention.CPU_FLASH)
        model.init_weights(0)
        ours = make_optimizer(model, cell)
        groups = [{k: g[k] for k in ("params", "lr", "weight_decay")} for g in ours.param_groups]
        optimizer = ours if kind is None else kind(groups, betas=(0.9, 0.95), eps=1e-8, fused=True)
        for step in range(steps):
            torch.manual_seed(step)
            for p in model.parameters():
                p.grad = torch.randn_like(p)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            assert all(p.grad is None for p in model.parameters())
        again = type(optimizer)(groups, fused=True)
        again.load_state_dict(optimizer.state_dict())
        assert again.state_dict()["state"].keys() == optimizer.state_dict()["state"].keys()
        found.append([p.detach() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert isinstance(make_optimizer(model, cell), AdamW)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_freed_memory_is_kept_so_that_its_pages_are_fetched_once():
    code = """
import ctypes, resource
from sweep.host_memory import keep_freed_memory
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
SIZE = 2**26
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        p = libc.malloc(SIZE); ctypes.memset(p, 1, SIZE); libc.free(p)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
first = faults()
if not hasattr(libc, "gnu_get_libc_version"): print("other libc")
else:
    assert keep_freed_memory()
    faults()
    print(first, faults())
"""
    said = run_python(code)
    if said == "other libc":
        pytest.skip("not glibc")
    before, after = map(int, said.split())
    assert before > 1000  # eight times the pages
    assert after < before / 100


@pytest.mark.parametrize("mode", ["medium", "high", "highest", "auto"])
def test_the_matmul_mode_that_is_asked_for_is_set_and_described(mode):
    try:
        device = open_device(HardwareSettings(**{**vars(CPU), "matmul_precision": mode}))
        wanted = "highest" if mode == "auto" else mode
        assert torch.get_float32_matmul_precision() == wanted
        assert describe(device)["matmul_precision"] == wanted
    finally:
        open_device(CPU)
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_matmul_mode_that_torch_does_not_have_is_refused():
    with pytest.raises(
        ValueError, match="matmul_precision=tf32 is unknown; it may be auto, highest"
    ):
        HardwareSettings(**{**vars(CPU), "matmul_precision": "tf32"})


def test_losses_under_medium_are_near_and_the_same_again(shards, text_folder):
    """A mode for speed: the same cell within what bfloat16 products do, and bitwise repeatable."""
    cell = tiny_cell(12)
    data = open_data(shards, data_settings(text_folder), cell.model.seq_len)
    losses = {}
    for name, mode in (("a", "medium"), ("b", "medium"), ("exact", "highest")):
        device = open_device(HardwareSettings(**{**vars(CPU), "matmul_precision": mode}))
        trainer = Trainer(cell, data.train, device)
        losses[name] = [trainer.train_step().item() for _ in range(12)]
    assert losses["a"] == losses["b"]
    assert losses["a"] == pytest.approx(losses["exact"], rel=0.02)
