"""The documents say what the code does: keys, columns, commands, links, figures."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import Field, fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from omegaconf import MISSING

from analysis.averaging import FORMS
from analysis.estimators import ESTIMATORS
from analysis.laws import LAWS
from analysis.profiles import MinimumStatus
from conf.schema import AppConf
from models.flops import FlopRule
from results.provenance import PACKAGES
from results.record import Record, column_types, describe
from sweep.arguments import FIELDS, parse
from sweep.errors import find_one
from sweep.resolve import resolve
from sweep.schedule import Schedule
from sweep.verbs import VERBS

ROOT = Path(__file__).resolve().parent.parent
DOCS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
GROUPS = (
    "grid",
    "model",
    "recipe",
    "data",
    "cluster",
    "hardware",
    "fit",
    "report",
    "plan",
    "launch",
    "status",
    "forecast",
    "run",
    "evaluate",
    "budget",
    "design",
    "export",
)
CHINCHILLA = LAWS["chinchilla"]
HOFFMANN = [1.69, 406.4, 410.7, 0.34, 0.28]  # printed in Hoffmann et al. 2022, section D.3
# The same before rounding, in the paper's TeX source.
HOFFMANN_UNROUNDED = [1.6934, np.exp(6.0073404), np.exp(6.0179186), 0.33917084, 0.2849083]
A100_HOUR = 312e12 * 0.5 * 3600


def text_of(name: str) -> str:
    return (ROOT / name).read_text()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.M | re.S)


def commands() -> Iterator[tuple[str, str]]:
    """(file, command) of every isoflop line in an sh block."""
    for path in DOCS:
        for block in blocks(path.read_text(), "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith("isoflop"):
                    yield path.relative_to(ROOT).as_posix(), line


def default_of(field: Field) -> object:
    return field.default_factory() if field.default is NO_DEFAULT else field.default


def as_written(value: object) -> str:
    """Return a default as docs/config.md writes it."""
    if value == MISSING:
        return "required"
    if isinstance(value, list):
        return f"`[{', '.join(f'{v:g}' for v in value)}]`"
    if isinstance(value, dict):
        return f"`{value}`"
    if value is None or isinstance(value, bool):
        return f"`{ {None: 'null', True: 'true', False: 'false'}[value] }`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def schema_defaults() -> dict[str, str]:
    typed = {field: key for key, field in FIELDS.items()}
    keys = {typed.get(f.name, f.name): f for f in fields(AppConf) if f.name not in GROUPS}
    for f in fields(AppConf):
        if f.name in GROUPS:
            keys |= {f"{f.name}.{sub.name}": sub for sub in fields(f.default_factory)}
    return {key: as_written(default_of(f)) for key, f in keys.items()}


def test_every_key_is_documented_with_its_default():
    row = r"^\| `([\w.]+)` \| (required|`[^|]*`) \|[^|]*\|[^|]+\|$"
    rows = re.findall(row, text_of("docs/config.md"), re.M)
    assert dict(rows) == schema_defaults()
    assert len(rows) == len(dict(rows))


def test_every_choice_of_a_group_is_documented():
    table = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", text_of("docs/config.md"), re.M))
    for folder in (p for p in (ROOT / "conf").iterdir() if p.is_dir() and p.name in GROUPS):
        choices = {p.stem for p in folder.glob("*.yaml")}
        assert choices == set(re.findall(r"`(\w+)`", table[folder.name])), folder.name


def test_every_column_of_a_record_is_documented():
    types = column_types()
    right = [f"| `{k}` | {types[k].__name__} | {doc} |" for k, doc in describe().items()]
    table = text_of("docs/files.md").split("|---|---|---|\n")[-1].strip().splitlines()
    assert len(right) == len(fields(Record))
    assert table == right, "docs/files.md should end with:\n" + "\n".join(right)


def test_every_law_is_documented_and_the_averaged_ones_are_named():
    method = text_of("docs/method.md")
    section = method.split("\n## 6. Laws\n")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.M)) == set(LAWS)
    averaged = method.split("\n## 9. ")[1].split("is averaged (")[0].split("fixed beforehand")[1]
    assert re.findall(r"`(\w+)`", averaged) == list(FORMS)


@pytest.mark.parametrize(
    ("header", "names"),
    [
        ("| `flop_rule` | FLOPs per token | source |", list(FlopRule)),
        ("| schedule | share after warm-up |", ["warm-up", *Schedule]),
        ("| `fit.estimator` | sum of |", ESTIMATORS),
        ("| status | |", list(MinimumStatus)),
    ],
)
def test_tables_of_the_method_are_complete(header, names):
    table = text_of("docs/method.md").split(header)[1].split("\n\n")[0]
    rows = re.findall(r"^\| `?([\w-]+)`? \|", table, re.M)
    assert sorted(rows) == sorted(map(str, names))


@pytest.mark.parametrize(("file", "command"), list(commands()))
def test_commands_parse(file, command):
    _, verb, *words = shlex.split(command)
    assert verb in VERBS
    args = parse(verb, words, VERBS[verb].reads)
    if args.app.cell is not None:
        find_one(args.app.cell, [cell.id for cell in resolve(args.app).grid.cells])


@pytest.mark.parametrize("verb", list(VERBS))
def test_examples_of_verbs_parse(verb):
    program, name, *words = shlex.split(VERBS[verb].example)
    assert (program, name) == ("isoflop", verb)
    args = parse(verb, words, VERBS[verb].reads)
    if args.app.cell is not None:
        find_one(args.app.cell, [cell.id for cell in resolve(args.app).grid.cells])


def test_every_verb_but_the_demo_is_shown():
    shown = {command.split()[1] for _, command in commands()}
    assert shown == set(VERBS) - {"demo"}


def anchors(path: Path) -> set[str]:
    """Anchors that GitHub gives a file's headings."""
    plain = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)
    titles = re.findall(r"^#+ (.+)$", plain, re.M)
    return {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}


