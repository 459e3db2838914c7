"""Each planted bug turns its named test red in a copy of the source; unpatched, all are green."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import cache_from_source
from pathlib import Path

import pytest
from planted_bugs import BUGS, PlantedBug

pytestmark = pytest.mark.slow

REPO = Path(__file__).resolve().parents[1]
COPIED = ("analysis", "conf", "models", "results", "slurm", "sweep", "tests", "pyproject.toml")


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """Return a copy of the source and its tests."""
    copy = tmp_path_factory.mktemp("copy")
    for name in COPIED:
        source = REPO / name
        if source.is_file():
            shutil.copy(source, copy / name)
        else:
            ignore = shutil.ignore_patterns("__pycache__", "reference", "golden")
            shutil.copytree(source, copy / name, ignore=ignore)
    return copy


def run_tests(copy: Path, *tests: str) -> subprocess.CompletedProcess[str]:
    """Run tests of the copy on the source of the copy."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "COV_"))}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly",
         *(f"tests/{test}" for test in tests)],
        cwd=copy,
        env={**plain, "PYTHONPATH": str(copy), "HYPOTHESIS_PROFILE": "planted"},
        capture_output=True,
        text=True,
        timeout=240,
    )  # fmt: skip


def test_there_are_ten_and_without_them_every_named_test_is_green(copy):
    assert len({bug.name for bug in BUGS}) == 10
    done = run_tests(copy, *(bug.test for bug in BUGS))
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def planted(file: Path, bug: PlantedBug) -> Iterator[None]:
    """Plant a bug and take it out again, without bytecode of another one by its name."""
    source = file.read_text()
    assert source.count(bug.was) == 1, f"the code moved: mend planted_bugs.py ({bug.name})"
    compiled = Path(cache_from_source(str(file)))
    try:
        file.write_text(source.replace(bug.was, bug.becomes))
        compiled.unlink(missing_ok=True)
        yield
    finally:
        file.write_text(source)
        compiled.unlink(missing_ok=True)


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_turns_its_test_red(copy, bug):
    with planted(copy / bug.file, bug):
        done = run_tests(copy, bug.test)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"FAILED tests/{bug.test}" in done.stdout
    assert "1 failed" in done.stdout
