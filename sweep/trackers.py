"""Packages that show runs: TensorBoard, Weights & Biases, trackio. Each is imported when it is opened.

What a package is told besides (whom to log in as, offline or not, where its server is) it takes from its
own environment variables.
"""

import importlib.util
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sweep.errors import UsageError
from sweep.tracked_run import TrackedRun, Tracker


def check_trackers(names: Iterable[str]) -> None:
    """Make sure that the packages of some trackers are there; imports none.

    Raises:
        UsageError: one is not; says how to install it.
    """
    for name in names:
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:  # None: a mere folder of that name
            python = shlex.quote(sys.executable)
            raise UsageError(
                f"run.trackers={name}: its package is not installed; "
                f"type {python} -m pip install {name}, or leave {name} out"
            )


class TensorBoard:
    """Event files, a folder a run, with tokens as the step: `tensorboard --logdir FOLDER`."""

    def __init__(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run.folder / "tensorboard" / run.name))
        self._at = 0

    def tell(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each curve."""
        self._at = int(values["tokens"])
        for name, value in values.items():
            if name != "tokens":
                self._writer.add_scalar(name, value, self._at)
        self._writer.flush()

    def end(self, summary: Mapping[str, Any]) -> None:
        """Add what the record says at the last point."""
        for name, value in numbers(summary).items():
            self._writer.add_scalar(f"record/{name}", value, self._at)
        if summary:
            self._writer.add_text("record/status", said(summary), self._at)
        self._writer.close()


class WeightsAndBiases:
    """A run of wandb, with FLOPs as the axis of its curves; the same run when an attempt is resumed."""

    def __init__(self, run: TrackedRun) -> None:
        import wandb

        online = os.environ.get("WANDB_MODE", "online") in ("online", "shared")
        if online and not wandb.login(prompt=False):  # which would ask who may not be there
            raise UsageError("not logged in: type wandb login, or set WANDB_API_KEY or WANDB_MODE")
        run.folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=run.project,
            name=run.name,
            id=run.id,
            group=run.group,
            config=dict(run.config),
            dir=str(run.folder),
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(console="off", silent=True, disable_git=True),
        )
        self._run.define_metric("*", step_metric="flops")

    def tell(self, step: int, values: Mapping[str, float]) -> None:
        """Log one row."""
        self._run.log(dict(values), step=step)

    def end(self, summary: Mapping[str, Any]) -> None:
        """Put what the record says into the run's summary."""
        self._run.summary.update({f"record/{k}": v for k, v in known(summary).items()})
        self._run.finish(exit_code=0 if summary.get("status", "finished") == "finished" else 1)


class Trackio:
    """A run of trackio, in its local database or where TRACKIO_SPACE_ID says."""

    def __init__(self, run: TrackedRun) -> None:
        import trackio

        self._run = trackio.init(
            project=run.project,
            name=f"{run.name} {run.id[:6]}",  # its names are unique within a project
            group=run.group,
            config=dict(run.config),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        self._step = 0

    def tell(self, step: int, values: Mapping[str, float]) -> None:
        """Log one row."""
        self._step = step
        self._run.log(dict(values), step=step)

    def end(self, summary: Mapping[str, Any]) -> None:
        """Log what the record says at the last step."""
        if summary:
            self._run.log({f"record/{k}": v for k, v in known(summary).items()}, step=self._step)
        self._run.finish()


OPEN: dict[str, Callable[[TrackedRun], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "trackio": Trackio,
}


def known(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is None or NaN."""
    return {k: v for k, v in summary.items() if v is not None and v == v}


def numbers(summary: Mapping[str, Any]) -> dict[str, float]:
    """Keep what is known and a number."""
    return {k: v for k, v in known(summary).items() if isinstance(v, int | float)}


def said(summary: Mapping[str, Any]) -> str:
    """Say how the attempt ended."""
    return ": ".join(str(summary[k]) for k in ("status", "reason") if summary.get(k))
