"""The command line: what is wrong is said in one line with status 2, and nothing is written."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers_cli import environment, isoflop, tiny_grid

REPO = Path(__file__).resolve().parents[1]


NOTE = (
    "The data is not prepared yet"  # a plan fetches nothing, and says on stderr what it can't know
)


def tree(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


@pytest.fixture
def refused(command, tmp_path):
    """Return a function that runs what must be refused, and returns the line that says why."""

    def refused(*words: str) -> str:
        before = tree(tmp_path)
        code, out, err = command(*words)
        assert code == 2, (out, err)
        assert err.count("\n") == 1
        assert err.startswith("isoflop")
        assert "Traceback" not in out + err
        assert tree(tmp_path) == before
        return err

    return refused


BAD = [
    (["plan", "grid.budgte=1"], r"grid\.budgte is not a key; did you mean grid\.budgets"),
    (["plan", "gird=demo"], r"gird is not a key; did you mean grid"),
    (["plan", "grid=demmo"], r"grid=demmo is not a grid; it may be cluster, demo, reference, single_gpu, smoke"),
    (["lanch"], r"no such verb; did you mean launch\?"),
    (["xyzzy"], r"no such verb; it may be prepare, plan, launch"),
    (["plan", "--multirun"], r"isoFLOP grid is not"),
    (["plan", "grid.budgets=[1e3]"], r"no cells\. The first ones fell because: C=1000 L2-d12"),
    (["plan", "grid.window=1"], r"no cells\. The first ones fell because: C=1.2e\+11 L2-d12-h1: N=11k"),
    (["plan", "grid.budgets=[-1e9]"], r"grid\.budgets must lie between 1 and 1e\+30, got -1e\+09"),
    (["plan", "grid.budgets=[0]"], r"grid\.budgets must lie between .* got 0"),
    (["plan", "grid.budgets=[]"], r"grid\.budgets must lie between .* got nothing"),
    (["plan", "grid.budgets=[nan]"], r"grid\.budgets must lie between .* got nan"),
    (["plan", "grid.seeds=[-1]"], r"grid\.seeds must lie between 0"),
    (["plan", "grid.tolerance=0"], r"grid\.tolerance must lie between"),
    (["plan", "model.seq_len=0"], r"seq_len=0 must be at least 1"),
    (["plan", "model.ladder=[]"], r"model\.ladder has no sizes"),
    (["plan", "model.ladder=[{n_layer:2,d_model:10,n_head:4}]"],
     r"model\.ladder\[0\]: n_head=4 does not divide d_model=10; n_head may be"),
    (["plan", "model.ladder=[{n_layer:-2,d_model:10,n_head:1}]"], r"n_layer=-2 must be at least 1"),
    (["plan", "model.positions=sinus"], r"model\.positions=sinus is unknown; it may be rotary"),
    (["plan", "recipe.lr=1e-3"], r"recipe\.lr is not used by recipe\.rule=demo"),
    (["plan", "recipe=fixed", "recipe.batch_rows=0"], r"recipe\.batch_rows=0 must lie"),
    (["plan", "recipe=fixed", "recipe.lr=-1"], r"recipe\.lr=-1 must lie"),
    (["plan", "recipe.warmup_share=0.5"], r"recipe\.warmup_share=0\.5 must lie between 0 and 0\.1"),
    (["plan", "data.tokenizer=gpt2"], r"data\.tokenizer=gpt2 is unknown; it may be bytes256"),
    (["plan", "data=text_folder"], r"data=text_folder needs data\.path=FOLDER"),
    (["plan", "data.max_epochs=0"], r"data\.max_epochs=0 must be positive"),
    (["plan", "data.val_tokens=-5"], r"data\.val_tokens"),
    (["plan", "hardware.flops_per_second=0"], r"hardware\.flops_per_second=0 must be positive"),
    (["plan", "hardware.threads=0"], r"hardware\.threads=0 must lie between 1"),
    (["plan", "hardware.device=tpu"], r"hardware\.device=tpu is unknown; it may be auto, cpu, cuda"),
    (["plan", "plan.format=xml"], r"plan\.format=xml is unknown; it may be table or json"),
    (["plan", "sweep=../up"], r"sweep='\.\./up' must be one folder name"),
    (["plan", "cell=x"], r"cell is not read by isoflop plan"),
    (["launch", "run.evaluations=-1"], r"run\.evaluations=-1 must lie"),
    (["launch", "run.checkpoint_seconds=-1"], r"run\.checkpoint_seconds=-1 is negative"),
    (["run"], r"run needs cell=ID; list the ids with: isoflop plan"),
    (["run", "cell=3e912345"], r"cell=3e912345 is none of the \d+ planned cells; nearest: c"),
    (["run", "cell=c1.2e11"], r"cell=c1.2e11 names \d+ cells \(c1.2e11-n\S+, .*\): add characters"),
    (["run", "cell=c6", "record=none.parquet"], r"record=none\.parquet: no records in"),
    (["status"], r"sweep=demo has no plan in outputs/demo: launch it first"),
    (["collect"], r"sweep=demo: no folder outputs/demo"),
    (["fit"], r"sweep=demo"),
    (["report"], r"sweep=demo"),
    (["fit", "points=none.csv", "out=o"], r"none\.csv"),
    (["fit", "points=none.csv"], r"points=FILE needs out=FOLDER"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "message"), BAD, ids=[" ".join(w) for w, _ in BAD])
def test_a_wrong_command_is_refused_in_one_line_that_says_why(refused, words, message):
    assert re.search(message, refused(*words))


def test_a_device_that_is_not_here_is_refused(command, text_folder, tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has the device")
    words = tiny_grid(tmp_path / "root", text_folder)
    _, out, _ = command("plan", *words, "plan.format=json")
    cell = json.loads(out)["cells"][0]["cell_id"]
    code, _, err = command("run", *words, f"cell={cell}", "hardware.device=cuda")
    assert code == 2
    assert "hardware.device=cuda, but torch sees no GPU here; try hardware=cpu" in err
    assert not (tmp_path / "root" / "tiny" / "cells").exists()


# roots, folders and texts


def test_a_root_that_can_not_be_written_is_named(refused, tmp_path, text_folder):
    (tmp_path / "file").write_text("in the way")
    for root in (tmp_path / "file", tmp_path / "file" / "under", Path("/proc/isoflop")):
        for verb in ("launch", "prepare"):
            assert f"root={root}: " in refused(verb, *tiny_grid(root, text_folder))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no files"),
        ({"a.txt": b""}, "has no text: its files are empty"),
        ({"a.bin": bytes(range(256)) * 10}, "has no text: binary .* 'a.bin'"),
        ({"a.txt": b"too little"}, "too little to cut in training and validation"),
    ],
)
def test_a_folder_without_text_is_refused(command, tmp_path, files, message):
    folder = tmp_path / "empty"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    code, _, err = command("launch", *tiny_grid(tmp_path / "root", folder))
    assert code == 2
    assert err.count("\n") == 1
    assert re.search(message, err)
    written = tree(tmp_path / "root")
    assert not any("plan.parquet" in w or "records" in w or w.endswith(".bin") for w in written)


def test_too_little_text_for_D_says_how_many_epochs(command, tmp_path, text_folder):
    words = tiny_grid(tmp_path / "root", text_folder, "[1e10]", data__max_epochs=1)
    code, _, err = command("launch", *words)
    assert code == 2
    needed = re.search(r"needs D=([\d,]+) tokens, ([\d.]+) epochs of the ([\d,]+) in", err)
    D, epochs, unique = (float(g.replace(",", "")) for g in needed.groups())
    assert epochs == pytest.approx(D / unique, abs=0.01)
    assert epochs > 1
    assert "more than data.max_epochs=1 is refused" in err
    assert not (tmp_path / "root" / "tiny" / "plan.parquet").exists()
    allowed = re.search(r"data\.max_epochs=[\d.]+$", err.strip()).group()
    assert command("plan", *words, allowed)[0] == 0
    assert command("plan", *words)[0] == 2  # the text is prepared, so a plan knows as well


@pytest.mark.parametrize(
    "name", ["with space", "x=1", "~tilde", "a,b", "(1)", "ünï 😀", "3e912345"]
)
def test_paths_may_have_any_name(command, tmp_path, name):
    from helpers_cells import write_text

    folder = write_text(tmp_path / name / "text", size=30_000)
    words = tiny_grid(Path(name) / "root", folder)
    code, _, err = command("prepare", *words)
    assert (code, err) == (0, "")
    assert list((tmp_path / name / "root" / ".data").glob("text_folder-*/manifest.json"))
    code, out, err = command("plan", *words, "plan.format=json")
    assert (code, err) == (0, "")
    assert json.loads(out)["sweep"] == "tiny"


# modules of the same name


def test_a_stray_module_in_the_current_folder_does_not_matter(tmp_path):
    for name in ("models.py", "sweep.py", "results.py"):
        (tmp_path / name).write_text("raise SystemExit('stray')\n")
    (tmp_path / "analysis").mkdir()
    (tmp_path / "results").mkdir(exist_ok=True)
    before = tree(tmp_path)
    done = isoflop("plan", "grid=smoke", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr.startswith(NOTE)
    assert tree(tmp_path) == before


def test_a_stray_module_on_the_path_is_named(tmp_path):
    (tmp_path / "models.py").write_text("raise SystemExit('stray')\n")
    done = isoflop("plan", "grid=smoke", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert f"models would be imported from {tmp_path / 'models.py'}" in done.stderr
    assert "take its folder out of PYTHONPATH" in done.stderr


def test_a_plan_imports_no_torch_and_writes_nothing(tmp_path):
    code = (
        "import sys; from sweep import cli; sys.argv = ['isoflop', 'plan', 'grid=smoke']; "
        "code = cli.main(); print(sorted({'torch', 'scipy', 'matplotlib'} & set(sys.modules)));"
        "sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert tree(tmp_path) == set()


# what is right


@pytest.mark.parametrize("grid", ["demo", "smoke"])
def test_a_plan_lists_every_cell_and_what_is_left_out(command, grid):
    code, out, err = command("plan", f"grid={grid}", "plan.format=json")
    assert (code, err.startswith(NOTE), err.count("\n")) == (0, True, 1)
    plan = json.loads(out)
    code, table, _ = command("plan", f"grid={grid}")
    assert code == 0
    for cell in plan["cells"]:
        assert cell["cell_id"] in table
        assert abs(cell["flops"] / cell["budget"] - 1) <= 0.01
    for skip in plan["skipped"]:
        assert skip["reason"] in table
    budgets = {cell["budget"] for cell in plan["cells"]}
    assert len(plan["cells"]) == {"demo": 23, "smoke": 8}[grid]
    assert len(plan["cells"]) + len(plan["skipped"]) == 7 * len(budgets)
    assert plan["totals"]["flops"] == pytest.approx(sum(c["flops"] for c in plan["cells"]))


def test_a_grid_for_one_gpu_is_planned_without_one(command, text_folder):
    code, out, err = command(
        "plan", "grid=single_gpu", f"data.path={text_folder}", "plan.format=json"
    )
    assert (code, err.startswith(NOTE)) == (0, True)
    plan = json.loads(out)
    assert len(plan["cells"]) >= 15
    assert 1 < plan["totals"]["wall_hours"] < 16


def test_a_plan_names_the_model_options_that_are_not_the_defaults(command):
    assert "model:" not in command("plan", "grid=smoke")[1]
    _, table, _ = command("plan", "grid=smoke", "model.norm=rmsnorm", "model.qk_norm=true")
    assert table.startswith("model: norm=rmsnorm, qk_norm=True (the rest as in docs/config.md)\n")


def test_ranks_share_the_training_of_a_planned_cell_and_not_its_validation(command):
    words = ("plan", "grid=smoke", "hardware.token_seconds=0", "hardware.step_seconds=0")
    one, two = (
        json.loads(command(*words, "plan.format=json", f"hardware.ranks={n}")[1]) for n in (1, 2)
    )
    for alone, shared in zip(one["cells"], two["cells"], strict=True):
        assert alone["cell_id"] == shared["cell_id"]
        saved = alone["predicted_seconds"] - shared["predicted_seconds"]
        assert saved == pytest.approx(alone["flops_palm"] / 5.5e10 / 2)
        assert shared["predicted_memory_bytes"] < alone["predicted_memory_bytes"]
    hours = sum(c["predicted_seconds"] for c in two["cells"]) / 3600
    assert two["totals"]["device_hours"] == pytest.approx(2 * hours)
    table = " ".join(command(*words, "hardware.ranks=2")[1].split())
    assert "x 2 ranks that share a cell at an assumed efficiency of 1" in table


@pytest.mark.parametrize("words", [[], ["help"], ["--help"], ["plan", "--help"], ["run", "-h"]])
def test_help_is_help(command, words):
    code, out, err = command(*words)
    assert (code, err) == (0, "")
    assert "isoflop" in out


def test_hydra_prints_the_config(tmp_path):
    done = isoflop("plan", "--cfg", "job", "grid=smoke", "data.path=a=b,c (1)", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "path: a=b,c (1)" in done.stdout
    assert "name: smoke" in done.stdout
    assert tree(tmp_path) == set()


def test_an_error_of_ours_is_one_line_with_a_log(command, monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("sweep.resolve.resolve", lambda app: 1 / 0)
    code, out, err = command("plan")
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    log = Path(re.search(r"details in (\S+)", err).group(1))
    assert "ZeroDivisionError: division by zero" in err
    assert "Traceback" in log.read_text()


def test_a_reader_that_goes_away_is_no_error(tmp_path):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [Path(sys.executable).parent / "isoflop", "plan"],
        cwd=tmp_path,
        env=environment(),
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    os.close(write)
    assert done.returncode == 0
    assert "Error" not in done.stderr
