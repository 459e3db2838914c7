"""What can't be exported or judged: one line that says why and what to type, and nothing written."""

import json
import pickle
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from helpers_cells import tiny_cell
from helpers_export import BYTES, NO_FORM, Trained, asked_of, train, train_all

from sweep.attempt import Stopped
from sweep.errors import UsageError
from sweep.export_tokenizer import find_encoder
from sweep.trained import with_weights

LATER = tiny_cell(9)  # stopped in the middle


@pytest.fixture(scope="module")
def swept(tmp_path_factory, text_folder) -> Trained:
    """Train the sweep, and a cell that is not finished."""
    trained = train_all(tmp_path_factory.mktemp("swept"), text_folder)
    with pytest.raises(Stopped):
        train(trained.folder, LATER, asked_of(text_folder),
              should_stop=iter([False] * 3 + [True]).__next__)  # fmt: skip
    return trained


@pytest.fixture
def export(swept, command, tmp_path):
    """Return a function that exports a cell into `out` and says what it printed as an error."""

    def export(cell: str, *more: str, out: str = "out") -> str:
        before = set(tmp_path.iterdir())
        code, _, said = command("export", *swept.words(cell, f"out={tmp_path / out}", *more))
        assert (code, said.count("\n")) == (2, 1), said
        assert set(tmp_path.iterdir()) == before
        return said

    return export


@pytest.fixture
def weights(swept):
    """Return the checkpoint of the cell of bytes, which is brought back after the test."""
    path = swept.folder.cell(BYTES.id) / "0" / "checkpoint" / "state.pt"
    kept = path.read_bytes()
    yield path
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(kept)


def test_an_unknown_cell_is_told_the_nearest(export):
    said = export("c1e99-n1k")
    assert "cell=c1e99-n1k is none of the 4 planned cells; nearest: " in said


def test_an_unknown_sweep_is_told_to_be_named(command, tmp_path):
    code, _, said = command("export", f"root={tmp_path}", "sweep=no", "cell=c1", "out=x")
    assert code == 2
    assert "sweep=no has no cell in" in said
    assert "sweep=NAME" in said


def test_an_unfinished_cell_says_where_it_is_and_what_finishes_it(export):
    said = export(LATER.id)
    assert f"{LATER.id} has no finished attempt (stopped, at step 4 of 9)" in said
    assert f"isoflop run root={'/'}" in said
    assert f"cell={LATER.id}" in said


def test_a_folder_that_is_not_empty_is_left_alone(export, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    assert "out is not empty: name a new folder" in export(BYTES.id)
    assert (tmp_path / "out" / "mine").read_text() == "mine"
    assert "mine is a file" in export(BYTES.id, out="out/mine")


def test_a_full_disk_is_said_and_leaves_nothing(export, tmp_path):
    (small := tmp_path / "small").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        said = export(BYTES.id, out="small/out")
        assert "the disk is full, and nothing was kept; make room" in said
        assert not list(small.iterdir())
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_evaluate_says_once_why_a_cell_has_no_checkpoint(swept, command, tmp_path):
    words = [*swept.words(NO_FORM.id), "evaluate.command=true {checkpoint} {out}"]
    code, said, _ = command("evaluate", *words)
    assert code == 1
    assert said.count("can't be exported") == 1
    assert "1 did not work: typed again, they alone are tried" in said


def test_a_mix_without_an_architecture_names_the_option_and_what_would_do(export):
    said = export(NO_FORM.id)
    assert "model.mlp=swiglu has no stock architecture beside model.positions=learned" in said
    assert "model.mlp=gelu or relu2" in said


def test_weights_that_were_not_kept_say_how_to_have_them(export, weights):
    shutil.rmtree(weights.parent)
    said = export(BYTES.id)
    assert f"the weights of {BYTES.id} are gone: run.keep_checkpoints=last keeps them" in said
    assert f"cell={BYTES.id} run.keep_checkpoints=last" in said


def test_a_rerun_lends_its_weights_and_keeps_its_own_loss(swept, weights, text_folder):
    assert with_weights(swept.folder, BYTES.id).record["attempt"] == 0
    shutil.rmtree(weights.parent)
    train(swept.folder, BYTES, asked_of(text_folder))
    assert with_weights(swept.folder, BYTES.id).record["attempt"] == 1
    shutil.rmtree(swept.folder.cell(BYTES.id) / "1")
    (swept.folder.records / f"{BYTES.id}.1.parquet").unlink()


def test_a_damaged_checkpoint_is_named(export, weights):
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 255
    weights.write_bytes(content)
    assert "state.pt is damaged: train" in export(BYTES.id)


def test_a_checkpoint_of_another_cell_is_named(export, swept, weights):
    other = swept.folder.cell(NO_FORM.id) / "0" / "checkpoint" / "state.pt"
    shutil.copyfile(other, weights)
    assert f"is of step 2 of {NO_FORM.id}, not of the end of {BYTES.id}" in export(BYTES.id)


def test_another_tokenizer_than_in_training_is_refused(swept):
    finished = with_weights(swept.folder, swept.bpe.id)
    file = Path(finished.data.tokenizer) / "tokenizer.json"
    kept = file.read_text()
    file.write_text(kept + "\n")
    try:
        with pytest.raises(UsageError, match=r"is another one by now .*: bring back the files"):
            find_encoder(finished, swept.folder)
        file.unlink()
        with pytest.raises(
            UsageError, match=r"can't be had: data\.tokenizer=.* no tokenizer\.json"
        ):
            find_encoder(finished, swept.folder)
    finally:
        file.write_text(kept)


def test_bytes128_needs_the_text_that_they_were_counted_in(swept, tmp_path):
    finished = with_weights(swept.folder, BYTES.id)
    with pytest.raises(UsageError, match=r"is not prepared in .*: type isoflop prepare"):
        find_encoder(finished, replace(swept.folder, root=tmp_path))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["export", "out=x"], "export needs cell=ID and out=FOLDER"),
        (["export", "cell=c1"], "export needs cell=ID and out=FOLDER"),
        (["import"], "import needs from=FOLDER"),
        (["import", "form=x"], "form is not a key; did you mean from"),
        (["export", "from=x"], "from is not read by isoflop export"),
        (["import", "from=x", "hardware.ranks=2"], "hardware.ranks is not read by isoflop import"),
    ],
)
def test_words_that_are_missing_or_wrong(command, words, message):
    code, _, said = command(*words)
    assert (code, said.count("\n")) == (2, 1)
    assert message in said