@pytest.mark.parametrize("path", DOCS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path):
    plain = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", plain):
        if re.match(r"https?:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_readme_grid_of_ones_own_makes_cells(tmp_path):
    """The example file, put where the README says, is a grid with the values it states."""
    (block,) = blocks(text_of("README.md"), "yaml")
    for package in PACKAGES:  # a copy, so that no test writes into the checkout
        unneeded = shutil.ignore_patterns("__pycache__", "reference")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=unneeded)
    (tmp_path / "conf" / "grid" / "mine.yaml").write_text(block)
    words = ["plan", "grid=mine", f"data.path={tmp_path / 'sweep'}", "plan.format=json"]
    command = [sys.executable, "-m", "sweep.cli", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    cells = json.loads(done.stdout[done.stdout.index("{") :])["cells"]
    assert {c["budget"] for c in cells} == {1e16, 3e16, 1e17, 3e17}
    assert {c["seed"] for c in cells} == {0, 1}
    assert {(c["lr"], c["batch_tokens"] / c["seq_len"]) for c in cells} == {(2e-3, 64)}


class TestSlips:
    """docs/slips.md, computed again."""

    text = text_of("docs/slips.md")

    def test_loss_of_7b_on_a_trillion(self):
        assert f"**{CHINCHILLA.loss(HOFFMANN, 7e9, 1e12):.2f}**" in self.text

    def test_equal_coefficients_overspend(self):
        assert f"**{6 * 0.7 * 0.7:.2f} C**" in self.text

    def test_an_a100_hour(self):
        assert f"**{A100_HOUR:.1e}**".replace("e+17", "e17") in self.text

    def test_a_thousand_hours(self):
        N = np.sqrt(1000 * A100_HOUR / (6 * 20))
        assert f"**{N / 1e9:.1f}B on {20 * N / 1e9:.0f}B tokens**" in self.text
        assert 1000 * A100_HOUR / (6 * 300e6 * 6e9) == pytest.approx(50, rel=0.1)

    @pytest.mark.parametrize("flops", [3.15e23, 6 * 65e9 * 1.4e12])
    def test_hours_of_known_models(self, flops):
        assert f"about {round(flops / A100_HOUR, -3):,.0f}" in self.text

    def test_a_box_that_is_not_full(self):
        assert f"**{6 * 1.3e9 * 40e9:.1e}**".replace("e+20", "e20") in self.text

    @pytest.mark.parametrize(("N", "D"), [(7e9, 1e12), (70e9, 15e12)])
    def test_calculator(self, N, D):
        hours = 6 * N * D / A100_HOUR
        assert f"| {hours:,.0f} | ${2 * hours:,.0f} |" in self.text

    def test_calculator_days(self):
        hours = 6 * 7e9 * 1e12 / A100_HOUR
        assert f"{hours / 64 / 24:.1f} days | {hours / 256 / 24:.1f} days" in self.text


def test_bias_of_wide_windows_is_what_the_method_says():
    """Parabolas in log D over x2 to x16 windows, extrapolated from 1e17..1e21 to 1e24."""
    budgets, biases = np.geomspace(1e17, 1e21, 5), []
    for window in (2, 4, 8, 16):
        found = []
        for C in budgets:
            D = float(CHINCHILLA.optimum(HOFFMANN, C)[1])
            x = np.linspace(-np.log(window), np.log(window), 15)
            c2, c1, _ = np.polyfit(x, CHINCHILLA.loss(HOFFMANN, C / (6 * D * np.exp(x)), D * np.exp(x)), 2)  # fmt: skip
            found.append(np.log(D) - c1 / (2 * c2))
        line = np.polyfit(np.log(budgets), found, 1)
        D = float(CHINCHILLA.optimum(HOFFMANN, 1e24)[1])
        biases.append(100 * np.expm1(np.polyval(line, np.log(1e24)) - np.log(D)))
    assert biases == pytest.approx([-0.327, -1.301, -2.903, -5.100], abs=5e-3)
    said = "miss D_opt at 1e24 by {:.1f}, {:.1f}, {:.1f} and {:.1f}%".format(*biases)
    assert said.replace("-0.", "-.") in text_of("docs/method.md")


def test_published_constants_score_what_the_readme_says():
    folder = os.environ.get("ISOFLOP_SHARED_DATA")
    if not folder:
        pytest.skip("ISOFLOP_SHARED_DATA does not name the folder of public sweeps")
    runs = pd.read_csv(Path(folder) / "chinchilla_epoch245.csv")
    runs = runs[~runs["excluded_by_epoch"]]

    def score(constants: list[float]) -> float:
        r = np.log(CHINCHILLA.loss(constants, runs["N"], runs["D"])) - np.log(runs["loss"])
        clipped = np.clip(r, -1e-3, 1e-3)
        return float((clipped * (r - clipped / 2)).sum())

    table = {
        "printed in the Chinchilla paper": (HOFFMANN, 2),
        "the same before rounding, in the paper's source": (HOFFMANN_UNROUNDED, 2),
        "Epoch AI's refit": ([1.8172, 482.01, 2085.43, 0.3478, 0.3658], 4),
        "the minimum": ([1.81722, 477.83, 2143.4, 0.34731, 0.36717], 4),
    }
    for name, (constants, digits) in table.items():
        a = f"{CHINCHILLA.a(constants):.3f}".removeprefix("0")
        row = f"| {name} | {score(constants) * 1e3:.{digits}f}e-3 | {a} |"
        assert row in text_of("README.md")


def test_citation_has_the_version_of_the_package():
    version = re.search(r'^version = "(.+)"', text_of("pyproject.toml"), re.M).group(1)
    assert f"\nversion: {version}\n" in text_of("CITATION.cff")
    assert f"\n## {version}" in text_of("CHANGELOG.md")
