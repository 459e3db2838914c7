"""The fit verb: from a collected sweep, or anybody's points, to fits.json."""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.progress import Progress

from analysis.fit import fit
from analysis.fit_options import FitOptions
from analysis.fits_file import Fits
from analysis.points import Excluded, Points, PointsError, load_points, points_from_records
from analysis.recipe_transfer import transfer
from analysis.tables import read_table
from conf.schema import AppConf
from results.provenance import environment
from results.store import StoreError, read_records
from sweep.data_columns import with_loss_of
from sweep.documents import expand
from sweep.errors import UsageError
from sweep.folder import SweepFolder
from sweep.summary import summary_lines


def fit_sweep(app: AppConf, folder: SweepFolder, console: Console) -> Path:
    """Fit a collected sweep; writes <root>/<sweep>/fits.json, or loss_<set>/fits.json.

    Raises:
        UsageError: nothing collected, points that can't be fitted, an option of points only.
    """
    for key in ("out", "curves"):
        if getattr(app, key) is not None:
            raise UsageError(f"{key}= goes with points=FILE; a sweep is fitted in its own folder")
    if app.columns or app.fit.where or app.fit.by:
        raise UsageError("columns.*, fit.where and fit.by go with points=FILE, not with a sweep")
    records = _judged_on(folder, app.fit.loss)
    recipe = transfer(records)
    curves = fitted_curves(folder, records) if app.fit.loss is None else None  # of all sources
    try:
        options = replace(_options(app), recipe=str(recipe.verdict))
        fits = _fit(_points(records, app.fit.N), options, _runs(curves), console)
    except PointsError as e:
        raise UsageError(str(e)) from None
    console.print(recipe.line)
    path = folder.fits_of(app.fit.loss)
    path.parent.mkdir(exist_ok=True)
    _write(fits, path, console)
    return path


def fit_points(app: AppConf, out: Path, console: Console) -> Path:
    """Fit anybody's points; writes fits.json into `out`, and returns that folder.

    Raises:
        UsageError: a table, column or option that can't be used.
    """
    try:
        points = load_points(expand(app.points), app.columns, app.fit.where)
        curves = None if app.curves is None else read_table(expand(app.curves))
        fits = _fit(points, _options(app), curves, console)
    except PointsError as e:
        raise UsageError(str(e)) from None
    _write(fits, out / "fits.json", console)
    return out


def sweep_points(folder: SweepFolder, N_convention: str, loss: str | None = None) -> Points:
    """Points of a collected sweep, N under a convention, with the loss of one set or of all.

    Probes of the recipe are excluded.

    Raises:
        UsageError: nothing collected yet, or no such set.
        PointsError: no finished cell, or cells that can't be compared.
    """
    return _points(_judged_on(folder, loss), N_convention)


def record_points(path: Path, N_convention: str) -> Points:
    """Points of one file of records, N under a convention, without probes of the recipe.

    Raises:
        PointsError: no records in it, no finished cell, or cells that can't be compared.
    """
    try:
        return _points(read_records(path), N_convention)
    except StoreError as e:
        raise PointsError(str(e)) from None


def fitted_curves(folder: SweepFolder, records: pd.DataFrame) -> pd.DataFrame | None:
    """Read collected training curves, without those of probes; None where none were collected."""
    if not folder.curves.exists():
        return None
    curves = pd.read_parquet(folder.curves)
    return curves[~curves["cell_id"].isin(_probes(records))]


def collected_records(folder: SweepFolder) -> pd.DataFrame:
    """Read records.parquet.

    Raises:
        UsageError: it is not there, or damaged.
    """
    if not folder.collected.exists():
        raise UsageError(
            f"sweep={folder.name} is not collected: no {folder.collected}; "
            f"first: isoflop collect sweep={folder.name}"
        )
    try:
        return read_records(folder.collected)
    except StoreError as e:
        raise UsageError(str(e)) from None


def _fit(
    points: Points, options: FitOptions, curves: pd.DataFrame | None, console: Console
) -> Fits:
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("fit", total=1.0)
        say: Callable[[str, float], None] = lambda stage, share: bar.update(  # noqa: E731
            task, completed=share, description=f"fit: {stage}"
        )
        return fit(points, options, curves=curves, progress=say)


def _options(app: AppConf) -> FitOptions:
    values: Mapping[str, Any] = vars(app.fit)
    known = {f.name for f in fields(FitOptions)}
    chosen = {k: v for k, v in values.items() if k in known and k != "targets"}
    return FitOptions(**chosen, targets=tuple(app.fit.targets or ()))


def _judged_on(folder: SweepFolder, loss: str | None) -> pd.DataFrame:
    records = collected_records(folder)
    return records if loss is None else with_loss_of(records, loss)


def _points(records: pd.DataFrame, N_convention: str) -> Points:
    """Points without probes, whose recipe or seed is not the grid's."""
    probes = _probes(records)
    points = points_from_records(records[~records["cell_id"].isin(probes)], N_convention)
    excluded = tuple(Excluded(cell_id, "probe") for cell_id in probes)
    return replace(points, excluded=points.excluded + excluded)


def _probes(records: pd.DataFrame) -> list[str]:
    return sorted(records.loc[records["probe"].notna(), "cell_id"].unique())


def _runs(curves: pd.DataFrame | None) -> pd.DataFrame | None:
    """Columns of a curves table, one run an attempt."""
    if curves is None:
        return None
    run = curves["cell_id"] + "." + curves["attempt"].astype(str)
    frame = pd.DataFrame({"run": run, "N": curves["N_flops"], "D": curves["tokens"]})
    return frame.assign(C=curves["flops"], loss=curves["eval_loss"], lr=curves["lr"])


def _write(fits: Fits, path: Path, console: Console) -> None:
    env = environment()
    ours = {k: env[k] for k in ("git_sha", "git_dirty", "code_sha256")}
    fits.provenance.update(ours)
    try:
        fits.write(path)
    except OSError as e:
        raise UsageError(f"can't write {path}: {e.strerror}") from None
    for line in summary_lines(fits.to_json()):
        console.print(line)
    console.print(f"Wrote {path}")
