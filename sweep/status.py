"""Status: what of a plan is done, and what is not moving, from the sweep's own files."""

from collections import Counter

from rich.console import Console
from rich.table import Table

from results.store import terminal_cells
from sweep.arguments import Arguments
from sweep.errors import UsageError
from sweep.folder import SweepFolder, read_plan


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
    total = sum(states.values(), Counter())
    if len(done) < len(plan):
        console.print(f"Go on: {args.again('launch', ('root', 'sweep', 'grid'))}")
    else:
        console.print(f"Next: {args.again('collect', ('root', 'sweep', 'grid'))}")
    return 1 if total["failed"] or total["diverged"] else 0


def _unrecorded(folder: SweepFolder, cell_id: str) -> str:
    base = folder.cell(cell_id)
    attempts = [p for p in base.iterdir() if p.name.isdigit()] if base.is_dir() else []
    if any((folder.records / f"{cell_id}.{p.name}.parquet").exists() for p in attempts):
        return "failed"
    return "started" if attempts else "waiting"
