"""What each verb does. Imports are late: help needs no Hydra, a budget no pandas, a plan no torch."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sweep.budget_help import budget_help
from sweep.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from sweep.arguments import Arguments
    from sweep.settings import RunSettings

_CELLS = ("root", "sweep", "grid", "grid.*", "model", "model.*", "recipe", "recipe.*", "data",
          "data.*", "eval")  # fmt: skip
_HARDWARE = ("hardware", "hardware.*")
_RUN = ("run.evaluations", "run.checkpoint_seconds", "run.checkpoint_steps",
        "run.keep_checkpoints", "run.lease_seconds", "run.trackers", "run.tracker_project")  # fmt: skip
_SWEEP = ("root", "sweep", "grid")
_FIT = ("fit", "fit.*")


@dataclass(frozen=True)
class Verb:
    """A verb: its function, the keys it reads, one line of help, an example that works."""

    do: Callable[[Arguments, Console], int]
    reads: tuple[str, ...]
    help: str
    example: str
    more: Callable[[], str] | None = None  # further lines of help


def plan(args: Arguments, console: Console) -> int:
    """Print the grid; write nothing."""
    from sweep.plan import print_json, print_table
    from sweep.resolve import hardware_settings, resolve

    hardware = hardware_settings(args.app.hardware)
    if args.app.plan.format not in ("table", "json"):
        raise UsageError(f"plan.format={args.app.plan.format} is unknown; it may be table or json")
    resolved = resolve(args.app)
    if args.app.plan.bounds:
        from sweep.bounds_table import print_bounds, print_bounds_json

        if args.app.plan.format == "json":
            print_bounds_json(resolved.grid.cells, hardware)
        else:
            print_bounds(resolved.grid.cells, hardware, console)
        return 0
    _check_data(resolved, args)
    if args.app.plan.format == "json":
        print_json(resolved, args.app)
    else:
        print_table(resolved, args.app, console)
        _next(console, "Train it", args.again("launch", VERBS["launch"].reads))
    return 0


def prepare(args: Arguments, console: Console) -> int:
    """Fetch and tokenise the data of a config."""
    from sweep.data import check_data, open_data, prepare_data
    from sweep.resolve import resolve

    resolved = resolve(args.app)
    _make_root(resolved.folder.root)
    shards = prepare_data(
        resolved.data, resolved.folder.data_cache, console.print, resolved.handling.workers
    )
    data = open_data(shards, resolved.data, resolved.grid.cells[0].model.seq_len, verify=True)
    check_data(list(resolved.grid.trained), data, resolved.data.max_epochs)
    console.print(
        f"data={args.app.data.name}: {data.train_tokens:,} training and "
        f"{sum(len(h.rows.tokens) for h in data.validation):,} validation tokens in {shards}, "
        "checksums right.",
    )
    _next(console, "Train on it", args.again("launch", VERBS["launch"].reads))
    return 0


def launch(args: Arguments, console: Console) -> int:
    """Train, or have SLURM train, every planned cell without a terminal record."""
    from sweep.cluster import cluster_settings, launch_settings

    cluster = cluster_settings(args.app.cluster)
    how = launch_settings(args.app.launch, args.words_of(VERBS["launch"].reads))
    _refuse_unused_launch_keys(args, cluster.kind)
    if cluster.kind == "slurm":
        return _launch_on_slurm(args, cluster, how, console)
    from sweep.launch import launch as launch_sweep
    from sweep.resolve import hardware_settings, resolve

    app, run, resolved = args.app, _run_settings(args), resolve(args.app)
    bad = launch_sweep(resolved, hardware_settings(app.hardware), run, cluster, how, console)
    for cell_id, reason in bad.items():
        console.print(f"{cell_id}: {reason}")
    _next(console, "Next", args.again("collect", _SWEEP))
    return 1 if bad else 0


def _launch_on_slurm(args: Arguments, cluster, how, console: Console) -> int:
    from sweep.launch_asked import SlurmLaunch
    from sweep.launch_slurm import launch_on_slurm
    from sweep.resolve import hardware_settings, resolve

    app = args.app
    run = _run_settings(args, elsewhere=cluster.python or cluster.container)
    asked = SlurmLaunch(
        resolve(app), hardware_settings(app.hardware), run, cluster, how, app.hardware.price
    )
    done = launch_on_slurm(asked, console)
    for cell_id, reason in done.bad.items():
        console.print(f"{cell_id}: {reason}")
    if not how.dry_run:
        next_verb = "status" if done.jobs else "collect"
        _next(console, "Next", args.again(next_verb, _SWEEP))
    return 1 if done.bad else 0


def _run_settings(args: Arguments, elsewhere: str | None = None) -> RunSettings:
    """Take how attempts go, and look for the packages of their trackers.

    Args:
        args: what was asked.
        elsewhere: the Python or container of the jobs, whose packages can't be seen from here.
    """
    from sweep.resolve import run_settings

    settings = run_settings(args.app.run)
    if settings.trackers and not elsewhere:
        from sweep.trackers import check_trackers

        check_trackers(settings.trackers)
    return settings


def _refuse_unused_launch_keys(args: Arguments, kind: str) -> None:
    """Refuse a choice that this kind of launch would not look at."""
    if kind == "slurm":
        return
    for_slurm = args.groups_named("cluster") - {"cluster", "cluster.kind", "cluster.workers"}
    for_slurm |= args.named & {"launch.canary"}
    if for_slurm:
        key = sorted(for_slurm)[0]
        raise UsageError(f"{key} is read by cluster=slurm only: leave it out, or add cluster=slurm")


def run(args: Arguments, console: Console) -> int:
    """Train one cell, here and now."""
    from sweep.resolve import hardware_settings, resolve

    if args.app.cell is None:
        raise UsageError("run needs cell=ID; list the ids with: isoflop plan")
    hardware, settings = hardware_settings(args.app.hardware), _run_settings(args)
    from sweep.rerun import find_cell, measure_speed, rerun  # imports torch: after cheap checks

    changed = args.groups_named("grid", "model", "recipe", "data", "eval") - {"grid"}
    found = find_cell(resolve(args.app), args.app.cell, args.app.record, changed)
    if args.app.run.steps is not None:
        measure_speed(found, hardware, args.app.run.steps, console)
        return 0
    record = rerun(found, hardware, settings, console)
    _next(console, "Next", args.again("collect", _SWEEP))
    return 0 if record.status == "finished" else 1


def status(args: Arguments, console: Console) -> int:
    """Count cells by state and budget, and say what does not move and why."""
    from sweep.folder import sweep_folder
    from sweep.status import print_status

    return print_status(sweep_folder(args.app), args, console, args.app.status.watch)


def logs(args: Arguments, console: Console) -> int:
    """Print what a cell's last job said."""
    from sweep.folder import sweep_folder
    from sweep.logs import print_logs

    if args.app.cell is None:
        raise UsageError("logs needs cell=ID; list the ids with: isoflop plan")
    return print_logs(sweep_folder(args.app), args.app.cell, args, console)


