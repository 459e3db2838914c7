"""Peaks, MFU, and what a board's meter tells: nothing is guessed, nothing above 1 passes unseen."""

import math
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers_cells import CPU, tiny_cell

from models.flops import FlopRule, flops_per_token
from models.hardware import PEAKS, TF32, find_peak, mfu, suspects
from sweep.device import describe, measure_matmul_peak, open_device
from sweep.measure import Measurements, measured_columns
from sweep.nvml import BoardReading, energy_of, read_board

UNKNOWN = math.nan


@pytest.mark.parametrize(
    ("board", "watts", "bf16", "tf32"),
    [  # dense TFLOP/s, as the field uses them
        ("NVIDIA A100-SXM4-80GB", 400, 312, 156),
        ("NVIDIA A100-SXM4-40GB", UNKNOWN, 312, 156),
        ("NVIDIA A100 80GB PCIe", 300, 312, 156),
        ("NVIDIA A100-PCIE-40GB", 250, 312, 156),
        ("NVIDIA H100 80GB HBM3", 700, 989.4, 494.7),
        ("NVIDIA H100 80GB HBM3", 500, 989.4, 494.7),  # throttled: the board's peak is the same
        ("NVIDIA H100 PCIe", 350, 756, 378),
        ("NVIDIA H100 NVL", 400, 835.5, 417.5),
        ("NVIDIA H200", 700, 989.4, 494.7),
        ("NVIDIA H200 NVL", 600, 835.5, 417.5),
        ("NVIDIA L40S", 350, 362.05, 183),
        ("NVIDIA A10", 150, 125, 62.5),
        ("NVIDIA GeForce RTX 4090", 450, 165.2, None),
        ("NVIDIA B200", 1000, 2250, 1100),
        ("NVIDIA GB200", 1200, 2500, 1250),
    ],
)
def test_peaks_are_the_dense_ones_of_the_very_board(board, watts, bf16, tf32):
    assert find_peak(board, "bfloat16", watts).flops == bf16 * 1e12
    of_tf32 = find_peak(board, TF32, watts)
    assert (of_tf32 and of_tf32.flops) == (tf32 and tf32 * 1e12)
    assert find_peak(board, "float32", watts) is None


@pytest.mark.parametrize(
    ("board", "watts"),
    [
        ("NVIDIA A10G", UNKNOWN),
        ("NVIDIA A100", UNKNOWN),  # no driver says that
        ("NVIDIA H100", UNKNOWN),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 150),
        ("NVIDIA GeForce RTX 4090 D", 425),
        ("NVIDIA B200", UNKNOWN),  # sold at several powers
        ("NVIDIA B200", 1200),
        ("NVIDIA H100 PCIe", 700),  # not the PCIe board of the datasheet
        ("NVIDIA B300 SXM6 AC", 1100),
        ("NVIDIA GH200 480GB", 700),
        ("AMD EPYC", UNKNOWN),
        ("", UNKNOWN),
    ],
)
def test_another_board_has_no_peak(board, watts):
    assert find_peak(board, "bfloat16", watts) is None


def test_every_row_has_a_source_and_a_name_of_its_own():
    assert all("datasheet" in p.source or "whitepaper" in p.source for p in PEAKS)
    assert len({(p.board, p.dtype) for p in PEAKS}) == len(PEAKS)
    by_board = {p.board: p.flops for p in PEAKS if p.dtype == "bfloat16"}
    for p in PEAKS:
        if p.dtype == TF32:
            assert by_board[p.board] / p.flops == pytest.approx(2, rel=0.03)


def device_columns(peak: float, measured: float = 1e12, n: int = 1) -> dict:
    return {"n_device": n, "peak_flops": peak, "measured_peak_flops": measured}


def measured(step_seconds: float, warm_seconds: float = 9.0, peak: float = 1e12) -> Measurements:
    m = Measurements(started_at="", matmul_peak=peak)
    for step in range(1, 21):
        m.add_step(2.0, warm_seconds if step <= 5 else step_seconds, step, 20)
    return m


def test_mfu_is_palm_flops_of_the_median_step_over_the_peak_and_whole_run_apart():
    cell = tiny_cell(20)
    per_step = cell.batch_tokens * flops_per_token(cell.model, FlopRule.PALM)
    columns = measured_columns(measured(0.5), cell, device_columns(peak=4 * per_step))
    assert columns["mfu"] == pytest.approx(0.5)
    assert columns["mfu_whole_run"] == pytest.approx(20 / (5 * 9 + 15 * 0.5) / 4)
    assert columns["tokens_per_second"] == pytest.approx(cell.batch_tokens / 0.5)
    assert columns["suspect"] is None
    two = measured_columns(measured(0.5), cell, device_columns(peak=4 * per_step, n=2))
    assert two["mfu"] == pytest.approx(0.25)  # two boards could do twice as much


def test_a_board_without_a_datasheet_has_only_the_measured_ratio():
    cell = tiny_cell(20)
    per_step = cell.batch_tokens * flops_per_token(cell.model, FlopRule.PALM)
    columns = measured_columns(measured(0.5, peak=8 * per_step), cell, device_columns(UNKNOWN))
    assert math.isnan(columns["mfu"])
    assert math.isnan(columns["mfu_whole_run"])
    assert columns["mfu_of_measured_peak"] == pytest.approx(0.25)


