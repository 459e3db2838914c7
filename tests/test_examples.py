"""The examples of `isoflop VERB --help`, pasted one after another as a newcomer would."""

import shlex
from pathlib import Path

import pytest
from helpers_cli import isoflop

from sweep import corpus
from sweep.tokens import DataError
from sweep.verbs import VERBS

pytestmark = pytest.mark.slow
RESULTS = Path(__file__).resolve().parent.parent / "results"
IN_TURN = ("plan", "prepare", "launch", "run", "status", "logs", "cancel", "collect", "fit", "report",
           "forecast", "budget", "design", "evaluate", "export", "import")  # fmt: skip


def test_examples_of_help_work_when_pasted(tmp_path):
    """All but the demo's, which is these verbs for ten minutes (tests/cluster/test_demo.py)."""
    assert {*IN_TURN, "demo"} == set(VERBS)
    try:
        corpus.fetch(tmp_path / "outputs" / ".data" / "sources", print)
    except DataError as e:
        pytest.skip(str(e))
    (tmp_path / "results").symlink_to(RESULTS)  # as in a checkout
    (tmp_path / "news.txt").write_text(
        "The river rose in the night, and the mill stood still.\n" * 2000
    )
    for verb in IN_TURN:
        program, *words = shlex.split(VERBS[verb].example)
        done = isoflop(*words, cwd=tmp_path)
        assert (program, done.returncode) == ("isoflop", 0), f"{verb}: {done.stdout}{done.stderr}"
    assert (tmp_path / "outputs" / "smoke" / "report" / "report.html").exists()
