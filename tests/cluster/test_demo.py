"""The demo's grid on eight fake GPUs, from one command to its report."""

import time

import pytest

pytestmark = pytest.mark.slow


def test_the_demo_on_eight_gpus_ends_in_a_report(lab):
    """Canary, arrays, collect, fit and report, and the notification, from one command."""
    told = lab.root / "told"
    words = lab.words("demo", "grid=demo", "launch.canary=true", "launch.finish=true",
                      "run.checkpoint_seconds=20", f"launch.notify=echo {{sweep}} {{state}} > {told}")  # fmt: skip
    done = lab.isoflop("launch", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    end = time.monotonic() + 1500
    while lab.queue():
        assert time.monotonic() < end, lab.status("demo")
        time.sleep(5)
    folder = lab.folder("demo")
    assert len(lab.losses("demo")) == 23, lab.status("demo")
    assert (folder.report / "report.html").exists(), lab.logs("demo")
    assert told.read_text().split() == ["demo", "complete"]
    assert "isoflop collect" in lab.status("demo")
