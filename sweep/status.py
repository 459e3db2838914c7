"""Status: what of a plan is done, and what is not moving, from the sweep's own files."""

from collections import Counter

from rich.console import Console
from rich.table import Table

from results.store import read_records, rerun_spread, results_of, terminal_cells
from sweep.arguments import Arguments
from sweep.errors import UsageError
from sweep.folder import SweepFolder, read_plan
from sweep.health import complaints

_MOST = 10  # cells whose notes are printed


def print_status(folder: SweepFolder, args: Arguments, console: Console) -> int:
    """Print counts by budget and the next command; 0 when all is well.

    Args:
        folder: the sweep.
        args: what was typed, for the next command.
        console: where to print.

    Raises:
        UsageError: the sweep was never launched.
    """
    plan = read_plan(folder)
    if not plan:
        raise UsageError(
            f"sweep={folder.name} has no plan in {folder.path}: launch it first: isoflop launch"
        )
    done = terminal_cells(folder.records, [p.cell.id for p in plan])
    states: dict[float, Counter] = {}
    for p in plan:
        state = done.get(p.cell.id) or _unrecorded(folder, p.cell.id)
        states.setdefault(p.cell.budget, Counter())[state] += 1
    columns = ("waiting", "started", "finished", "diverged", "stopped", "failed")
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("budget", *columns):
        table.add_column(name, justify="right")
    for budget, counts in sorted(states.items()):
        table.add_row(f"{budget:.3g}", *(str(counts[c]) if counts[c] else "·" for c in columns))
    console.print(table)
    _print_health(folder, [p.cell.id for p in plan if p.cell.id in done], console)
    total = sum(states.values(), Counter())
    if len(done) < len(plan):
        console.print(f"Go on: {args.again('launch', ('root', 'sweep', 'grid'))}")
    else:
        console.print(f"Next: {args.again('collect', ('root', 'sweep', 'grid'))}")
    return 1 if total["failed"] or total["diverged"] else 0


def _print_health(folder: SweepFolder, done: list[str], console: Console) -> None:
    """Say which finished cells to look at before a law is drawn through them, and why."""
    if not done:
        return
    records = read_records(folder.records)
    results = results_of(records)
    results = results[results["cell_id"].isin(done)]
    for row in results[results["status"] == "diverged"].to_dict("records"):
        console.print(f"{row['cell_id']}: diverged, {row['reason']}")
    notes = {
        row["cell_id"]: complaints(row)
        for row in results[results["status"] == "finished"].to_dict("records")
    }
    unhealthy = {cell_id: found for cell_id, found in notes.items() if found}
    for cell_id, found in list(unhealthy.items())[:_MOST]:
        console.print(f"{cell_id}: {'; '.join(found)}")
    if len(unhealthy) > _MOST:
        console.print(f"and {len(unhealthy) - _MOST} more cells with such notes")
    spread = rerun_spread(records)
    if len(spread):
        console.print(
            f"Reruns of {len(spread)} cells differ by {spread['spread'].max():.3g} nats at most."
        )


def _unrecorded(folder: SweepFolder, cell_id: str) -> str:
    base = folder.cell(cell_id)
    attempts = [p for p in base.iterdir() if p.name.isdigit()] if base.is_dir() else []
    if any((folder.records / f"{cell_id}.{p.name}.parquet").exists() for p in attempts):
        return "failed"
    return "started" if attempts else "waiting"
