"""Cells of model=hf as checkpoints: the weights that were trained, in a process without our code."""

import json
from pathlib import Path

import pytest
import torch
from helpers_archs import KEYS, size_of
from helpers_cells import tiny_cell
from helpers_export import asked_of, job, look_afresh, train
from transformers.utils import logging

from models.build import make_model
from results.store import read_record
from sweep.cell import Cell
from sweep.checkpoint import save
from sweep.exporting import export_attempt
from sweep.folder import SweepFolder
from sweep.trained import load_weights, with_weights

CELLS = {name: tiny_cell(6, model=size_of(name), lr=0.01, lr_embedding=0.01) for name in KEYS}
TEXTS = ["plain words", ""]
CLASSES = {
    "llama": "LlamaForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "mamba2": "Mamba2ForCausalLM",
    "qwen3_next": "Qwen3NextForCausalLM",
}


@pytest.fixture(scope="module")
def swept(tmp_path_factory, text_folder) -> SweepFolder:
    """Train a cell of each of five architectures."""
    folder = SweepFolder(tmp_path_factory.mktemp("swept"), "s")
    for cell in CELLS.values():
        train(folder, cell, asked_of(text_folder))
    return folder


def words(folder: SweepFolder, cell: Cell, *more: str) -> list[str]:
    return [f"root={folder.root}", f"sweep={folder.name}", f"cell={cell.id}", *more]


def trained_net(folder: SweepFolder, cell: Cell) -> torch.nn.Module:
    model = make_model(cell.model, None, None)
    model.load_state_dict(load_weights(with_weights(folder, cell.id)))
    return model.eval()


@pytest.fixture(scope="module")
def exports(swept, tmp_path_factory) -> tuple[dict[str, dict], dict[str, Path]]:
    """Export all by the command line, and look at them in one fresh process."""
    from sweep import cli

    root, jobs, out = tmp_path_factory.mktemp("exports"), [], {}
    with pytest.MonkeyPatch.context() as patch:
        for name, cell in CELLS.items():
            out[name] = root / name
            line = ["isoflop", "export", *words(swept, cell, f"out={out[name]}")]
            patch.setattr("sys.argv", line)
            assert cli.main() == 0
            jobs.append(job(trained_net(swept, cell), out[name], TEXTS))
    return dict(zip(CELLS, look_afresh(jobs, root), strict=True)), out


@pytest.mark.parametrize("name", CELLS)
def test_it_is_the_trained_model_wherever_it_is_loaded(exports, swept, name):
    found, cell = exports[0][name], CELLS[name]
    assert (found["class"], found["code_of"]) == (CLASSES[name], "transformers")
    assert found["difference"] <= 1e-5
    assert found["wrong_keys"] == 0
    record = read_record(swept.records / f"{cell.id}.0.parquet")
    assert found["numbers"] == record["N_total"]
    assert len(set(found["eos"])) == 1
    assert found["ids"][1] == []


@pytest.mark.parametrize("name", CELLS)
def test_import_finds_the_recorded_loss(exports, swept, command, name):
    sweep = words(swept, CELLS[name])[:2]
    code, _, said = command("import", *sweep, "hardware=cpu", f"from={exports[1][name]}")
    assert code == 0, said
    row = json.loads(swept.imports.read_text().splitlines()[-1])
    assert row["cell_id"] == CELLS[name].id
    assert row["val_loss"] == pytest.approx(row["recorded_val_loss"], abs=1e-5)


def test_the_card_names_the_architecture_and_its_keys(exports):
    card = (exports[1]["mixtral"] / "README.md").read_text()
    for text in ("MixtralForCausalLM", "| architecture | mixtral |", "num_local_experts",
                 "The weights are as they were trained."):  # fmt: skip
        assert text in card
    made = json.loads((exports[1]["mixtral"] / "isoflop.json").read_text())
    assert made["architecture"] == "MixtralForCausalLM"


def test_it_goes_on_by_a_command_of_its_own(exports):
    """An exported cell writes text with the cache that training has no use for."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(exports[1]["llama"])
    assert model.config.use_cache
    text = model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=4, do_sample=False)
    assert text.shape[1] <= 7


def test_writing_draws_no_progress_bar(swept, tmp_path, capfd):
    """As isoflop evaluate exports: no verb has told transformers to be quiet before."""
    logging.enable_progress_bar()
    export_attempt(with_weights(swept, CELLS["llama"].id), swept, tmp_path / "out")
    assert capfd.readouterr() == ("", "")


def test_a_dry_run_writes_nothing(swept, command, tmp_path):
    more = (f"out={tmp_path / 'out'}", "export.dry_run=true")
    code, said, _ = command("export", *words(swept, CELLS["mamba2"], *more))
    assert code == 0
    assert "would be a Mamba2ForCausalLM" in said
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_lacks_weights_is_refused(swept, command, tmp_path):
    path = swept.cell(CELLS["qwen3"].id) / "0" / "checkpoint" / "state.pt"
    kept, state = path.read_bytes(), torch.load(path, weights_only=True)
    state["trainer"]["model"].popitem()
    try:
        save(state, path)
        line = words(swept, CELLS["qwen3"], f"out={tmp_path / 'out'}")
        code, _, said = command("export", *line)
    finally:
        path.write_bytes(kept)
    assert (code, said.count("\n")) == (2, 1), said
    assert "holds other weights than" in said
    assert not list(tmp_path.iterdir())
