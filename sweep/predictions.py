"""Predictions that are written down before a run, and their scores after it."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console

from analysis.cell_noise import noise_at
from analysis.fits_file import plain_json
from analysis.points import N_COLUMNS, Points, PointsError, load_points
from analysis.registry import (
    RegistryError,
    append,
    prediction_id,
    predictions,
    read_registry,
    scores,
)
from analysis.scoring import coverage, prediction_of
from analysis.scoring import score as judged
from analysis.tables import sha256_of
from conf.schema import AppConf
from results.provenance import environment, now
from results.store import StoreError, read_records
from sweep.arguments import Arguments
from sweep.collected import record_points
from sweep.documents import expand
from sweep.errors import UsageError
from sweep.fitted_file import Entry, FittedFile


def preregister(app: AppConf, file: FittedFile, forecasts: Sequence[Entry]) -> list[Entry]:
    """Add predictions to the registry that preregister= names; returns them as written.

    Raises:
        UsageError: nothing to register, a prediction that is there already, a file that is no
            registry.
    """
    known = [f for f in forecasts if f.get("loss_interval") is not None]
    if not known:
        raise UsageError(
            "preregister= has nothing to write: the fit gives no loss with an interval"
        )
    made_by = {k: environment()[k] for k in ("git_sha", "git_dirty", "code_sha256")}
    fits, when = file.fits, now()
    entries = []
    for f in known:
        noise = noise_at(_noise(fits), np.array([f["C"]]))[0]
        content = {
            "kind": "prediction", "id": "", "date": when, "fit_sha256": file.sha256,
            "fit_path": str(file.path), **made_by, "level": fits["level"],
            "loss_unit": fits["points"]["loss_unit"], **prediction_of(f, float(noise)),
        }  # fmt: skip
        entries.append({**content, "id": prediction_id(content)})
    try:
        return append(expand(app.preregister), entries)
    except RegistryError as e:
        raise UsageError(f"preregister={e}") from None


def score(args: Arguments, console: Console) -> int:
    """Judge the predictions of preregister= by what came; 1 where none could be.

    Raises:
        UsageError: no registry, or results that can't be read.
    """
    app = args.app
    if app.preregister is None:
        raise UsageError("score=FILE is what came; name the registry too: preregister=FILE")
    read = {"score", "preregister", "fit.where", "forecast.format"}
    others = args.named - read - args.groups_named("columns")
    if others:
        raise UsageError(f"{min(others)} is not read with score=, which judges what is registered")
    registry = expand(app.preregister)
    try:
        entries = read_registry(registry)
    except RegistryError as e:
        raise UsageError(f"preregister={e}") from None
    made, done = predictions(entries), scores(entries)
    if not made:
        raise UsageError(f"preregister={registry} holds no prediction: register one before a run")
    results = _Results(app)
    new, waiting = [], {}
    for p in (p for p in made if p["id"] not in done):
        found = judged(p, *results.under(p["N_convention"]))
        if found["status"] == "not_seen":
            waiting[p["id"]] = found["reason"]
            continue
        new.append({"kind": "score", "id": p["id"], "date": now(), "source": str(results.path),
                    "source_sha256": results.sha256, **found})  # fmt: skip
    try:
        new = append(registry, new) if new else []
    except RegistryError as e:
        raise UsageError(f"preregister={e}") from None
    done |= {e["id"]: e for e in new}
    answer = {"registry": str(registry), "scored_now": [e["id"] for e in new], "waiting": waiting,
              "scores": [{**_asked(p), **done[p["id"]]} for p in made if p["id"] in done],
              "coverage": coverage(made, done)}  # fmt: skip
    if app.forecast.format == "json":
        print(json.dumps(plain_json(answer), indent=1, ensure_ascii=False))
    else:
        for line in _lines(answer):
            console.print(line)
    return 0 if done else 1


class _Results:
    """What came, as points; records under the N that a prediction counts.

    Raises:
        UsageError: not a table, nothing finished in it, or it is the registry.
    """

    def __init__(self, app: AppConf) -> None:
        path = expand(app.score)
        self.path: Path = path / "records.parquet" if path.is_dir() else path
        self.columns, self.where = app.columns, app.fit.where
        if not self.path.exists():
            first = f"; first: isoflop collect sweep={path.name}" if path.is_dir() else ""
            raise UsageError(f"score={self.path} does not exist{first}")
        self.is_records = not app.columns and _is_records(self.path)
        self.sha256 = sha256_of(self.path)

    def under(self, N_convention: str) -> tuple[Points, NDArray | None]:
        """Points, and when each run began where that is known."""
        try:
            if not self.is_records:
                return load_points(self.path, self.columns, self.where), None
            if N_convention not in N_COLUMNS:
                raise UsageError(
                    f"score={self.path}: the prediction counts N as its points gave it, and "
                    "records count it in four ways: say which, as columns.N=N_total "
                    "columns.D=tokens columns.C=flops columns.loss=val_loss"
                )
            points = record_points(self.path, N_convention)
            return points, points.other["started_at"].to_numpy(object)
        except PointsError as e:
            raise UsageError(f"score={e}") from None


def _is_records(path: Path) -> bool:
    try:
        read_records(path)
    except (StoreError, pd.errors.ParserError, ValueError):
        return False
    return True


def _noise(fits: Entry) -> dict[str, float]:
    noise = fits["approach3"].get("noise") or {}
    return {k: np.nan if v is None else v for k, v in noise.items()}


def _asked(p: Entry) -> Entry:
    return {"law": p["law"], "kind_of_target": p["kind_of_target"], "target": p["target"],
            "loss_interval": p["loss_interval"], "level": p["level"],
            "predicted_on": p["date"]}  # fmt: skip


def _lines(answer: Entry):
    for s in answer["scores"]:
        target = ", ".join(f"{v:.4g}" for v in s["target"])
        low, high = s["loss_interval"]
        inside = "inside" if s["inside_interval"] else "outside"
        z = "" if s["z"] is None else f", z {s['z']:+.1f}"
        before = "" if s["id"] in answer["scored_now"] else f" (scored on {s['date']})"
        late = "" if s["status"] == "ok" else f"; not counted: {s['reason']}"
        yield (
            f"{s['id']} {s['kind_of_target']} = {target} ({s['law']}): {s['predicted']:.4f} "
            f"predicted, {s['observed']:.4f} observed in {s['n']} run{'s' * (s['n'] != 1)}: "
            f"{s['error']:+.2%}{z}, {inside} {low:.4f} .. {high:.4f}{before}{late}"
        )
    for name, reason in answer["waiting"].items():
        yield f"{name} is not scored: {reason}"
    for c in answer["coverage"]:
        z = "" if c["rms_z"] is None else f", rms of z {c['rms_z']:.2f}"
        yield (
            f"So far, {c['law']}: {c['inside']} of {c['n']} inside the {c['level']:.0%} interval, "
            f"mean error {c['mean_error']:+.2%}{z}"
        )