def cancel(args: Arguments, console: Console) -> int:
    """Stop a sweep, or one cell's job."""
    from sweep.cancel import cancel as cancel_sweep
    from sweep.folder import sweep_folder

    return cancel_sweep(sweep_folder(args.app), args.app.cell, args, console)


def collect(args: Arguments, console: Console) -> int:
    """Gather record files into records.parquet and curves.parquet."""
    from analysis.recipe_transfer import transfer
    from sweep.collect import collect as collect_sweep
    from sweep.folder import sweep_folder

    folder = sweep_folder(args.app)
    got = collect_sweep(folder)
    console.print(
        f"{len(got.records)} records and {len(got.curves)} curve rows in {folder.collected} and "
        f"{folder.curves.name}: {got.planned - len(got.missing)} of {got.planned} planned cells.",
    )
    if got.missing:
        console.print(f"Missing: {', '.join(got.missing[:5])}{' …' * (len(got.missing) > 5)}")
    if got.tasks:
        console.print(f"{got.tasks}.")
    console.print(transfer(got.records).line)
    _next(console, "Next", args.again("fit", _SWEEP))
    return 0


def evaluate(args: Arguments, console: Console) -> int:
    """Evaluate trained cells by a command, or on sets."""
    from sweep.evaluating import evaluate_sweep

    code = evaluate_sweep(args, console)
    _next(console, "Next", args.again("collect", _SWEEP))
    return code