def test_a_ratio_above_1_is_kept_and_named():
    cell = tiny_cell(20)
    per_step = cell.batch_tokens * flops_per_token(cell.model, FlopRule.PALM)
    columns = measured_columns(measured(0.5), cell, device_columns(peak=per_step))
    assert columns["mfu"] == pytest.approx(2.0)
    assert columns["suspect"] == "mfu = 2"
    assert suspects({"a": math.nan, "b": 1.0, "c": 1.001}) == "c = 1"
    assert mfu(100, 6e9, 312e12) == pytest.approx(6e11 / 312e12)


def test_the_matmul_peak_is_taken_as_the_run_is_set_up():
    device = open_device(CPU)
    columns = describe(device)
    assert (columns["dtype"], columns["n_device"], columns["compiled"]) == ("float32", 1, False)
    assert columns["deterministic"] is True
    assert columns["matmul_precision"] in ("highest", "high", "medium")
    assert columns["device_memory_bytes"] > 1e8
    assert columns["peak_source"] is None
    assert measure_matmul_peak(device, seconds=0.05) > 1e8


# what a GPU lacks, told by torch's answers about one that is not here


@pytest.mark.parametrize(
    ("asked", "bfloat16", "said"),
    [
        ({}, False, "hardware.dtype=bfloat16, but Tesla V100 multiplies no bfloat16; try hardware.dtype=float32"),
        ({"attention": "sdpa_cudnn", "deterministic": True}, True,
         "hardware.deterministic=true, but the backward of sdpa_cudnn adds up in any order"),
        ({"ranks": 2}, True, "hardware.ranks=2, but torch sees 1 GPUs here: each rank needs one"),
        ({"attention": "sdpa_cudnn"}, True, "head_dim (d_model / n_head) a multiple of 8 up to 128, not 12"),
    ],
)  # fmt: skip
def test_what_a_gpu_lacks_is_said_before_anything_runs(asked, bfloat16, said, monkeypatch):
    answers = {
        "device_count": 1, "set_device": None, "get_device_name": "Tesla V100",
        "get_device_capability": (9, 0), "is_bf16_supported": bfloat16,
    }  # fmt: skip
    for question, answer in answers.items():
        monkeypatch.setattr(torch.cuda, question, lambda *_, a=answer, **__: a)
    widths = [12] if "not 12" in said else [64]
    hardware = replace(CPU, device="cuda", dtype="bfloat16", **asked)
    try:
        with pytest.raises(ValueError, match=re.escape(said)):
            open_device(hardware, 0, widths)
    finally:
        open_device(CPU)


# the management library


def test_without_a_driver_a_board_tells_nothing():
    reading = read_board("GPU-00000000-0000-0000-0000-000000000000")
    assert all(math.isnan(v) for v in vars(reading).values())
    assert math.isnan(energy_of(("x",)))
    assert math.isnan(energy_of(()))
    assert all(math.isnan(v) for v in vars(BoardReading()).values())


NVML = """
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory2_t;
int nvmlInitWithFlags(unsigned f) { return 0; }
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **d) {
  if (uuid[0] != 'G' || uuid[4] != 'a') return 6;
  *d = (void *)1; return 0;
}
int nvmlDeviceGetEnforcedPowerLimit(void *d, unsigned *mw) { *mw = 700000; return 0; }
int nvmlDeviceGetTotalEnergyConsumption(void *d, unsigned long long *mj) { *mj = 5000; return 0; }
int nvmlDeviceGetClockInfo(void *d, int t, unsigned *mhz) { *mhz = t == 1 ? 1755 : 1; return 0; }
int nvmlDeviceGetMaxClockInfo(void *d, int t, unsigned *mhz) { return 3; }
int nvmlDeviceGetMemoryInfo(void *d, memory_t *m) { m->total = 85899345920ULL; return 0; }
"""


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler to build a stand-in driver with")
def test_a_board_is_read_through_the_library_and_what_it_keeps_to_itself_is_nan(tmp_path):
    """The real Python bindings against a stand-in for the driver's library, in its own process."""
    pytest.importorskip("pynvml")
    source, library = tmp_path / "nvml.c", tmp_path / "libnvidia-ml.so.1"
    source.write_text(NVML)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    done = subprocess.run(
        [sys.executable, "-c", "from sweep.nvml import *; import json; "
         "print([vars(read_board(u)) for u in ('abc', 'GPU-abc', 'xyz')], energy_of(('abc', 'abc')))"],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    known = (
        "{'power_limit_watts': 700.0, 'energy_joules': 5.0, 'clock_mhz': 1755.0, "
        "'max_clock_mhz': nan, 'memory_bytes': 85899345920.0}"
    )
    unknown = "{" + ", ".join(f"'{k}': nan" for k in vars(BoardReading())) + "}"
    assert done.stdout.strip() == f"[{known}, {known}, {unknown}] 10.0"
