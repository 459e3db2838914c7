"""Choices of a model that change its law: each reaches the cell, its id, the run and the record."""

import json
import math

import pytest
from helpers_cells import tiny_cell
from helpers_cli import tiny_grid
from helpers_models import any_config
from hypothesis import given
from hypothesis import strategies as st

from models.config import OF_EXPERTS, GPTConfig
from results.store import read_records
from sweep.cell import Cell
from sweep.cells import cell_from_row, cell_to_row

LADDER = "[{n_layer:1,d_model:16,n_head:2}]"
OPTIONS = [
    {"positions": "learned"},
    {"norm": "rmsnorm"},
    {"mlp": "swiglu"},
    {"mlp": "relu2"},
    {"tied": True},
    {"n_kv_head": 1},
    {"qk_norm": True},
    {"z_loss": 1e-4},
    {"init": "fan_in"},
    {"init": "gpt2", "init_scale": 2.0},
    {"norm": "rmsnorm", "mlp": "swiglu", "n_kv_head": 1, "qk_norm": True, "z_loss": 1e-4},
]
DEFAULTS = {
    "positions": "rotary",
    "norm": "layernorm",
    "mlp": "gelu",
    "tied": False,
    "n_kv_head": None,
    "qk_norm": False,
    "z_loss": 0.0,
    "init": "zero_out",
    "init_scale": 1.0,
}


def words(root, text, option: dict) -> list[str]:
    typed = {f"model__{k}": v for k, v in option.items()}
    return tiny_grid(root, text, "[4e8]", model__ladder=LADDER, grid__probe=False, **typed)


def planned(command, root, text, option: dict) -> dict:
    code, out, err = command("plan", "plan.format=json", *words(root, text, option))
    assert code == 0, err
    (cell,) = json.loads(out)["cells"]
    return cell


# Each is trained with the faults, by make test-cluster; here the first, and several at once.
EACH = [
    pytest.param(option, marks=[pytest.mark.slow] if 0 < i < len(OPTIONS) - 1 else [])
    for i, option in enumerate(OPTIONS)
]


@pytest.mark.parametrize("option", EACH, ids=str)
def test_an_option_is_planned_trained_recorded_and_run_again(
    option, command, tmp_path, text_folder
):
    cell = planned(command, tmp_path / "a", text_folder, option)
    assert {k: cell[k] for k in DEFAULTS} == DEFAULTS | option
    assert cell["cell_id"] != planned(command, tmp_path / "a", text_folder, {})["cell_id"]
    asked = words(tmp_path / "a", text_folder, option)
    code, out, err = command("run", f"cell={cell['cell_id']}", *asked)
    assert code == 0, out + err
    records = tmp_path / "a" / "tiny" / "records"
    (row,) = read_records(records).to_dict("records")
    assert row["status"] == "finished"
    assert 0.5 < row["val_loss"] < math.log(128) - 0.5
    assert row["cross_entropy"] == "chunked"
    assert row["attention"] == "cpu_flash"
    assert cell_from_row(row).id == cell["cell_id"]
    code, out, err = command("run", f"cell={cell['cell_id']}", *asked)
    assert "equal to the bit" in out


@given(any_config(longest=500), st.integers(1, 999))
def test_any_model_goes_through_a_row_and_back(cfg: GPTConfig, steps: int):
    cell = tiny_cell(steps, model=cfg)
    assert cell_from_row(cell_to_row(cell)) == cell


def test_rows_written_before_there_were_options_still_name_their_cells():
    cell = tiny_cell()
    later = {"norm", "mlp", "n_kv_head", "qk_norm", "z_loss", "init", "init_scale", *OF_EXPERTS,
             "n_expert", "active_share"}  # fmt: skip
    row = {k: v for k, v in cell_to_row(cell).items() if k not in later}
    assert cell_from_row(row) == cell