def fit(args: Arguments, console: Console) -> int:
    """Fit laws to a collected sweep or to anybody's points."""
    from sweep.fitting import fit_points, fit_sweep
    from sweep.folder import sweep_folder

    _refuse_unused_fit_keys(args)
    if args.app.points is None:
        fit_sweep(args.app, sweep_folder(args.app), console)
        _next(console, "Next", args.again("report", (*_SWEEP, "fit.loss")))
    else:
        fit_points(args.app, _out(args), console)
        _next(console, "Next", args.again("report", VERBS["report"].reads))
    return 0


def report(args: Arguments, console: Console) -> int:
    """Write report.html, report.md and the figures."""
    _refuse_unused_fit_keys(args)
    price = args.app.report.price
    if price is not None and not 0 <= price < float("inf"):
        raise UsageError(f"report.price={price:g} must be dollars for a device-hour, 0 or more")
    if args.app.fits:
        return _compare(args, console)
    unused = sorted(args.groups_named("fit", "columns", "out") - {"fit.loss"})
    if args.app.points is None and unused:
        raise UsageError(
            f"{unused[0]} is not read here: the report of a sweep shows its fits.json; "
            f"first: {args.again('fit', _SWEEP)} {unused[0]}=..."
        )
    return _report(args, console)


def _compare(args: Arguments, console: Console) -> int:
    from sweep.reporting import report_fits

    others = args.groups_named("fit", "columns", "points", *_SWEEP)
    unused = sorted(others | ({"report.price"} & args.named))
    if unused:
        raise UsageError(
            f"{unused[0]} is not read with fits=, which shows what those files hold: leave it out"
        )
    out, again = _out(args, "fits=[A,B]"), args.again("report", VERBS["report"].reads)
    return _say_page(*report_fits(args.app, out, again), console)


def _say_page(page: Path, gaps: list[str], console: Console) -> int:
    """Name the page, and what could not be shown on it: then something asked did not work."""
    for gap in gaps:
        console.print(f"Not in the report: {gap}")
    console.print(f"Open {page}")
    return 1 if gaps else 0


def _report(args: Arguments, console: Console) -> int:
    from sweep.folder import sweep_folder
    from sweep.reporting import report_points, report_sweep

    gaps: list[str] = []
    if args.app.points is None:
        page, gaps = report_sweep(
            args.app,
            sweep_folder(args.app),
            args.again("report", (*_SWEEP, "report.*", "fit.loss")),
        )
    else:
        page = report_points(
            args.app, _out(args), console, args.again("report", VERBS["report"].reads)
        )
    return _say_page(page, gaps, console)


def forecast(args: Arguments, console: Console) -> int:
    """Predict losses and optima, compare two fits, register predictions and score them."""
    from sweep.forecasting import forecast as do

    return do(args, console)


def design(args: Arguments, console: Console) -> int:
    """Choose the next cells; write them as a file that launch takes."""
    from sweep.arguments import REPLACED_BY_CELLS
    from sweep.design_known import fits_path
    from sweep.design_report import print_design, write_design
    from sweep.design_settings import design_settings
    from sweep.designing import plan_design
    from sweep.resolve import resolve

    asked = design_settings(args.app.design, args.named)
    resolved = resolve(args.app)
    plan, fits = plan_design(resolved, args.app, asked), fits_path(resolved, args.app)
    path = write_design(plan, resolved.folder, fits)
    print_design(plan, console, fits)
    if path is not None:
        console.print(f"Wrote {path}")
        reads = VERBS["launch"].reads
        command = args.again("launch", reads, without=REPLACED_BY_CELLS)
        _next(console, "Launch them", f"{command} {shlex.quote(f'grid.cells={path}')}")
    return 0


