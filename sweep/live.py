"""A live table of a launch: what runs, how far it is, when it will be done."""

import time
from collections.abc import Mapping, Sequence

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from slurm.local import Event
from sweep.amounts import duration
from sweep.display import TerminalDisplay
from sweep.folder import PlannedCell

_OPEN = ("waiting", "running", "elsewhere")
AS_ASKED = ("finished", "stopped")  # a cell is stopped only where launch.stop_hopeless asks for it


class LaunchTable(TerminalDisplay):
    """Follows the events of a launch; a live table on a terminal, a line a cell elsewhere."""

    def __init__(
        self,
        console: Console,
        plan: Sequence[PlannedCell],
        done: Mapping[str, str],
        predicted: Mapping[str, float],
        workers: int,
    ) -> None:
        self.predicted, self.workers = dict(predicted), workers
        self.budget = {p.cell.id: p.cell.budget for p in plan}
        self.state = {p.cell.id: done.get(p.cell.id, "waiting") for p in plan}
        self.progress: dict[str, Mapping] = {}
        self.spent: dict[str, float] = {}
        self.started = time.monotonic()
        self.failures: dict[str, str] = {}
        super().__init__(console, get_renderable=self._render)  # asks for the first picture

    def on_event(self, event: Event) -> None:
        """Take in what a worker said."""
        if event.kind == "progress":
            self.state[event.item] = "running"
            self.progress[event.item] = event.data
        elif event.kind == "died":
            again = "resuming it" if event.data["again"] else "giving it up"
            self.state[event.item] = "waiting" if event.data["again"] else "failed"
            if not event.data["again"]:
                self.failures[event.item] = f"its worker died twice ({event.data['how']})"
            self.progress.pop(event.item, None)
            self.console.print(f"{event.item}: worker died ({event.data['how']}), {again}")
        elif event.kind == "held":
            if self.state[event.item] != "elsewhere":
                self.console.print(f"{event.item}: trained by {event.data['by']}; waiting for it")
            self.state[event.item] = "elsewhere"
            self.progress.pop(event.item, None)
        elif event.kind == "done_elsewhere":
            self.state[event.item] = event.data["status"]
            if event.data["status"] not in AS_ASKED:
                self.failures[event.item] = event.data["status"]
            self.console.print(f"{event.item} {event.data['status']} by another process")
        else:
            self._note_end(event)

    def _note_end(self, event: Event) -> None:
        self.state[event.item] = event.data["status"]
        self.spent[event.item] = event.data["seconds"]
        self.progress.pop(event.item, None)
        if event.data["status"] not in AS_ASKED:
            self.failures[event.item] = f"{event.data['status']}: {event.data['reason']}"
        loss = f"loss {event.data['val_loss']:.4f}, " if event.data["status"] == "finished" else ""
        count = sum(s not in _OPEN for s in self.state.values())
        reason = f": {event.data['reason']}" if event.data["reason"] else ""
        self.console.print(
            f"[{count}/{len(self.state)}] {event.item} {event.data['status']}{reason}, {loss}"
            f"{duration(event.data['seconds'])}; {self._eta()}",
        )

    def _eta(self) -> str:
        """Rest of the predicted time, corrected by how the finished cells went."""
        asked = sum(self.predicted[i] for i in self.spent if i in self.predicted)
        factor = sum(self.spent.values()) / asked if asked else 1.0
        rest = 0.0
        for cell_id, state in self.state.items():
            if state in _OPEN:
                done = self.progress.get(cell_id, {})
                share = 1 - done["step"] / done["steps"] if done else 1.0
                rest += share * self.predicted.get(cell_id, 0.0)
        return f"about {duration(rest * factor / self.workers)} to go" if rest else "all done"

    def _render(self) -> Group:
        table = Table(box=None, header_style="bold", pad_edge=False)
        for name in ("budget", "waiting", "running", "finished", "other"):
            table.add_column(name, justify="right")
        for budget in sorted(set(self.budget.values())):
            states = [s for i, s in self.state.items() if self.budget[i] == budget]
            named = [states.count(s) for s in ("waiting", "running", "finished")]
            counts = [*named, len(states) - sum(named)]
            table.add_row(f"{budget:.3g}", *(str(c) if c else "·" for c in counts))
        running = [
            Text(
                f"{i}  step {p['step']:,}/{p['steps']:,}  loss {p['loss']:.3f}  "
                f"{p['tokens_per_second'] / 1e3:.0f}k tokens/s  "
                f"{utilisation_of(p['utilisation'], p['peak'])}"
            )
            for i, p in self.progress.items()
        ]
        elapsed = duration(time.monotonic() - self.started)
        return Group(table, *running, Text(f"{elapsed} so far, {self._eta()}"))


def utilisation_of(share: float, peak: str) -> str:
    """Name a utilisation by its peak: only that of a datasheet is MFU."""
    return f"{share:.0%} MFU" if peak == "datasheet" else f"{share:.0%} of the measured peak"