def test_a_dry_run_says_what_it_would_write_and_writes_nothing(swept, command, tmp_path):
    words = swept.words(BYTES.id, f"out={tmp_path / 'out'}", "export.dry_run=true")
    code, said, _ = command("export", *words)
    assert code == 0
    assert "would be a Starcoder2ForCausalLM" in said
    assert "Nothing was written" in said
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def exported(swept, tmp_path_factory) -> dict[str, Path]:
    """Export two cells."""
    from sweep import cli

    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for cell in (BYTES, swept.bpe):
            out = tmp_path_factory.mktemp("exported")
            patch.setattr("sys.argv", ["isoflop", "export", *swept.words(cell.id, f"out={out}")])
            assert cli.main() == 0
            found[cell.id] = out
    return found


class TestImport:
    """Checkpoints of transformers beside the cells that they came from."""

    @pytest.fixture
    def judge(self, swept, command):
        """Return a function that imports from a folder."""
        sweep = swept.words("x")[:2]
        return lambda *words: command("import", *sweep, "hardware=cpu", *words)

    @pytest.mark.parametrize("which", ["bytes", "bpe"])
    def test_a_checkpoint_has_the_recorded_loss(self, swept, exported, judge, which):
        cell = BYTES if which == "bytes" else swept.bpe  # the second masks documents
        code, said, err = judge(f"from={exported[cell.id]}")
        assert code == 0, err
        row = json.loads(swept.folder.imports.read_text().splitlines()[-1])
        assert (row["cell_id"], row["attempt"]) == (cell.id, 0)
        assert row["val_loss"] == pytest.approx(row["recorded_val_loss"], abs=1e-5)
        assert row["val_tokens"] == with_weights(swept.folder, cell.id).record["val_tokens"]
        assert f"{cell.id}, attempt 0: recorded {row['recorded_val_loss']:.6f}" in said

    def test_a_checkpoint_that_anybody_saved_needs_the_cell(self, exported, judge, tmp_path):
        copy = shutil.copytree(exported[BYTES.id], tmp_path / "copy")
        (copy / "isoflop.json").unlink()
        assert "name the cell to judge it beside with cell=ID" in judge(f"from={copy}")[2]
        code, said, _ = judge(f"from={copy}", f"cell={BYTES.id}")
        assert code == 0
        assert "difference" in said

    def test_other_tokens_are_not_compared(self, swept, exported, judge):
        code, _, said = judge(f"from={exported[BYTES.id]}", f"cell={swept.bpe.id}")
        assert code == 2
        assert f"reads texts otherwise than {swept.bpe.id} (a document ends with 127, not" in said

    def test_a_shorter_context_is_not_compared(self, exported, judge, tmp_path):
        copy = shutil.copytree(exported[BYTES.id], tmp_path / "copy")
        config = json.loads((copy / "config.json").read_text())
        config["max_position_embeddings"] = 16
        (copy / "config.json").write_text(json.dumps(config))
        assert "reads 16 tokens of context, and rows of" in judge(f"from={copy}")[2]

    def test_no_pickle_and_no_code_of_a_model_is_ever_loaded(self, exported, judge, tmp_path):
        copy = shutil.copytree(exported[BYTES.id], tmp_path / "copy")
        (copy / "model.safetensors").unlink()
        with (copy / "pytorch_model.bin").open("wb") as f:
            pickle.dump(_Touch(tmp_path / "loaded"), f)
        code, _, said = judge(f"from={copy}")
        assert (code, said.count("\n")) == (2, 1)
        assert "never a pickle" in said
        config = json.loads((copy / "config.json").read_text())
        config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config",
                                                     "AutoModelForCausalLM": "own.Model"}}  # fmt: skip
        (copy / "config.json").write_text(json.dumps(config))
        (copy / "own.py").write_text(f"open({str(tmp_path / 'loaded')!r}, 'w')")
        code, _, said = judge(f"from={copy}")
        assert (code, said.count("\n")) == (2, 1)
        assert not (tmp_path / "loaded").exists()

    def test_weights_that_are_missing_are_not_made_up(self, exported, judge, tmp_path):
        from safetensors.torch import load_file, save_file

        copy = shutil.copytree(exported[BYTES.id], tmp_path / "copy")
        weights = load_file(copy / "model.safetensors")
        del weights["lm_head.weight"]
        save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
        assert "does not hold the weights" in judge(f"from={copy}")[2]

    def test_a_folder_that_is_no_checkpoint(self, judge, tmp_path):
        code, _, said = judge(f"from={tmp_path / 'no'}", f"cell={BYTES.id}")
        assert code == 2
        assert "is no checkpoint of transformers (it has no config.json)" in said


class _Touch:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)