def export(args: Arguments, console: Console) -> int:
    """Make a checkpoint of transformers of a finished cell."""
    from sweep.folder import sweep_folder

    if args.app.cell is None or args.app.out is None:
        raise UsageError("export needs cell=ID and out=FOLDER; list the ids with: isoflop plan")
    from sweep.exporting import export as export_cell  # imports torch: after cheap checks

    export_cell(args, sweep_folder(args.app), console)
    return 0


def import_(args: Arguments, console: Console) -> int:
    """Judge a checkpoint of transformers on a cell's validation set."""
    from sweep.folder import sweep_folder

    if args.app.from_ is None:
        raise UsageError("import needs from=FOLDER, such as isoflop export writes")
    from sweep.importing import judge

    judge(args, sweep_folder(args.app), console)
    return 0


def demo(args: Arguments, console: Console) -> int:
    """Prepare, launch, collect, fit and report, one after another."""
    from sweep.folder import sweep_folder
    from sweep.reporting import current_page

    for step in (launch, collect, fit, _report):
        console.rule(step.__name__.strip("_"))
        code = step(args, console)
        if code:
            return code
        page = current_page(sweep_folder(args.app)) if step is launch else None
        if page is not None and not args.groups_named("fit", "report"):
            console.print(f"Nothing is new since the last report. Open {page}")
            return 0
    return 0


def budget(args: Arguments, console: Console) -> int:
    """Planning arithmetic, with no sweep."""
    from sweep.budgeting import print_answer

    return print_answer(args, console)


