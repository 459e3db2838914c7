"""isoflop evaluate: trained cells by a command or on sets, each once, joined into what is fitted."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers_cells import CPU, MODEL, RUN, data_settings, tiny_cell, write_text

from analysis.beyond import laws_beyond
from results.store import read_records
from sweep import evaluate_command
from sweep.claim import claim
from sweep.collect import collect
from sweep.collected import sweep_points
from sweep.data_columns import with_loss_of
from sweep.errors import UsageError
from sweep.evaluate_command import command_evaluator
from sweep.evaluations import Evaluation, read_evaluations
from sweep.folder import SweepFolder
from sweep.task_columns import join_evaluations
from sweep.task_results import ResultsError, read_results

CELLS = [tiny_cell(6), tiny_cell(6, model=replace(MODEL, n_layer=1))]
STUB = """
import json, pathlib, sys
checkpoint, out, tasks, cell = sys.argv[1:]
print("evaluating", cell)
if (pathlib.Path(checkpoint) / "fail").exists():
    sys.exit("no \\x1b[31msuch model")
size = len((pathlib.Path(checkpoint) / "model.safetensors").read_bytes())
results = {t: {"alias": t, "acc,none": size % 97 / 100, "acc_stderr,none": "N/A"} for t in tasks.split(",")}
folder = pathlib.Path(out) / "model"
folder.mkdir()
(folder / "results_2026.json").write_text(json.dumps({"results": results, "config": {"limit": None}}))
"""


@pytest.fixture(scope="module")
def trained(shards, text_folder, tmp_path_factory):
    """Train two cells, one of them twice; returns the root."""
    from sweep.attempt import run_attempt
    from sweep.data import open_data
    from sweep.device import open_device

    root, asked, device = (
        tmp_path_factory.mktemp("root"),
        data_settings(text_folder),
        open_device(CPU),
    )
    data, folder = open_data(shards, asked, MODEL.seq_len), SweepFolder(root, "s")
    shutil.copytree(shards.parent, root / ".data")
    for cell in (*CELLS, CELLS[0]):
        attempt = claim(folder, cell, resume=False)
        assert run_attempt(attempt, folder, data, asked, device, RUN).status == "finished"
        attempt.release()
    return root


@pytest.fixture
def folder(trained, tmp_path):
    """Return a copy of that sweep."""
    shutil.copytree(trained, tmp_path / "root")
    return SweepFolder(tmp_path / "root", "s")


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """Return a command, and the cells whose export is to be refused or to fail in it.

    The export itself has its own tests: here it writes a file whose size is the cell's own.
    """
    (tmp_path / "my stub.py").write_text(STUB)
    bad: dict[str, str] = {}

    def export(target, out: Path) -> None:
        if bad.get(target.cell_id) == "export":
            raise evaluate_command.NotEvaluated("it can't be exported: no stock form")
        out.mkdir()
        (out / "model.safetensors").write_bytes(bytes(1000 + len(target.cell_id) + target.attempt))
        if bad.get(target.cell_id) == "command":
            (out / "fail").touch()

    monkeypatch.setattr(evaluate_command, "export", export)
    words = f"'{sys.executable}' '{tmp_path}/my stub.py' {{checkpoint}} {{out}} {{tasks}} {{cell}}"
    return words, bad


# by a command


def test_every_cell_is_evaluated_once_and_its_numbers_are_columns(folder, stub, command):
    words, _ = stub
    asked = ("evaluate", f"root={folder.root}", "sweep=s", f"evaluate.command={words}",
             "evaluate.tasks=[arc,piqa]")  # fmt: skip
    code, out, err = command(*asked)
    assert code == 0, err
    assert out.count("arc/acc") == 2  # results of cells, no rerun
    assert "2 evaluations are new" in out
    code, out, _ = command(*asked)
    assert code == 0
    assert out.count("done before") == 2
    found = read_evaluations(folder)
    assert {(e.cell_id, e.attempt) for e in found} == {(cell.id, 0) for cell in CELLS}
    one = found[0]
    assert one.asked["tasks"] == ["arc", "piqa"]
    assert one.counted == ("arc", "piqa")
    log = folder.cell(one.cell_id) / "0" / "evaluations"
    assert f"evaluating {one.cell_id}" in next(log.glob("*/log.txt")).read_text()
    assert not list(log.glob("*/checkpoint"))
    assert list(log.glob("*/out/model/results_2026.json"))
    code, out, _ = command("collect", f"root={folder.root}", "sweep=s")
    assert code == 0
    assert "task_accuracy of 2 attempts: mean over arc, piqa." in out
    rows = read_records(folder.collected)
    results = rows[rows["attempt"] == 0]
    assert np.allclose(results["task_error"], 1 - results["task_accuracy"])
    assert rows.loc[rows["attempt"] == 1, "task_accuracy"].isna().all()
    assert rows["task_loss"].isna().all()
    assert json.loads(results["tasks"].iloc[0]) == one.found
    other = sweep_points(folder, "flops").other
    assert other["task_error"].notna().all()


def test_one_that_fails_has_its_line_and_the_others_go_on(folder, stub, command):
    words, bad = stub
    a, b = (cell.id for cell in CELLS)
    asked = ("evaluate", f"root={folder.root}", "sweep=s", f"evaluate.command={words}",
             "evaluate.tasks=[arc]")  # fmt: skip
    bad |= {a: "export", b: "command"}
    code, out, err = command(*asked)
    assert (code, err) == (1, "")
    assert f"{a}  arc: not evaluated: it can't be exported: no stock form" in out
    assert f"{b}  arc: not evaluated: the command ended with exit 1: no [31msuch model; its" in out
    del bad[a]
    (folder.cell(b) / "0" / "checkpoint" / "state.pt").unlink()
    code, out, _ = command(*asked)
    assert code == 1
    assert "1 evaluations are new, 1 did not work" in out
    assert f"{b}  arc: not evaluated: its model was not kept" in out
    assert [e.cell_id for e in read_evaluations(folder)] == [a]


def test_another_command_or_another_model_is_another_evaluation(folder, stub, command):
    words, _ = stub
    where = ("evaluate", f"root={folder.root}", "sweep=s", f"cell={CELLS[0].id}")
    assert command(*where, f"evaluate.command={words}", "evaluate.tasks=[arc]")[0] == 0
    assert command(*where, f"evaluate.command={words}", "evaluate.tasks=[piqa]")[0] == 0
    assert len(read_evaluations(folder)) == 2
    state = folder.cell(CELLS[0].id) / "0" / "checkpoint" / "state.pt"
    state.write_bytes(state.read_bytes() + b"0")
    assert command(*where, f"evaluate.command={words}", "evaluate.tasks=[piqa]")[0] == 0
    assert len(read_evaluations(folder)) == 3


def test_who_holds_a_cell_s_evaluation_is_left_alone(folder, stub, command):
    from slurm.lease import try_take

    words, _ = stub
    asked = ("evaluate", f"root={folder.root}", "sweep=s", f"evaluate.command={words}",
             "evaluate.tasks=[arc]", f"cell={CELLS[0].id}")  # fmt: skip
    assert command(*asked)[0] == 0
    (record,) = folder.evaluations.iterdir()
    record.unlink()
    (work,) = (folder.cell(CELLS[0].id) / "0" / "evaluations").iterdir()
    lease = try_take(work)
    code, out, _ = command(*asked)
    lease.release()
    assert code == 0
    assert "is at it" in out
    assert not list(folder.evaluations.iterdir())


COUNT = """
import json, sys
from safetensors.numpy import load_file
weights = load_file(sys.argv[1] + "/model.safetensors")
found = {"model/parameters": sum(w.size for w in weights.values()), "model/acc": 0.5}
json.dump(found, open(sys.argv[2] + "/found.json", "w"))
"""


def test_what_the_command_sees_is_the_exported_model(folder, command, tmp_path):
    """The parameters in the checkpoint are those of the record, but for biases of zero."""
    pytest.importorskip("sweep.exporting", reason="isoflop export is not there")
    (tmp_path / "count.py").write_text(COUNT)
    code, out, err = command(
        "evaluate", f"root={folder.root}", "sweep=s", f"cell={CELLS[1].id}",
        f"evaluate.command='{sys.executable}' '{tmp_path}/count.py' {{checkpoint}} {{out}}",
    )  # fmt: skip
    assert code == 0, out + err
    rows = collect(folder).records
    row = rows[rows["cell_id"] == CELLS[1].id].iloc[0]
    biases = json.loads(row["tasks"])["model/parameters"] - row["N_total"]
    assert 0 <= biases <= 3 * MODEL.d_model  # of two norms of one layer, and the last
    assert row["task_error"] == 0.5


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], r"evaluate needs evaluate\.command="),
        (["evaluate.tasks=[a]"], r"evaluate\.tasks is read with evaluate\.command only"),
        (["evaluate.command=sh {out}"], r"evaluate\.command has no \{checkpoint\}"),
        (["evaluate.command=sh {checkpoint} {out} {model}"], r"\{model\} is unknown; it may be \{ch"),
        (["evaluate.command=sh {checkpoint.parent} {out}"], r"\{checkpoint\.parent\} is unknown"),
        (["evaluate.command=sh {checkpoint!r} {out}"], r"\{checkpoint!r\} is unknown"),
        (["evaluate.command=sh {checkpoint} {out"], r"evaluate\.command: .*write \{\{ and \}\}"),
        (["evaluate.command=sh '{checkpoint} {out}"], r"evaluate\.command: No closing quotation"),
        (["evaluate.command=sh {checkpoint} {out} {tasks}"], r"say which with evaluate\.tasks=\["),
        (["evaluate.command=sh {checkpoint} {out}", "evaluate.tasks=[a]"], r"evaluate\.tasks is not us"),
        (["evaluate.command=no-such-eval {checkpoint} {out}"], r"there is no program no-such-eval"),
        (["evaluate.command=sh {checkpoint} {out}", "hardware.device=cpu"], r"hardware\.device is read"),
        (["evaluate.command=sh {checkpoint} {out}", "cell=zzz"], r"cell=zzz is none of the 2"),
        (["eval=[{name:x,path:/no/such}]"], r"/no/such"),
        (["eval=[{name:x,path:a},{name:x,path:b}]"], r"eval: two sets are named x"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line_and_writes_nothing(trained, command, words, says):
    before = sorted(p for p in trained.rglob("*") if ".data" not in p.parts)
    code, _, err = command("evaluate", f"root={trained}", "sweep=s", *words)
    assert (code, err.count("\n")) == (2, 1), err
    assert pd.Series([err]).str.contains(says).all(), err
    assert sorted(p for p in trained.rglob("*") if ".data" not in p.parts) == before


def test_no_shell_and_no_option_of_a_path_is_seen(tmp_path):
    made = command_evaluator("sh -c 'true; $HOME' x={checkpoint},{{y}} {out}", ())
    words = made.words(type("T", (), {"cell_id": "c"})(), tmp_path / "a b; c", tmp_path / "{out}")
    assert words == ["sh", "-c", "true; $HOME", f"x={tmp_path}/a b; c,{{y}}", f"{tmp_path}/{{out}}"]


# on sets


def test_trained_cells_are_judged_on_a_set_as_training_does(folder, command, tmp_path):
    write_text(tmp_path / "news", size=30_000, seed=5)
    asked = ("evaluate", f"root={folder.root}", "sweep=s", f"eval=[{{name:news,path:{tmp_path}/news}}]",
             "hardware.device=cpu")  # fmt: skip
    code, out, err = command(*asked)
    assert code == 0, out + err
    assert out.count("nats/token") == 3  # reruns too
    assert "attempt 1  news: " in out
    assert command(*asked)[1].count("done before") == 3
    rows = collect(folder).records
    twice = rows[rows["cell_id"] == CELLS[0].id]
    sets = [json.loads(s)["news"] for s in rows["val_sets"]]
    assert {s["kind"] for s in sets} == {"extra"}
    assert all(0 < s["loss"] < np.log(128) and s["tokens"] == 4096 for s in sets)
    losses = with_loss_of(rows, "news")
    assert losses.loc[twice.index, "val_loss"].nunique() == 1  # trained to the same bits
    assert (losses["val_loss"] != rows["val_loss"]).all()
    assert set(sweep_points(folder, "flops", "news").loss) == set(losses["val_loss"])


def test_the_text_of_training_is_judged_to_the_recorded_loss(folder, command, text_folder):
    """A set that is the validation text gives the loss of the record, by the same code."""
    from sweep.data import open_data, prepare_data
    from sweep.device import open_device
    from sweep.evaluate import validate
    from sweep.evaluate_sets import _load
    from sweep.evaluation_targets import targets_of

    records, asked = read_records(folder.records), data_settings(text_folder)
    data = open_data(
        prepare_data(asked, folder.data_cache, lambda line: None), asked, MODEL.seq_len
    )
    target = targets_of(folder, records, CELLS[0].id, every=False)[0]
    trainer = _load(target, CELLS[0], data, open_device(CPU))
    recorded = records.loc[records["cell_id"] == CELLS[0].id, "val_loss"].iloc[0]
    assert validate(trainer.model, data, trainer.device).total.loss == recorded


# what a command left


def lm_eval(results, **more) -> str:
    return json.dumps({"results": results, "versions": {}, "config": {}, **more})


def test_results_of_lm_eval_are_read_by_task_and_metric(tmp_path):
    results = {
        "arc_easy": {"name": "arc_easy", "alias": "arc_easy", "sample_len": 200, "acc,none": 0.25,
                     "acc_stderr,none": 0.01, "acc_norm,none": 0.3, "acc_norm_stderr,none": "N/A"},
        "tag": {"alias": "tag", "sample_len": 40},  # no numbers of its own
        "gsm8k": {"exact_match,strict-match": 0.0, "exact_match,flexible-extract": 0.1},
        "mmlu": {"acc,none": 0.26}, "mmlu_law": {"acc,none": 0.27, " ": " "},
        "wikitext": {"bits_per_byte,none": 1.5, "word_perplexity,none": float("inf")},
    }  # fmt: skip
    groups = {"mmlu": ["mmlu_law"], "arc_easy": [], "tag": ["gsm8k"]}
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "results_1.json").write_text(lm_eval(results, group_subtasks=groups))
    (tmp_path / "m" / "samples_arc_easy_1.jsonl").write_text("{}\n")
    (tmp_path / "config.json").write_text('{"seed": "x"}')
    found = read_results(tmp_path)
    assert found.values == {
        "arc_easy/acc": 0.25, "arc_easy/acc_stderr": 0.01, "arc_easy/acc_norm": 0.3,
        "gsm8k/exact_match@strict-match": 0.0, "gsm8k/exact_match@flexible-extract": 0.1,
        "mmlu/acc": 0.26, "mmlu_law/acc": 0.27, "wikitext/bits_per_byte": 1.5,
    }  # fmt: skip
    assert found.tasks == ("arc_easy", "gsm8k", "mmlu", "wikitext")


def test_a_plain_object_of_names_and_numbers_is_read(tmp_path):
    (tmp_path / "r.json").write_text('{"mine/acc": 0.5, "mine/loss": 2, "speed": 3.5}')
    found = read_results(tmp_path)
    assert found.values == {"mine/acc": 0.5, "mine/loss": 2.0, "speed": 3.5}
    assert found.tasks == ("mine", "speed")


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "it has no JSON file"),
        ({"a.json": "{}"}, r"no results in .* \(a\.json\)"),
        ({"a.json": "[1]", "b.json": '{"x": true}'}, "no results"),
        ({"a.json": '{"t/acc": NaN}'}, "no results"),
        ({"a.json": "{"}, r"a\.json can't be read"),
        ({"a.json": "[" * 100_000}, r"a\.json can't be read"),
        (
            {"a.json": '{"t/acc": 1}', "b.json": '{"t/acc": 2}'},
            r"b\.json gives t/acc as 2, another",
        ),
    ],
)
def test_what_holds_no_results_says_so(tmp_path, files, says):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ResultsError, match=says):
        read_results(tmp_path)


# columns


def tasks_of(cell: str, found, at: int = 0, command: str = "a", counted=None) -> Evaluation:
    return Evaluation(
        cell_id=cell, attempt=0, kind="tasks", asked={"command": [command], "tasks": []},
        checkpoint_sha256="0", found=found, at=f"2026-01-01T00:00:{at:02d}", seconds=1.0, made_by={},
        counted=tuple(counted or dict.fromkeys(n.split("/")[0] for n in found)),
    )  # fmt: skip


def joined(*evaluations):
    return join_evaluations(evaluations, {(c, 0): None for c in "pqr"})


def test_means_are_over_the_tasks_that_every_evaluated_cell_has():
    got = joined(
        tasks_of("p", {"x/acc": 0.2, "y/acc": 0.4, "z/acc": 0.9, "x/loss": 3.0, "y/bpb": 1.0}),
        tasks_of("q", {"x/acc": 0.4, "y/exact_match": 0.5, "x/loss": 2.0, "w/f1": 0.1}),
        tasks_of("elsewhere", {"x/acc": 0.4}),
    )
    assert got.columns["task_accuracy"] == pytest.approx({("p", 0): 0.3, ("q", 0): 0.45})
    assert got.columns["task_error"] == pytest.approx({("p", 0): 0.7, ("q", 0): 0.55})
    assert got.columns["task_loss"] == {("p", 0): 2.0}  # q has no loss of y
    assert got.line == (
        "task_accuracy of 2 attempts: mean over x, y; not in it, since not every evaluated cell has "
        "them: z"
    )
    assert set(got.columns["tasks"]) == {("p", 0), ("q", 0)}


def test_a_group_and_its_members_are_not_both_counted():
    got = joined(tasks_of("p", {"g/acc": 0.5, "g1/acc": 0.1, "g2/acc": 0.9}, counted=["g"]))
    assert got.columns["task_accuracy"] == {("p", 0): 0.5}


def test_numbers_of_two_commands_are_never_compared():
    got = joined(
        tasks_of("p", {"x/acc": 0.2, "y/acc": 0.4}, at=1),
        tasks_of("q", {"x/acc": 0.3, "y/acc": 0.5}, at=2),
        tasks_of("p", {"x/acc": 0.8}, at=3, command="b"),
    )
    assert json.loads(got.columns["tasks"]["p", 0]) == {"x/acc": 0.8, "y/acc": 0.4}
    assert json.loads(got.columns["tasks"]["q", 0]) == {"y/acc": 0.5}
    assert got.columns["task_accuracy"] == {("p", 0): 0.4, ("q", 0): 0.5}


def test_no_shared_task_is_said():
    got = joined(tasks_of("p", {"x/acc": 0.2}), tasks_of("q", {"y/acc": 0.2}))
    assert "task_accuracy" not in got.columns
    assert got.line.startswith("task_accuracy is unknown: no task was put to every evaluated cell")
    assert joined().line is None


def test_a_set_of_training_stays_as_training_judged_it():
    new = Evaluation(cell_id="p", attempt=0, kind="set", asked={"name": "n"}, checkpoint_sha256="0",
                     found={"loss": 1.0, "se": None, "bpb": 1.0, "bpb_se": None, "tokens": 9},
                     at="2026", seconds=0.0, made_by={})  # fmt: skip
    old = {"n": {"kind": "source", "loss": 2.0}}
    got = join_evaluations([new], {("p", 0): json.dumps(old)})
    assert json.loads(got.columns["val_sets"]["p", 0]) == old
    got = join_evaluations([new], {("p", 0): None})
    assert json.loads(got.columns["val_sets"]["p", 0])["n"]["kind"] == "extra"


def test_a_damaged_evaluation_is_named(tmp_path):
    folder = SweepFolder(tmp_path, "s")
    folder.evaluations.mkdir(parents=True)
    (folder.evaluations / "c.0.abc.json").write_text('{"schema": 9}')
    with pytest.raises(UsageError, match=r"c\.0\.abc\.json is no evaluation .it has schema 9"):
        read_evaluations(folder)


def test_laws_from_loss_to_tasks_see_the_columns():
    """A planted law: error = .8 - .5 exp(-.9 L) comes out of the columns that collect writes."""
    N, D = np.meshgrid(np.geomspace(1e6, 1e8, 5), np.geomspace(1e8, 1e10, 4))
    loss = (1.7 + 400 / N**0.34 + 1400 / D**0.37).ravel()
    error = 0.8 - 0.5 * np.exp(-0.9 * loss)
    frame = pd.DataFrame({"N": N.ravel(), "D": D.ravel(), "loss": loss, "task_error": error})
    said = {b.law: b.says for b in laws_beyond({}, frame, None)}
    assert said["loss to tasks (Gadre)"].startswith("error = 0.800 - k exp(-0.900 L), off by")
