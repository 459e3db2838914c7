"""The forecast verb: losses and optima from a fits.json, and two of them against each other."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from analysis.fits_file import plain_json
from analysis.multiplier import IncomparableError, Multiplier, multipliers
from analysis.predict import forecast_at
from conf.schema import AppConf
from sweep.arguments import Arguments
from sweep.documents import expand
from sweep.errors import UsageError
from sweep.fitted_file import Entry, FittedFile, read_fitted
from sweep.fitting import fit_points
from sweep.folder import sweep_folder
from sweep.predictions import preregister, score
from sweep.summary import forecast_lines

_FORMATS = ("text", "json")
_NOT_TRANSFERRED = (
    "recipe not_transferred: cells were not near their best learning rate or batch at every size, so "
    "none of this is compute-optimal; isoflop collect says which. Retune, then fit again"
)


def forecast(args: Arguments, console: Console) -> int:
    """Answer what was asked; 1 where there is no number in the answer.

    Raises:
        UsageError: keys that exclude each other, a file that can't be used.
    """
    app = args.app
    if app.forecast.format not in _FORMATS:
        raise UsageError(
            f"forecast.format={app.forecast.format} is unknown; it may be text or json"
        )
    if app.score is not None:
        return score(args, console)
    _check_numbers(app)
    files = _files(args, console)
    if len(files) == 2:
        return _compare(app, files, console)
    return _forecast(app, files[0], console)


def _forecast(app: AppConf, file: FittedFile, console: Console) -> int:
    targets = app.forecast.targets
    if targets is None:  # those of the file, unless runs were asked for
        stored = [f["C"] for f in file.fits["forecast"] if "C" in f]
        targets = [] if app.forecast.at else list(dict.fromkeys(stored))
    entries = [f for C in targets for f in file.at_budget(float(C))]
    runs = [plain_json(f) for N, D in app.forecast.at for f in forecast_at(file.evidence, N, D)]
    known = [f for f in (*entries, *runs) if f.get("loss") is not None]
    if not entries and not runs:
        reason = next((f.get("reason") for f in file.fits["forecast"]), "nothing was fitted")
        raise UsageError(f"{file.path} has no forecast: {reason}")
    registered = []
    if app.preregister is not None:
        registered = preregister(app, file, known)
    answer = {
        "beyond_validated": beyond_validated(known), "warnings": file.warnings(),
        "fits": str(file.path), "sha256": file.sha256, "level": file.fits["level"],
        "forecast": entries, "at": runs, "registered": registered,
    }  # fmt: skip
    if app.forecast.format == "json":
        print(json.dumps(answer, indent=1, ensure_ascii=False))
    else:
        for line in _lines(answer):
            console.print(line)
        if app.points is not None:
            console.print(f"Wrote {file.path}")
    return 0 if known else 1


def beyond_validated(forecasts: Sequence[Entry]) -> str | None:
    """Say what lies beyond what these data validated, in one line; None where nothing does."""
    found = dict.fromkeys(
        f"{_target(f)}: {f['reason']}" for f in forecasts if f["status"] == "unvalidated"
    )
    return f"Beyond what these data validated: {'; '.join(found)}" if found else None


def _lines(answer: dict[str, Any]) -> Iterator[str]:
    level = f"{answer['level']:.0%}"
    if any(f["recipe"] == "not_transferred" for f in (*answer["forecast"], *answer["at"])):
        yield _NOT_TRANSFERRED
    if answer["beyond_validated"]:
        yield answer["beyond_validated"]
    yield from (f"warning: {text}" for text in answer["warnings"])
    for f in answer["forecast"]:
        yield from forecast_lines(f, level)
    for f in answer["at"]:
        yield _loss_line(f, level)
    for f in answer["registered"]:
        yield f"Registered {f['id']}: {_target(f)} by {f['law']}, on {f['date']}"


def _target(f: Entry) -> str:
    if f.get("N_range") is not None or f.get("kind_of_target") == "C":
        return f"C={f['C']:.3g}"
    return f"N={f['N']:.4g}, D={f['D']:.4g}"


def _loss_line(f: Entry, level: str) -> str:
    at = f"forecast at {_target(f)} ({f['law']})"
    if f.get("loss") is None or f.get("loss_interval") is None:
        return f"{at}: {f['status']}, {f.get('reason') or 'no interval, so no number'}"
    low, high = f["loss_interval"]
    limits = "" if f["status"] == "ok" else f", {f['status']}: {f['reason']}"
    return (
        f"{at}: loss {f['loss']:.4f} ({level}: {low:.4f} .. {high:.4f}), C={f['C']:.3g}; "
        f"recipe {f['recipe']}{limits}"
    )


def _compare(app: AppConf, files: list[FittedFile], console: Console) -> int:
    """Say what A's compute is worth in B's."""
    if app.forecast.at or app.preregister:
        key = "forecast.at" if app.forecast.at else "preregister"
        raise UsageError(f"{key} goes with one fit; fits=[A,B] compares two at forecast.targets")
    a, b = (f.evidence for f in files)
    shared = min(float(e.points.budgets[-1]) for e in (a, b))
    try:
        found = [m for C in app.forecast.targets or [shared] for m in multipliers(a, b, float(C))]
    except IncomparableError as e:
        raise UsageError(f"fits=[A,B]: {e}") from None
    entries = plain_json(found)
    answer = {
        "beyond_validated": _beyond(found), "warnings": [w for f in files for w in f.warnings()],
        "A": str(files[0].path), "B": str(files[1].path), "level": files[0].fits["level"],
        "multipliers": entries,
    }  # fmt: skip
    if app.forecast.format == "json":
        print(json.dumps(answer, indent=1, ensure_ascii=False))
        return 0 if any(m["multiplier"] is not None for m in entries) else 1
    if answer["beyond_validated"]:
        console.print(answer["beyond_validated"])
    for text in answer["warnings"]:
        console.print(f"warning: {text}")
    console.print(f"A is {files[0].path}, B is {files[1].path}. Same text and tokenizer? Then:")
    for m in found:
        console.print(_multiplier_line(m, f"{answer['level']:.0%}"))
    return 0 if any(m.status != "failed" for m in found) else 1


def _beyond(found: Sequence[Multiplier]) -> str | None:
    return beyond_validated([{**plain_json(m), "N_range": {}} for m in found])


def _multiplier_line(m: Multiplier, level: str) -> str:
    at = f"at C={m.C:.3g} ({m.law})"
    if m.status == "failed":
        return f"{at}: {m.status}, {m.reason}"
    limits = "" if m.status == "ok" else f"; {m.status}: {m.reason}"
    return (
        f"{at}: A is worth {m.multiplier:.3g} times the compute of B "
        f"({level}: {m.interval[0]:.2g} .. {m.interval[1]:.2g}); losses {m.loss[0]:.4f} and "
        f"{m.loss[1]:.4f}; A beats B with probability {m.probability:.2f}{limits}"
    )


def _files(args: Arguments, console: Console) -> list[FittedFile]:
    """Find the fits: those named, a sweep's, or of points that are fitted first."""
    app = args.app
    if "fits" in args.named:
        if not app.fits:
            raise UsageError("fits= has no value, such as fits=[A] or fits=[A,B]")
        others = args.named - {"fits", "preregister"} - args.groups_named("forecast")
        if others:
            raise UsageError(f"{min(others)} is not read with fits=, which are fitted already")
        if len(app.fits) > 2:
            raise UsageError(f"fits= takes one or two, got {len(app.fits)}: compare two at a time")
        return [read_fitted(_fits_path(expand(name))) for name in app.fits]
    if app.points is not None:
        if app.out is None:
            raise UsageError("points=FILE needs out=FOLDER to write to")
        app.fit.targets = app.fit.targets or app.forecast.targets
        with console.capture():  # what fit says of itself is in fits.json
            folder = fit_points(app, expand(app.out), console)
        return [read_fitted(folder / "fits.json")]
    folder = sweep_folder(app)
    unused = args.groups_named("fit", "columns", "out") - {"fit.loss"}
    if unused:
        raise UsageError(
            f"{min(unused)} is not read here: the forecast of a sweep is by its fits.json; "
            f"first: {folder.command('fit')} {min(unused)}=..."
        )
    of_set = [] if app.fit.loss is None else [f"fit.loss={app.fit.loss}"]
    first = folder.command("fit", *of_set)
    return [read_fitted(folder.fits_of(app.fit.loss), f"; first: {first}")]


def _fits_path(path: Path) -> Path:
    return path / "fits.json" if path.is_dir() else path


def _check_numbers(app: AppConf) -> None:
    bad = [C for C in app.forecast.targets or [] if not 0 < C < 1e60]
    if bad or app.forecast.targets == []:
        what = f"{bad[0]:g}" if bad else "nothing"
        raise UsageError(f"forecast.targets must be positive FLOPs such as [1e22,1e23], got {what}")
    for pair in app.forecast.at:
        if not _is_pair(pair):
            raise UsageError(
                f"forecast.at={pair} must be pairs [N, D] of positive numbers, such as "
                "[[1e9,2e10],[7e9,1.4e11]]"
            )


def _is_pair(pair: Any) -> bool:
    numbers = isinstance(pair, list) and all(type(v) in (int, float) for v in pair)
    return numbers and len(pair) == 2 and all(0 < v < 1e60 for v in pair)
