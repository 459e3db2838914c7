"""What a design starts from: a fit, and the runs behind it or its covariance."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from analysis.design_form import Superset
from analysis.design_information import information
from analysis.design_prior import Prior, PriorError, prior_from_fits
from analysis.fits_file import FitsError
from analysis.points import PointsError
from analysis.points_rows import points_of
from conf.schema import AppConf
from sweep.cell import Cell
from sweep.cells import cell_from_row
from sweep.collected import collected_records, sweep_points
from sweep.documents import expand
from sweep.errors import UsageError
from sweep.folder import SweepFolder, read_plan
from sweep.resolve import Resolved


@dataclass(frozen=True, eq=False)
class Known:
    """What a design starts from.

    Attributes:
        prior: the fitted law. form: the same as a superset, at the middle of the runs.
        told: (7, 7) information of the runs. rows: how many runs, 0 where a covariance speaks.
        budgets: FLOPs of the runs. cells: frozen or recorded cells and probes of the sweep.
        coming: those of them without a result that a fit would see.
    """

    prior: Prior
    form: Superset
    told: NDArray
    rows: int
    budgets: tuple[float, ...]
    cells: tuple[Cell, ...]
    coming: tuple[Cell, ...]


def what_is_known(resolved: Resolved, app: AppConf) -> Known:
    """Read the fit and the runs behind it.

    Raises:
        UsageError: no fit, none that can be used, or one of other runs than were collected.
    """
    folder, rule = resolved.folder, resolved.inputs.settings.flop_rule
    own = app.design.fits is None
    path = folder.fits if own else expand(app.design.fits)
    try:
        prior = prior_from_fits(path)
    except PriorError as e:
        hint = f"; first: {folder.command('fit')}" if own and not path.exists() else ""
        raise UsageError(f"{'the sweep' if own else 'design.fits'}: {e}{hint}") from None
    told_of = prior.fits["points"]
    if told_of["N_convention"] != "flops" or told_of["flop_rule"] != rule:
        raise UsageError(
            f"{path} is of N={told_of['N_convention']} and flop_rule={told_of['flop_rule']}, cells "
            f"are planned by N=flops and flop_rule={rule}: first, {folder.command('fit')} "
            "fit.N=flops of a sweep with that rule"
        )
    planned = tuple(p.cell for p in read_plan(folder))
    return _with_records(resolved, prior, planned) if own else _with_fits(prior, planned)


def _with_records(resolved: Resolved, prior: Prior, planned: tuple[Cell, ...]) -> Known:
    folder = resolved.folder
    try:
        points = sweep_points(folder, "flops")
    except PointsError as e:
        raise UsageError(str(e)) from None
    if len(points) != prior.fits["points"]["n"]:
        raise UsageError(
            f"{folder.fits} is a fit to {prior.fits['points']['n']} cells, and {len(points)} are "
            f"collected: first, {folder.command('fit')}"
        )
    form = prior.form(_middle(points.N), _middle(points.D))
    told = information(form, prior.noise, points.N, points.D, points.C)
    seen = {*map(str, points.row), *(str(e.row) for e in points.excluded)}
    coming = tuple(c for c in planned if c.id not in seen and c.probe is None)
    budgets = tuple(map(float, points.budgets))
    recorded = {c.id: c for c in _recorded(folder)}
    cells = tuple({**recorded, **{c.id: c for c in planned}}.values())
    return Known(prior, form, told, len(points), budgets, cells, coming)


def _recorded(folder: SweepFolder) -> list[Cell]:
    """Rebuild the cells and probes of a sweep's records."""
    try:
        return [cell_from_row(row) for row in collected_records(folder).to_dict("records")]
    except ValueError as e:
        raise UsageError(f"{folder.collected}: {e}") from None


def _with_fits(prior: Prior, planned: tuple[Cell, ...]) -> Known:
    """Know the runs by fits.json alone, of another sweep; by its covariance where it lacks them."""
    coming = tuple(c for c in planned if c.probe is None)
    try:
        points = points_of(prior.fits["points"])
    except FitsError as e:
        raise UsageError(f"design.fits: {e}") from None
    if points is not None:
        form = prior.form(_middle(points.N), _middle(points.D))
        told = information(form, prior.noise, points.N, points.D, points.C)
        return Known(prior, form, told, len(points), prior.budgets, planned, coming)
    C = float(np.exp(np.log(prior.budgets).mean()))
    N = prior.N_opt(C)
    form = prior.form(N, C / 6 / N)
    try:
        told = prior.information_at(form)
    except PriorError as e:
        raise UsageError(
            f"design.fits: {e}, and the file is of before fits held their runs: run isoflop fit again"
        ) from None
    return Known(prior, form, told, 0, prior.budgets, planned, coming)


def budgets_of(cells: Iterable[Cell]) -> list[float]:
    return sorted({c.budget for c in cells})


def information_of(known: Known, cells: Sequence[Cell]) -> NDArray:
    if not cells:
        return np.zeros_like(known.told)
    N, D = (np.array([getattr(c, k) for c in cells], dtype=float) for k in ("N", "tokens"))
    return information(known.form, known.prior.noise, N, D, 6 * N * D)


def _middle(x: NDArray) -> float:
    return float(np.exp(np.log(x).mean()))


def fits_path(resolved: Resolved, app: AppConf) -> Path:
    """Where the fit of a design lies."""
    return resolved.folder.fits if app.design.fits is None else expand(app.design.fits)