def test_every_option_is_in_the_id_only_where_it_is_not_the_default():
    def id_of(**option) -> str:
        shape = {"n_layer": 2, "d_model": 16, "n_head": 2, "vocab_size": 128, "seq_len": 32}
        cell: Cell = tiny_cell(model=GPTConfig(**shape, **option))
        return cell.id

    assert id_of(n_kv_head=2) == id_of(n_kv_head=None) == id_of()
    experts = {"n_expert": 4, "top_k": 2, "n_shared_expert": 0, "granularity": 2,
               "balance_loss": 0.01, "router_z_loss": 0.001}  # fmt: skip
    assert id_of(n_expert=4) == id_of(**experts)
    changed = [{"n_kv_head": 1}, {"qk_norm": True}, {"z_loss": 1e-4}, {"init_scale": 2.0}]
    changed += [{"n_expert": 4}, {"n_expert": 8}]
    changed += [experts | c for c in ({"top_k": 1}, {"n_shared_expert": 1}, {"granularity": 4},
                                      {"balance_loss": 0.02}, {"router_z_loss": 0.0})]  # fmt: skip
    assert len({id_of(**c) for c in changed} | {id_of()}) == len(changed) + 1


BAD = [
    (["model.norm=batchnorm"], "model.norm=batchnorm is unknown; it may be layernorm, rmsnorm"),
    (["model.mlp=geglu"], "model.mlp=geglu is unknown; it may be gelu, swiglu, relu2"),
    (["model.init=xavier"], "model.init=xavier is unknown; it may be zero_out, fan_in, gpt2"),
    (["model.n_kv_head=3"], "model.ladder[0]: n_kv_head=3 does not divide n_head=2; n_kv_head may be 1, 2"),
    (["model.z_loss=-1e-4"], "model.ladder[0]: z_loss=-0.0001 must lie between 0 and 1"),
    (["model.init_scale=0"], "model.ladder[0]: init_scale=0 must lie between 0.001 and 1000"),
    (["model.top_k=2"], "model.ladder[0]: top_k=2 is of experts, and a dense model has none: set n_expert, or leave it out"),
    (["model.balance_loss=0"], "model.ladder[0]: balance_loss=0.0 is of experts, and a dense model has none"),
    (["model.n_expert=0"], "model.ladder[0]: n_expert=0 must be at least 1"),
    (["model.n_expert=4", "model.top_k=5"], "model.ladder[0]: top_k=5 is more than n_expert=4"),
    (["model.n_expert=4", "model.top_k=0"], "model.ladder[0]: top_k=0 must be at least 1"),
    (["model.n_expert=1"], "model.ladder[0]: top_k=2 is more than n_expert=1"),
    (["model.n_expert=4", "model.n_shared_expert=-1"], "model.ladder[0]: n_shared_expert=-1 must be at least 0"),
    (["model.n_expert=4", "model.n_shared_expert=1"], "granularity=3 (top_k + n_shared_expert where it is null) does not divide the MLP's width 64 at d_model=16; granularity may be 1, 2, 4"),
    (["model.n_expert=4", "model.router_z_loss=2"], "model.ladder[0]: router_z_loss=2 must lie between 0 and 1"),
    (["hardware.attention=flash"], "hardware.attention=flash is unknown; it may be auto, cpu_flash"),
    (["hardware.cross_entropy=cce"], "hardware.cross_entropy=cce is unknown; it may be chunked"),
]  # fmt: skip
REFUSED_HERE = [
    (["hardware.attention=fa2"], "hardware.attention=fa2 can't run here: it needs device cuda"),
    (["hardware.attention=sdpa_fa4"], "hardware.attention=sdpa_fa4 can't run here: it needs device"),
    (["hardware.cross_entropy=liger"], "hardware.cross_entropy=liger can't run here: it needs device"),
]  # fmt: skip


@pytest.mark.parametrize(("typed", "said"), BAD, ids=str)
def test_a_wrong_option_is_one_line_and_status_2(typed, said, command, tmp_path, text_folder):
    root = tmp_path / "b"
    code, out, err = command("launch", *words(root, text_folder, {}), *typed)
    assert (code, err.count("\n")) == (2, 1), out + err
    assert said in err
    assert not root.exists()


@pytest.mark.parametrize(("typed", "said"), REFUSED_HERE, ids=str)
def test_what_this_machine_lacks_is_one_line_and_status_2(typed, said, command, tmp_path, text_folder):  # fmt: skip
    root = tmp_path / "c"
    cell = planned(command, root, text_folder, {})["cell_id"]
    code, out, err = command("run", f"cell={cell}", "hardware.device=cpu",
                             *words(root, text_folder, {}), *typed)  # fmt: skip
    assert (code, err.count("\n")) == (2, 1), out + err
    assert said in err
