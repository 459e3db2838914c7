"""The report verb: from fits.json and records to a page."""

from pathlib import Path

import pandas as pd
from rich.console import Console

from analysis.fits_file import FitsError, read_fits
from analysis.points import Points, PointsError, load_points
from analysis.report import write_report
from conf.schema import AppConf
from results.provenance import code_sha256
from sweep.data_columns import with_loss_of
from sweep.documents import expand
from sweep.errors import UsageError
from sweep.fitting import collected_records, fit_points, fitted_curves, sweep_points
from sweep.folder import SweepFolder, plan_frame, read_plan


def report_sweep(app: AppConf, folder: SweepFolder, console: Console, command: str) -> Path:
    """Write <root>/<sweep>/report/ from its fits.json; returns the page.

    Raises:
        UsageError: not collected or not fitted.
    """
    loss = app.fit.loss
    records = collected_records(folder)
    if loss is not None:
        records = with_loss_of(records, loss)[list(records.columns)]
    try:
        fits = read_fits(folder.fits_of(loss))
        points = _points_frame(sweep_points(folder, fits["points"]["N_convention"], loss))
    except (FitsError, PointsError) as e:
        of_set = f" fit.loss={loss}" if loss else ""
        raise UsageError(f"{e}; first: isoflop fit sweep={folder.name}{of_set}") from None
    plan = read_plan(folder)
    return _write(
        folder.report_of(loss),
        fits,
        console,
        records=records,
        curves=None if loss else fitted_curves(folder, records),
        plan=plan_frame(plan) if plan else None,
        points=points,
        title=app.report.title or f"Scaling laws of {folder.name}{f' on {loss}' * bool(loss)}",
        command=command,
    )


def current_page(folder: SweepFolder) -> Path | None:
    """Return the page if it shows all records as this code fits them, else None."""
    page = folder.report / "report.html"
    records = [p.stat().st_mtime for p in folder.records.glob("*.parquet")]
    if not page.exists() or not records or page.stat().st_mtime < max(records):
        return None
    try:
        made_by = read_fits(folder.fits)["provenance"].get("code_sha256")
    except FitsError:
        return None
    return page if made_by == code_sha256() else None


def report_points(app: AppConf, out: Path, console: Console, command: str) -> Path:
    """Fit anybody's points, and write the report beside fits.json; returns the page.

    Raises:
        UsageError: a table, column or option that can't be used.
    """
    fit_points(app, out, console)
    path = expand(app.points)
    points = load_points(path, app.columns, app.fit.where)
    return _write(
        out,
        read_fits(out / "fits.json"),
        console,
        records=None,
        curves=None,
        plan=None,
        points=_points_frame(points),
        title=app.report.title or f"Scaling laws of {path.name}",
        command=command,
    )


def _points_frame(points: Points) -> pd.DataFrame:
    columns = ("N", "D", "C", "loss", "budget", "size_id", "name")
    return pd.DataFrame({c: getattr(points, c) for c in columns})


def _write(out: Path, fits: dict, console: Console, **what) -> Path:
    try:
        return write_report(out, fits, **what)[0]
    except OSError as e:
        raise UsageError(f"can't write the report to {out}: {e.strerror}") from None