VERBS: dict[str, Verb] = {
    "prepare": Verb(prepare, _CELLS, "fetch and tokenise the data once", "isoflop prepare"),
    "plan": Verb(
        plan,
        (*_CELLS, *_HARDWARE, "plan.*", "design.target"),
        "cells, predicted cost, what is left out and why; writes nothing",
        "isoflop plan grid=smoke",
    ),
    "launch": Verb(
        launch,
        (*_CELLS, *_HARDWARE, "cluster", "cluster.*", "launch.*", *_RUN),
        "train every planned cell that has no result yet",
        "isoflop launch grid=smoke",
    ),
    "run": Verb(
        run,
        (*_CELLS, *_HARDWARE, "cell", "record", "run.steps", *_RUN),
        "train one cell, here and now, and compare",
        "isoflop run grid=smoke cell=c1.4e10-n11k",
    ),
    "status": Verb(
        status,
        (*_SWEEP, "status.*"),
        "what is done, runs, waits, failed; why, and what to type",
        "isoflop status grid=smoke",
    ),
    "logs": Verb(
        logs,
        (*_SWEEP, "cell"),
        "what a cell's last job said, and its last error in words",
        "isoflop logs grid=smoke cell=c1.4e10-n11k",
    ),
    "cancel": Verb(
        cancel,
        (*_SWEEP, "cell"),
        "stop a sweep's jobs and its launches here, or one cell's job",
        "isoflop cancel grid=smoke",
    ),
    "collect": Verb(
        collect,
        _SWEEP,
        "gather records into records.parquet and curves.parquet",
        "isoflop collect grid=smoke",
    ),
    "evaluate": Verb(
        evaluate,
        (*_SWEEP, "cell", "evaluate.*", "eval", "data.workers", *_HARDWARE),
        "judge trained cells by lm-eval or any command, or on further sets",
        "isoflop evaluate grid=smoke 'eval=[{name:news,path:news.txt}]'",
    ),
    "fit": Verb(
        fit,
        (*_SWEEP, "points", "curves", "out", "columns.*", *_FIT),
        "laws with intervals, from a sweep or anybody's points",
        "isoflop fit grid=smoke",
    ),
    "report": Verb(
        report,
        (*_SWEEP, "points", "fits", "out", "columns.*", *_FIT, "report", "report.*"),
        "one page with the answer, and every figure",
        "isoflop report grid=smoke",
    ),
    "forecast": Verb(
        forecast,
        (
            *_SWEEP,
            "points",
            "out",
            "fits",
            "columns.*",
            *_FIT,
            "forecast.*",
            "preregister",
            "score",
        ),
        "loss, N and D at budgets nobody spent; registered and scored; fits=[A,B]: A against B",
        "isoflop forecast fits=[results/reference/demo/fits.json] forecast.targets=[1e13]",
    ),
    "budget": Verb(
        budget,
        ("budget.*", "fits"),
        "planning arithmetic with no sweep: FLOPs, hours, money, serving",
        "isoflop budget budget.N=7e9 budget.D=1e12 budget.hardware=a100 budget.mfu=.5",
        budget_help,
    ),
    "design": Verb(
        design,
        (*_CELLS, *_HARDWARE, "design.*"),
        "the next cells to run, for a target and a budget",
        "isoflop design grid=smoke design.flops=3e12",
    ),
    "export": Verb(
        export,
        (*_SWEEP, "cell", "out", "export.*"),
        "a trained cell as a checkpoint of transformers, with a model card",
        "isoflop export grid=smoke cell=c1.4e10-n11k out=exported",
    ),
    "import": Verb(
        import_,
        (
            *_SWEEP,
            "cell",
            "from",
            "hardware",
            "hardware.device",
            "hardware.dtype",
            "hardware.threads",
        ),
        "the loss of a checkpoint of transformers on a cell's validation set",
        "isoflop import grid=smoke from=exported",
    ),
    "demo": Verb(
        demo,
        (
            *_CELLS,
            *_HARDWARE,
            "cluster",
            "cluster.workers",
            "launch.*",
            *_RUN,
            *_FIT,
            "report",
            "report.*",
        ),
        "all of it on this machine, in minutes",
        "isoflop demo",
    ),
}


def _refuse_unused_fit_keys(args: Arguments) -> None:
    """Refuse a choice that the fit would not look at."""
    fit = args.app.fit
    if "fit.delta" in args.named and fit.estimator != "huber":
        raise UsageError(
            f"fit.delta is not read by fit.estimator={fit.estimator}: add fit.estimator=huber"
        )
    if "fit.N" in args.named and args.app.points is not None:
        raise UsageError("fit.N chooses among a sweep's own counts; with points=, map columns.N")
    if "fit.loss" in args.named and args.app.points is not None:
        raise UsageError("fit.loss chooses a set of a sweep; with points=, map columns.loss")


def _check_data(resolved, args: Arguments) -> None:
    """Compare D with the text where it is prepared already; a plan fetches nothing."""
    from sweep.data import check_data, find_prepared, open_data

    shards = find_prepared(resolved.data, resolved.folder.data_cache)
    if shards is None:
        prepare = args.again("prepare", VERBS["prepare"].reads)
        note = f"The data is not prepared yet, so epochs are unknown; first: {prepare}"
        print(note, file=sys.stderr)  # stdout may be JSON
        return
    data = open_data(shards, resolved.data, resolved.grid.cells[0].model.seq_len)
    check_data(list(resolved.grid.trained), data, resolved.data.max_epochs)


def _next(console: Console, what: str, command: str) -> None:
    """Say what to type next, so that it can be pasted."""
    console.print(f"{what}: {command}")


def _make_root(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UsageError(f"root={root}: {e.strerror}; name a folder that you can write") from None


def _out(args: Arguments, what: str = "points=FILE") -> Path:
    from sweep.documents import expand

    if args.app.out is None:
        raise UsageError(f"{what} needs out=FOLDER to write to")
    return expand(args.app.out)
