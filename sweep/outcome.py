"""The record of an attempt, from what was asked, what was measured, and how it ended."""

import os
from typing import Any

from results.provenance import environment, now
from results.record import Record, RecordStatus
from sweep.cells import cell_to_row
from sweep.claim import Attempt
from sweep.data import CellData
from sweep.data_columns import sets_column, sources_column
from sweep.device import Device, describe
from sweep.evaluate import Validation
from sweep.health import health_columns, load_columns
from sweep.hf_columns import flop_source, ran_by_hf
from sweep.measure import Measurements, measured_columns


def make_record(
    attempt: Attempt,
    sweep: str,
    data: CellData,
    device: Device,
    measured: Measurements,
    ended: dict[str, Any],
) -> Record:
    """Put a record together.

    Args:
        attempt: which.
        sweep: name of the sweep.
        data: what it was trained and judged on.
        device: what measured it.
        measured: what it measured.
        ended: status, reason and loss columns.
    """
    cell, env = attempt.cell, environment()
    where = describe(device) | ran_by_hf(cell.model)
    used = data.train.usage(cell.seed, cell.steps * cell.recipe.batch_rows)
    unique = sum(u.unique_tokens for u in used)
    columns = measured_columns(measured, cell, where)
    finished = ended["status"] is RecordStatus.FINISHED
    return Record(
        **cell_to_row(cell),
        sweep=sweep,
        attempt=attempt.number,
        unique_tokens=unique,
        epochs=cell.tokens / unique,
        **where,
        **columns,
        **health_columns(
            cell, columns["train_loss"], ended.get("val_loss", float("nan")), finished
        ),
        flop_source=flop_source(cell.model),
        python_version=env["versions"]["python"],
        numpy_version=env["versions"]["numpy"],
        git_sha=env["git_sha"],
        git_dirty=env["git_dirty"],
        code_sha256=env["code_sha256"],
        host=env["host"],
        data_sha256=data.sha256,
        data_commits=data.commits,
        tokenizer_revision=data.tokenizer.revision,
        tokenizer_sha256=data.tokenizer.sha256,
        sources=sources_column(data, used),
        slurm_job_id=os.environ.get("SLURM_JOB_ID"),
        finished_at=now(),
        **ended,
    )


def loss_columns(final: Validation) -> dict[str, Any]:
    """Columns of the record about the final losses."""
    return {
        "val_loss": final.total.loss,
        "val_loss_se": final.total.se,
        "val_tokens": final.total.tokens,
        "bpb": final.total.bpb,
        "bpb_se": final.total.bpb_se,
        "val_sets": sets_column(final),
        **load_columns(final.loads),
    }
