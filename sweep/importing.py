"""The import verb: judge a checkpoint of transformers on a cell's validation set."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from models.pretrained import Pretrained
from models.stock import MODEL_TYPES
from results.provenance import git_state, now, versions
from sweep.arguments import Arguments
from sweep.checkpoint_folder import check_is_checkpoint, open_model
from sweep.data import CellData, open_data, prepare_data
from sweep.data_columns import set_lines, sets_column
from sweep.device import Device, open_device
from sweep.documents import expand
from sweep.errors import UsageError
from sweep.evaluate import Validation, validate
from sweep.export_card import SCHEMA
from sweep.export_tokenizer import find_encoder, open_tokenizer, why_not_the_same
from sweep.folder import SweepFolder
from sweep.resolve import hardware_settings
from sweep.stamps import read_sha256
from sweep.trained import Finished, find_finished


def judge(args: Arguments, folder: SweepFolder, console: Console) -> None:
    """Print a checkpoint's loss beside the cell's, and add both to the sweep's imports.jsonl.

    Raises:
        UsageError: no checkpoint, one with other tokens or a shorter context, no such finished cell,
            or validation text that is not the recorded one.
    """
    path = expand(args.app.from_).resolve()
    check_is_checkpoint(path)
    finished = _cell_to_judge_on(folder, path, args.app.cell)
    encoder = find_encoder(finished, folder)
    why = why_not_the_same(encoder, open_tokenizer(path))
    if why is not None:
        raise UsageError(
            f"from={path} reads texts otherwise than {finished.cell.id} ({why}): losses per token "
            "can't be compared"
        )
    try:
        device = open_device(hardware_settings(args.app.hardware))
    except ValueError as e:
        raise UsageError(str(e)) from None
    data = _validation_data(finished, folder, console)
    model = open_model(path, "isoflop import")
    _check_fits(model.config, finished, encoder.id.vocab_size, path)
    model.to(device.device)
    final = validate(Pretrained(model), data, device)
    _say(final, finished, path, device, console)
    _note(folder, _row(final, finished, path, device, data, model.config))
    console.print(f"Noted in {folder.imports}")


def _cell_to_judge_on(folder: SweepFolder, path: Path, asked: str | None) -> Finished:
    """Find the attempt to compare with: the one that was exported, or the named cell's result."""
    made = _facts(path)
    cell_id = asked if asked is not None else made.get("cell_id")
    if cell_id is None:
        raise UsageError(
            f"from={path} does not say which cell it is (no isoflop.json): name the cell to judge "
            "it beside with cell=ID"
        )
    found = find_finished(folder, cell_id)
    same = [f for f in found if (f.cell.id, f.record["attempt"]) == _exported(made)]
    return (same or found)[0]


def _exported(made: Mapping[str, Any]) -> tuple[Any, Any]:
    return made.get("cell_id"), made.get("attempt")


def _facts(path: Path) -> dict[str, Any]:
    """Read what isoflop.json says; empty where a checkpoint is not of isoflop export."""
    file = path / "isoflop.json"
    if not file.exists():
        return {}
    try:
        made = json.loads(file.read_text())
        if made["schema"] != SCHEMA or not isinstance(made["cell_id"], str):
            raise ValueError(f"schema {made['schema']}, this code reads {SCHEMA}")
        return made
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise UsageError(f"{file} can't be used ({e}): export the cell again") from None


def _check_fits(config: Any, finished: Finished, vocab_size: int, path: Path) -> None:
    """Refuse a model that can't read the cell's rows as the cell does."""
    cfg, longest = finished.cell.model, getattr(config, "max_position_embeddings", None)
    if config.vocab_size < vocab_size:
        raise UsageError(
            f"from={path} knows {config.vocab_size:,} tokens, and the data of {finished.cell.id} "
            f"has {vocab_size:,}"
        )
    if longest is not None and longest < cfg.seq_len:
        raise UsageError(
            f"from={path} reads {longest:,} tokens of context, and rows of {finished.cell.id} have "
            f"{cfg.seq_len:,}"
        )
    if finished.data.document_mask and config.model_type not in MODEL_TYPES:
        raise UsageError(
            f"{finished.cell.id} masks documents from each other, which model_type="
            f"{config.model_type} may not take; it may be {', '.join(MODEL_TYPES)}"
        )


def _validation_data(finished: Finished, folder: SweepFolder, console: Console) -> CellData:
    shards = prepare_data(finished.data, folder.data_cache, console.print)
    data = open_data(shards, finished.data, finished.cell.model.seq_len, verify=True)
    recorded = finished.record["data_sha256"]
    if isinstance(recorded, str) and recorded != data.sha256:
        raise UsageError(
            f"{finished.cell.id} was judged on data {recorded[:12]}, here is {data.sha256[:12]}: "
            "bring back the text that it was trained on"
        )
    return data


def _say(
    final: Validation, finished: Finished, path: Path, device: Device, console: Console
) -> None:
    total, record = final.total, finished.record
    console.print(
        f"{path}: loss {total.loss:.6f} ± {total.se:.4f} nats/token on {total.tokens:,} tokens, "
        f"{total.bpb:.4f} bits/byte, on {device.board} ({device.dtype_name})"
    )
    for line in set_lines(sets_column(final)):
        console.print(line)
    here = {"device": device.device.type, "dtype": device.dtype_name}
    other = [f"{k} {v}, recorded with {record[k]}" for k, v in here.items() if v != record[k]]
    console.print(
        f"{finished.cell.id}, attempt {record['attempt']}: recorded {record['val_loss']:.6f}, "
        f"difference {total.loss - record['val_loss']:+.1e}"
        + (f" (here with {'; '.join(other)})" if other else "")
    )


def _row(
    final: Validation,
    finished: Finished,
    path: Path,
    device: Device,
    data: CellData,
    config: Any,
) -> dict[str, Any]:
    total, record = final.total, finished.record
    return {
        "schema": SCHEMA,
        "at": now(),
        "cell_id": finished.cell.id,
        "attempt": record["attempt"],
        "from": str(path),
        "weights_sha256": {f.name: read_sha256(f) for f in sorted(path.glob("*.safetensors"))},
        "model_type": config.model_type,
        "val_loss": total.loss,
        "val_loss_se": _known(total.se),
        "bpb": _known(total.bpb),
        "bpb_se": _known(total.bpb_se),
        "val_tokens": total.tokens,
        "val_sets": sets_column(final),
        "recorded_val_loss": record["val_loss"],
        "data_sha256": data.sha256,
        "device": device.device.type,
        "dtype": device.dtype_name,
        "git_sha": git_state()[0],
        "versions": versions(["torch", "transformers"]),
    }


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _note(folder: SweepFolder, row: dict[str, Any]) -> None:
    """Add a line to imports.jsonl in one write, so that lines of two processes don't mix."""
    line = (json.dumps(row) + "\n").encode()
    f = os.open(folder.imports, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(f, line)
        os.fsync(f)
    finally:
        os.close(f)
