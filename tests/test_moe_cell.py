"""A mixture of experts from the command line to a record and a law, and dense cells as they were."""

import json
import math
from dataclasses import replace

import pandas as pd
import pytest
from helpers_cells import CPU, MODEL, data_settings, tiny_cell
from helpers_cli import tiny_grid

from analysis.beyond import laws_beyond
from analysis.laws_moe import ABNAR, ABNAR_PUBLISHED, CLARK, CLARK_S_BASE, KRAJEWSKI, KRAJEWSKI_64
from analysis.points import points_from_records
from models.config import GPTConfig
from models.flops import count_params
from results.store import read_records
from sweep.cells import cell_from_row, cell_to_row
from sweep.collect import collect
from sweep.data import open_data
from sweep.device import open_device
from sweep.folder import SweepFolder
from sweep.reporting import _frame
from sweep.train import Trainer

EXPERTS = {"n_expert": 4, "top_k": 2, "n_shared_expert": 2, "granularity": 4}
LADDER = "[{n_layer:1,d_model:16,n_head:2}]"


def words(root, text, **changes) -> list[str]:
    typed = {f"model__{k}": v for k, v in EXPERTS.items()}
    return tiny_grid(
        root, text, "[4e8]", model__ladder=LADDER, grid__probe=False, **{**typed, **changes}
    )


def test_experts_are_planned_trained_recorded_and_run_again(command, tmp_path, text_folder):
    asked = words(tmp_path / "r", text_folder)
    code, out, err = command("plan", *asked)
    assert code == 0, err
    assert "n_expert=4, top_k=2, n_shared_expert=2, granularity=4, balance_loss=0.01" in out
    assert "N active" in out
    assert "N total" in out
    code, out, err = command("plan", "plan.format=json", *asked)
    (cell,) = json.loads(out)["cells"]
    N = count_params(cell_from_row(cell).model)
    assert (cell["N_active"], cell["N_total"]) == (N.active, N.total)
    assert N.total - N.active == 2 * 2 * 16 * 16  # two resting experts of two matrices
    assert cell["size_id"] == "L1-d16-h2-e4k2s2g4"
    code, out, err = command("launch", *asked)
    assert code == 0, out + err

    folder = SweepFolder(tmp_path / "r", "tiny")
    (row,) = read_records(folder.records).to_dict("records")
    assert row["status"] == "finished"
    assert {k: row[k] for k in EXPERTS} == EXPERTS
    assert (row["balance_loss"], row["router_z_loss"], row["active_share"]) == (0.01, 0.001, 4 / 6)
    assert row["flop_source"] == "formula, of active experts"
    assert 0.5 < row["val_loss"] < math.log(128) - 0.5
    assert 1 / 4 <= row["expert_load_max"] < 1 / 2 + 1e-9  # a token goes to two different ones
    assert 0.5 < row["expert_load_entropy"] <= 1
    assert row["expert_dead"] in (0.0, 0.25, 0.5)
    assert row["optimizer_flops"] == 0
    curve = collect(folder).curves
    assert curve["expert_load_entropy"].between(0, 1).all()
    assert (curve["train_loss"] < math.log(128) + 0.2).all()  # the router's losses are not in it
    code, out, err = command("run", f"cell={cell['cell_id']}", *asked)
    assert "equal to the bit" in out


@pytest.mark.parametrize("micro_rows", [6, 4])
def test_a_run_that_is_stopped_goes_on_to_the_same_bits(shards, text_folder, micro_rows):
    rows = open_data(shards, data_settings(text_folder), MODEL.seq_len).train
    cell, device = tiny_cell(8, model=replace(MODEL, **EXPERTS)), open_device(CPU)
    whole = Trainer(cell, rows, device, micro_rows)
    losses = [whole.train_step().item() for _ in range(8)]
    first = Trainer(cell, rows, device, micro_rows)
    for _ in range(3):
        first.train_step()
    second = Trainer(cell, rows, device, micro_rows)
    second.restore(first.state())
    assert [second.train_step().item() for _ in range(5)] == losses[3:]
    assert losses[-1] < losses[0]


def moe_records(law, theta, shapes, N_column) -> pd.DataFrame:
    """Return records as a sweep of each shape would leave them, their loss a law's."""
    rows = []
    for experts in shapes:
        for width in (16, 48, 128):
            model = GPTConfig(
                n_layer=2, d_model=width, n_head=2, vocab_size=128, seq_len=32, **experts
            )
            for steps in (100, 800, 6400):
                row = cell_to_row(tiny_cell(steps, model=model))
                extra = {name: row[name] for name in law.needs}
                loss = float(law.loss(theta, row[N_column], row["tokens"], **extra))
                rows.append(row | {"val_loss": loss, "status": "finished", "reason": None,
                                   "attempt": 0, "unique_tokens": row["tokens"]})  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("name", "law", "theta", "N_column", "shapes", "said"),
    [
        ("Kra", KRAJEWSKI, KRAJEWSKI_64, "N_active",
         [{"n_expert": 16, "top_k": g, "granularity": g} for g in (1, 4, 16)], "G 2.10, B 30.8"),
        ("Abn", ABNAR, ABNAR_PUBLISHED, "N_total",
         [{"n_expert": E, "granularity": 1} for E in (2, 8, 32)], None),
        ("Cla", CLARK, CLARK_S_BASE, "N_active",
         [{"n_expert": E, "top_k": 1} for E in (2, 8, 32, 128, 512)], "a 0.0820"),
    ],
)  # fmt: skip
def test_laws_of_experts_read_the_columns_of_a_sweep(name, law, theta, N_column, shapes, said):
    records = moe_records(law, theta, shapes, N_column)
    points = points_from_records(records)
    assert not set(points.N) & set(records[N_column])  # what a fit sees is another N
    # Its own columns, or each other law would be fitted too.
    frame = _frame(points)[["N", "D", "loss", "N_active", "N_total", *law.needs]]
    (found,) = (
        b for b in laws_beyond({}, frame, None) if b.law.startswith(f"mixture of experts ({name}")
    )
    assert found.says, found.needs
    if said:
        assert said in found.says
    else:
        named = frame.assign(N=frame[N_column]).drop(columns=["N_active", "N_total"])
        assert found in laws_beyond({}, named, None)
    column = law.needs[0]
    one = frame[frame[column] == frame[column].iloc[0]]
    (found,) = (b for b in laws_beyond({}, one, None) if b.law == found.law)
    assert f"several values of {column}: here there is one" in found.needs


def test_N_active_is_a_convention_of_its_own():
    records = moe_records(KRAJEWSKI, KRAJEWSKI_64, [{"n_expert": 16}], "N_active")
    active = points_from_records(records, "active")
    assert sorted(active.N) == sorted(records["N_active"])
    assert active.N_convention == "active"


def test_what_is_counted_for_dense_blocks_alone_is_refused_with_experts(
    command, tmp_path, text_folder
):
    code, _, err = command("plan", "plan.bounds=true", *words(tmp_path / "r", text_folder))
    assert (code, err.count("\n")) == (2, 1)
    assert "plan.bounds=true counts kernels and bytes of dense blocks" in err


def test_a_rule_that_was_fitted_on_dense_models_is_outside_its_regime(command):
    code, out, err = command("plan", "grid=smoke", "model.n_expert=4")
    assert code == 0, err
    assert "a mixture of experts is not dense" in out
