"""Outlooks of running cells: what their curves say of their end, beside what a law predicts.

How a curve goes on is taken from finished cells of the sweep, those nearest in N and D. Probes are
neither judged nor followed: their recipe is not the sweep's.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from analysis.fits_file import UNKNOWN, FitsError, Pair
from analysis.points import N_COLUMNS
from analysis.stopping import Curve, Outlook, outlook
from analysis.stored_law import Expected, StoredLaw, read_stored_law
from results.store import StoreError, read_record
from sweep.folder import SweepFolder
from sweep.sweep_facts import recorded_attempts

NEAREST = 12  # finished cells that show how a curve goes on
_COLUMNS = ["cell_id", "N_total", "tokens", "probe"]


class Curves:
    """Curves of a sweep's cells, each finished one read once."""

    def __init__(self, folder: SweepFolder) -> None:
        self.folder = folder
        plan = pq.read_table(folder.plan, columns=_COLUMNS)
        self.cell_ids = plan["cell_id"].to_pylist()
        self.at = {cell_id: i for i, cell_id in enumerate(self.cell_ids)}
        self.tokens = plan["tokens"].to_numpy()
        self.place = np.log(np.stack([plan["N_total"].to_numpy(), self.tokens]).astype(float))
        self.is_probe = np.array([p is not None for p in plan["probe"].to_pylist()])
        self._finished: dict[tuple[str, int], Curve | None] = {}
        self.look_again()

    def look_again(self) -> None:
        """Take in what was recorded meanwhile."""
        self.recorded = recorded_attempts(self.folder)
        known = np.array([cell_id in self.recorded for cell_id in self.cell_ids])
        self.usable = np.flatnonzero(known & ~self.is_probe)

    def outlook(
        self, cell_id: str, attempt: int, expected: Expected | None, level: float
    ) -> Outlook:
        """Judge a cell by an attempt's curve so far.

        Args:
            cell_id: of the plan, no probe.
            attempt: its number.
            expected: by a law; None: the end is projected, and not judged.
            level: of the projected interval.
        """
        path = self.folder.cell(cell_id) / str(attempt) / "train.jsonl"
        curve = _read_curve(path, int(self.tokens[self.at[cell_id]]))
        if curve is None:
            return Outlook("unknown", "no curve that can be read", 0.0)
        predicted, interval = (math.nan, UNKNOWN) if expected is None else _of(expected)
        return outlook(curve, predicted, interval, self._like(cell_id), level)

    def _like(self, cell_id: str) -> list[Curve]:
        """Finished curves of the cells nearest in log N and log D."""
        here, found = self.at[cell_id], []
        apart = np.hypot(*(self.place[:, self.usable] - self.place[:, [here]]))
        for other in self.usable[np.argsort(apart, kind="stable")]:
            if len(found) == NEAREST:
                break
            if other == here:
                continue
            name = self.cell_ids[other]
            curves = (self._curve_of(name, n) for n in sorted(self.recorded[name]))
            found += [c for c in curves if c is not None][:1]
        return found

    def _curve_of(self, cell_id: str, attempt: int) -> Curve | None:
        """Curve of an attempt that finished, with its final loss; None of any other."""
        key = (cell_id, attempt)
        if key not in self._finished:
            record = self.folder.records / f"{cell_id}.{attempt}.parquet"
            path = self.folder.cell(cell_id) / str(attempt) / "train.jsonl"
            loss = _final_loss(record)
            tokens = int(self.tokens[self.at[cell_id]])
            self._finished[key] = None if loss is None else _read_curve(path, tokens, loss)
        return self._finished[key]


def law_for(path: Path, flop_rule: str) -> StoredLaw:
    """Read the law that predicts cells of a sweep.

    Raises:
        FitsError: it can't be read, or does not count as the sweep does; the text is one line.
    """
    law = read_stored_law(path)
    if law.loss_unit != "nats":
        raise FitsError(f"{path} is of losses in {law.loss_unit}: a sweep's are in nats per token")
    if law.N_convention not in N_COLUMNS:
        raise FitsError(f"{path} counts N as its points gave it, and cells count it in four ways: fit a sweep")  # fmt: skip
    if law.flop_rule != flop_rule:
        raise FitsError(f"{path} counts FLOPs by {law.flop_rule}, this sweep by {flop_rule}")
    return law


def expected_of(law: StoredLaw, row: Mapping) -> Expected:
    """Predict the final loss of a cell, given as a row of the plan."""
    return law.expected(row[N_COLUMNS[law.N_convention]], row["tokens"], row["flops"])


def _of(expected: Expected) -> tuple[float, Pair]:
    return expected.loss, expected.interval


def _final_loss(record: Path) -> float | None:
    """Read the final loss of a finished record; None of any other, or where it can't be read."""
    try:
        row = read_record(record)
    except StoreError:
        return None
    return row["val_loss"] if row["status"] == "finished" else None


def _read_curve(path: Path, planned_tokens: int, final_loss: float = math.nan) -> Curve | None:
    """Read an attempt's evaluations; a last line that is still being written is left out."""
    try:
        lines = path.read_text().splitlines()
        rows = [json.loads(line) for line in lines if line.endswith("}")]
        column = {
            k: np.array([row[k] for row in rows], dtype=float)
            for k in ("tokens", "eval_loss", "lr", "train_loss")
        }
        return Curve(
            column["tokens"], column["eval_loss"], float(planned_tokens), column["lr"],
            column["train_loss"], final_loss,
        )  # fmt: skip
    except (OSError, ValueError, KeyError):
        return None
