"""make gpu-check: in words without CUDA; every check through the same code on a CPU, tiny."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers_cli import environment

ROOT = Path(__file__).parent.parent


def gpu_check(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "tests" / "gpu" / "gpu_check.py", *words],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=600,
    )  # fmt: skip


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_cuda_it_ends_with_1_and_says_what_to_do(tmp_path):
    out = tmp_path / "check.json"
    done = gpu_check("--out", str(out))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "sees no CUDA device here, so nothing was checked" in line
    assert "--device cpu" in line
    assert not out.exists()


@pytest.mark.slow
def test_every_check_runs_on_a_cpu_through_the_same_code(tmp_path):
    out = tmp_path / "check.json"
    done = gpu_check("--device", "cpu", "--backend", "aot_eager", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(out)
    report = json.loads(out.read_text())
    assert report["totals"]["failed"] == 0
    by_check: dict[str, dict] = {}
    for r in report["results"]:
        by_check.setdefault(r["check"], {})[r.get("what")] = r
    assert set(by_check) == {
        "gpu_tests", "attention", "loss", "launches", "compiled", "deterministic", "training",
    }  # fmt: skip
    assert by_check["attention"]["cpu_flash float32"]["status"] == "passed"
    assert max(by_check["attention"]["cpu_flash float32"]["errors"].values()) < 1e-5
    assert "needs device cuda" in by_check["attention"]["fa3 bfloat16"]["reason"]
    assert by_check["compiled"]["tiny"]["compile_seconds"] > 0
    assert by_check["deterministic"]["tiny, deterministic=True"]["spread"] == 0
    tiny = by_check["training"]["tiny"]
    assert tiny["losses"][1] < tiny["losses"][0]
    assert tiny["mfu_of_measured_peak"] > 0
    assert math.isnan(tiny["mfu"])  # a CPU has no datasheet peak
    if not torch.cuda.is_available():
        assert by_check["gpu_tests"]["pytest -m gpu"]["status"] == "skipped"
        assert by_check["gpu_tests"]["pytest -m gpu"]["tests"] > 50


@pytest.mark.slow
def test_a_check_that_fails_is_1_and_the_others_go_on(tmp_path):
    """A compiler that there is not: the check fails, the next one runs, the file says both."""
    out = tmp_path / "check.json"
    words = ["--device", "cpu", "--backend", "nonsense", "--only", "compiled", "training"]
    done = gpu_check(*words, "--out", str(out))
    assert done.returncode == 1
    results = json.loads(out.read_text())["results"]
    assert [r["status"] for r in results] == ["failed", "passed", "passed"]
    assert "nonsense" in results[0]["reason"]
