"""Fuzzed commands: done (0) or refused in one line (2), never an error of ours (1), no half files."""

import contextlib
import io
import os
import sys
import tempfile
from pathlib import Path
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.budget_laws import LAWS as BUDGET_LAWS
from conf.schema import AppConf
from sweep import cli
from sweep.arguments import TEXT_KEYS, TEXT_LISTS, Arguments, _known_keys
from sweep.budget_questions import READS
from sweep.budgeting import print_answer
from sweep.console import PlainConsole
from sweep.errors import UsageError

NUMBERS = st.one_of(
    st.integers(-3, 10**6),
    st.floats(-1e3, 1e31),
    st.sampled_from(["nan", "inf", "-inf", "0", "-0", "1e400", "1e-400", "0x10", "1_000", "007"]),
).map(str)
WORDS = st.one_of(
    st.sampled_from(
        ["null", "true", "demo", "fixed", "smoke", "text_folder", "english", "cosine", "", "{}",
         "[]", "[1e9]", "[1e9,1e9]", "{a:1}", "[{n_layer:1,d_model:8,n_head:1}]", "???",
         "${grid.name}", "${oc.env:HOME}", "[{n_layer:2,d_model:8,n_head:3}]", "[[1]]", "'x'", "a b"]
    ),
    st.text("ab01.,=[]{}()'\"\\$~ :-\n\té\0", max_size=8).map(lambda s: s.replace("\0", "")),
)  # fmt: skip
KEYS = st.one_of(
    st.sampled_from([k for k in _known_keys() if k != "root"]),
    st.sampled_from(["gird", "grid.budget", "recipe.", ".", "columns.x", "fit.fix.E", "a.b.c"]),
)
VALUES = st.one_of(NUMBERS, WORDS, st.lists(NUMBERS, max_size=3).map(lambda v: f"[{','.join(v)}]"))
PAIRS = st.lists(st.tuples(KEYS, VALUES).map("=".join), max_size=3)
SETTINGS = settings(max_examples=60)


def run(folder: Path, *words: str) -> tuple[int, str]:
    """Run a command in a folder; returns its status and what it said of errors."""
    out, err, before = io.StringIO(), io.StringIO(), Path.cwd()
    os.chdir(folder)
    try:
        with (
            mock.patch.object(sys, "argv", ["isoflop", *words]),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            return cli.main(), err.getvalue()
    finally:
        os.chdir(before)


def check(verb: str, words: list[str], allowed: tuple[int, ...]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        code, err = run(Path(folder), verb, *words)
        assert code in allowed, err
        assert "Traceback" not in err
        if code == 2:
            lines = [line for line in err.splitlines() if "not prepared yet" not in line]
            assert len(lines) == 1, err
            assert lines[0].startswith(f"isoflop {verb}: ")
            assert len(lines[0]) > len(f"isoflop {verb}: ") + 10
        left = {str(p.relative_to(folder)) for p in Path(folder).rglob("*")}
        assert not left, left


@SETTINGS
@given(PAIRS)
def test_a_plan_is_printed_or_refused(words):
    check("plan", words, (0, 2))


@SETTINGS
@given(PAIRS, st.sampled_from(["status", "collect", "fit", "export"]))
def test_verbs_that_read_a_sweep_refuse_what_is_not_there(words, verb):
    check(verb, words, (2,))


@SETTINGS
@given(PAIRS)
def test_a_launch_that_can_not_be_is_refused_before_it_writes(words):
    """The root lies under a file, so that no launch gets as far as its data."""
    with tempfile.NamedTemporaryFile() as file:
        check("launch", [*words, f"root={file.name}/root"], (2,))


@SETTINGS
@given(PAIRS, st.text("abc-.0123456789en*?[]", max_size=12))
def test_a_cell_that_is_not_there_is_refused_before_it_writes(words, cell):
    check("run", [*words, f"cell=zz{cell}"], (2,))


def test_texts_are_among_the_fuzzed_keys():
    assert {*TEXT_KEYS, *TEXT_LISTS} <= set(_known_keys())


ASKS = st.sampled_from([*READS, "nothing"]).map("budget.ask={}".format)
QUANTITIES = st.one_of(
    st.floats(-1, 1e45).map(str), st.sampled_from(["7e9", "1e12", "2e11", "0", ".5", "1", "20"])
)
OF_BUDGET = st.sampled_from([k for k in _known_keys() if k.startswith("budget.")])
ASKED = st.lists(
    st.tuples(OF_BUDGET, st.one_of(QUANTITIES, QUANTITIES, VALUES)).map("=".join), max_size=4
)


@settings(max_examples=25)
@given(ASKS, ASKED, st.sampled_from(["text", "json"]))
def test_a_budget_is_answered_or_refused(ask, words, format):
    check("budget", [ask, *words, f"budget.format={format}"], (0, 2))


@settings(max_examples=600)
@given(st.sampled_from(sorted(READS)), st.data())
def test_a_question_with_numbers_of_any_size_is_answered_or_refused(ask, data):
    """Beside Hydra, so that there can be many: nothing but UsageError comes out of an answer."""
    keys = set(READS[ask]) - {"records", "law", "hardware", "serve_hardware", "dtype"}
    app = AppConf()
    app.budget.ask = ask
    app.budget.format = "json"
    app.budget.law = data.draw(st.sampled_from([None, *BUDGET_LAWS]))
    for key in sorted(keys):
        if data.draw(st.booleans()):
            setattr(app.budget, key, data.draw(_of_key(key)))
    with contextlib.suppress(UsageError):
        print_answer(Arguments(app, ()), PlainConsole())


def _of_key(key: str) -> st.SearchStrategy:
    if key in ("gpus", "context", "batch", "n_layer", "n_kv_head", "head_dim"):
        return st.integers(1, 10**18)
    number = st.one_of(st.floats(1e-3, 1e40), st.floats(1e6, 1e13), st.floats(0, 1))
    return st.lists(number, max_size=3) if key in ("budgets", "sizes") else number
