"""The report verb: from fits.json and records to a page.

A page is made of what is there: what is not is a gap, which the page and the terminal name.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import Console

from analysis.beyond import COLUMNS
from analysis.fits_file import FitsError, no_fits, read_fits
from analysis.points import Points, PointsError, load_points
from analysis.report import write_report
from conf.schema import AppConf
from results.provenance import code_sha256
from sweep.collected import collected_records, fitted_curves, sweep_points
from sweep.data_columns import with_loss_of
from sweep.documents import expand
from sweep.errors import UsageError
from sweep.folder import SweepFolder, plan_frame, read_plan

if TYPE_CHECKING:
    from analysis.report_compare import NamedFit
    from analysis.report_worth import Worth

MOST_WORTHS = 4  # fits whose compute is compared


def report_sweep(app: AppConf, folder: SweepFolder, command: str) -> tuple[Path, list[str]]:
    """Write <root>/<sweep>/report/ from its records and fits.json.

    Returns:
        The page, and what is not on it with the reason: laws, where fits.json can't be used or no
        cell has finished.

    Raises:
        UsageError: not collected; or cells have finished, and nobody fitted them yet.
    """
    loss = app.fit.loss
    records = collected_records(folder)
    if loss is not None:
        records = with_loss_of(records, loss)[list(records.columns)]
    fits, points, gaps = _laws(folder, records, loss)
    plan = read_plan(folder)
    page = _write(
        folder.report_of(loss),
        fits,
        records=records,
        curves=None if loss else fitted_curves(folder, records),
        plan=plan_frame(plan) if plan else None,
        points=points,
        title=app.report.title or f"Scaling laws of {folder.name}{f' on {loss}' * bool(loss)}",
        command=command,
        price=app.report.price,
    )
    return page, gaps


def _laws(
    folder: SweepFolder, records: pd.DataFrame, loss: str | None
) -> tuple[Mapping[str, Any], pd.DataFrame | None, list[str]]:
    """Read fits.json and the points that it is of, or say why there are none."""
    path = folder.fits_of(loss)
    first = f"first: {folder.command('fit', *([f'fit.loss={loss}'] if loss else []))}"
    finished = (records["status"] == "finished").any()
    if not path.exists():
        if finished:
            raise UsageError(f"{path} does not exist; {first}")
        why = "no cell has finished, so there is nothing to fit"
        return no_fits(why), None, [why]
    try:
        fits = read_fits(path)
    except FitsError as e:
        return no_fits(str(e)), _points(folder, None, loss), [str(e)]
    try:
        return fits, _frame(sweep_points(folder, fits["points"]["N_convention"], loss)), []
    except PointsError as e:
        return fits, None, [f"the runs behind {path}: {e}"]


def _points(folder: SweepFolder, N_convention: str | None, loss: str | None) -> pd.DataFrame | None:
    """Make the points of a sweep that has no usable fit; None where there are none."""
    try:
        return _frame(sweep_points(folder, N_convention or "flops", loss))
    except PointsError:
        return None


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
    from sweep.fitting import fit_points  # the fit's imports, which no other report needs

    fit_points(app, out, console)
    path = expand(app.points)
    points = load_points(path, app.columns, app.fit.where)
    return _write(
        out,
        read_fits(out / "fits.json"),
        records=None,
        curves=None,
        plan=None,
        points=_frame(points),
        title=app.report.title or f"Scaling laws of {path.name}",
        command=command,
    )


def report_fits(app: AppConf, out: Path, command: str) -> tuple[Path, list[str]]:
    """Write a report on several fits side by side.

    Args:
        app: fits names fits.json files, or folders that hold one.
        out: folder of the report.
        command: what a person types to make the same page again.

    Returns:
        The page, and which fits are not on it, with the reason.

    Raises:
        UsageError: none of them can be read.
    """
    from analysis.report import write_comparison
    from analysis.report_compare import unique_names

    paths = [_fits_path(expand(f)) for f in app.fits]
    named = [_named(n, p) for n, p in zip(unique_names(paths), paths, strict=True)]
    gaps = [str(n.problem) for n in named if n.fits is None]
    if len(gaps) == len(named):
        raise UsageError("; ".join(gaps))
    title = app.report.title or " and ".join(n.name for n in named[:3]) + " …" * (len(named) > 3)
    try:
        worth = _worth(named)
        return write_comparison(out, named, title=title, command=command, worth=worth)[0], gaps
    except OSError as e:
        raise UsageError(f"can't write the report to {out}: {e.strerror}") from None


def _fits_path(path: Path) -> Path:
    return path / "fits.json" if path.is_dir() else path


def _named(name: str, path: Path):
    from analysis.report_compare import NamedFit

    try:
        return NamedFit(name, str(path), read_fits(path))
    except FitsError as e:
        return NamedFit(name, str(path), None, str(e))


def _worth(named: Sequence["NamedFit"]) -> list["Worth"]:
    """Say what the first fit's compute is worth in each of the others', at their common top budget.

    Each is fitted again for it, which takes seconds: of many, the first few are.
    """
    from analysis.multiplier import IncomparableError, multipliers
    from analysis.report_worth import Worth
    from sweep.fitted_file import FittedFile

    files = [(n.name, FittedFile(Path(n.path), n.fits)) for n in named if n.fits is not None]
    first, *others = files[:MOST_WORTHS]
    found = []
    for name, file in others:
        try:
            a, b = first[1].evidence, file.evidence
            shared = min(float(e.points.budgets[-1]) for e in (a, b))
            found.append(Worth(first[0], name, multipliers(a, b, shared)))
        except (IncomparableError, UsageError) as e:
            found.append(Worth(first[0], name, problem=str(e)))
    return found


def _frame(points: Points) -> pd.DataFrame:
    columns = ("N", "D", "C", "loss", "budget", "size_id", "name")
    found = {c: getattr(points, c) for c in columns}
    if points.other is not None:  # what laws beyond the fit may want
        wanted = (*COLUMNS, "N_active", "N_total")
        found |= {c: points.other[c].to_numpy() for c in wanted if c in points.other}
    return pd.DataFrame(found)


def _write(out: Path, fits: Mapping[str, Any], **what: Any) -> Path:
    try:
        return write_report(out, fits, **what)[0]
    except OSError as e:
        raise UsageError(f"can't write the report to {out}: {e.strerror}") from None
