"""NVIDIA's Multi-Process Service, by which processes use one GPU at the same time.

Without it a GPU gives its processes slices of time, one after another; with it their kernels run
beside each other (NVIDIA, "Multi-Process Service", sections 1.1 and 5.1).
"""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

_CONTROL = "nvidia-cuda-mps-control"
_PIPE = "CUDA_MPS_PIPE_DIRECTORY"
_SECONDS = 30.0


@contextlib.contextmanager
def shared_gpu() -> Iterator[tuple[dict[str, str], str]]:
    """Have processes that are started meanwhile share this job's GPU by MPS, where it is there.

    A service that the site has started is used as it is; else one of the job's own is started, and
    ended afterwards.

    Yields:
        Environment of the processes, and what was found, in words.
    """
    if os.environ.get(_PIPE):
        yield {}, f"MPS: the site's, at {os.environ[_PIPE]}"
        return
    if shutil.which(_CONTROL) is None:
        yield {}, f"no MPS ({_CONTROL} is not here): processes take turns on the GPU"
        return
    with tempfile.TemporaryDirectory(prefix="isoflop-mps-") as folder:
        own = {
            _PIPE: str(Path(folder) / "pipe"),
            "CUDA_MPS_LOG_DIRECTORY": str(Path(folder) / "log"),
        }
        for place in own.values():
            Path(place).mkdir()
        why = _control(["-d"], own)
        if why is not None:
            yield {}, f"no MPS ({why}): processes take turns on the GPU"
            return
        try:
            yield own, f"MPS: started, at {own[_PIPE]}"
        finally:
            _control([], own, "quit\n")


def _control(words: list[str], env: dict[str, str], text: str = "") -> str | None:
    """Run the control program; None where it worked, else why not."""
    try:
        done = subprocess.run([_CONTROL, *words], env={**os.environ, **env}, input=text,
                              capture_output=True, text=True, timeout=_SECONDS)  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as e:
        return " ".join(str(e).split())
    said = " ".join((done.stderr or done.stdout).split())[-200:]
    return None if done.returncode == 0 else said or f"exit status {done.returncode}"
