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

from sweep import cli
from sweep.arguments import TEXT_KEYS, _known_keys

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
@given(PAIRS, st.sampled_from(["status", "collect", "fit"]))
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
    assert set(TEXT_KEYS) <= set(_known_keys())
