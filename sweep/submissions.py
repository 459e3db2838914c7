"""The ledger of submissions: what was handed to SLURM, by whom, and which job it became.

    <root>/<sweep>/submissions/<utc-stamp>-<n>.json

Each file is written before sbatch (state "frozen") and again after it ("submitted", or "refused" with
sbatch's words). A launcher that dies in between leaves a frozen one; its job name holds a token that
no other job has, so the queue can be asked whether it arrived.
"""

import getpass
import json
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sweep.errors import UsageError
from sweep.folder import SweepFolder

SCHEMA = 1
KINDS = ("canary", "cells", "finish")
STATES = ("frozen", "submitted", "refused")


@dataclass(frozen=True, kw_only=True)
class Submission:
    """One sbatch call: a job, or an array whose tasks have a cell each, or several in order."""

    name: str  # of its file, without .json
    kind: str
    job_name: str
    code: str  # folder in code/ that the job runs from
    at: str  # UTC, ISO 8601
    by: str  # user@host
    state: str = "frozen"
    job_id: str | None = None
    tasks: tuple[tuple[str, ...], ...] = ()  # cells by array index
    resources: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(
        default_factory=dict
    )  # of the attempts: hardware, run, data
    reason: str | None = None  # sbatch's words, where it refused

    @property
    def cells(self) -> tuple[str, ...]:
        """All cells, in the order of array indices."""
        return tuple(cell for task in self.tasks for cell in task)


def new_submission(folder: SweepFolder, kind: str, **values: Any) -> Submission:
    """Make a submission with a job name of its own; nothing is written yet.

    Args:
        folder: the sweep.
        kind: canary, cells or finish.
        values: other fields of Submission.
    """
    at, token = datetime.now(UTC), secrets.token_hex(4)
    return Submission(
        name=f"{at:%Y%m%dT%H%M%S%f}-{token}",
        kind=kind,
        job_name=f"isoflop-{folder.name}-{kind}-{token}",
        at=at.isoformat(timespec="seconds"),
        by=f"{_user()}@{os.uname().nodename}",
        **values,
    )


def write_submission(folder: SweepFolder, submission: Submission) -> Path:
    """Write or replace a submission's file, whole or not at all."""
    path = submissions_folder(folder) / f"{submission.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    # A task of one cell is that cell, as it was before there were others.
    cells = [task[0] if len(task) == 1 else list(task) for task in submission.tasks]
    values = {"schema": SCHEMA, **asdict(submission), "cells": cells}
    del values["name"], values["tasks"]
    part = path.with_suffix(f".{os.getpid()}.part")
    with part.open("w") as f:
        json.dump(values, f, indent=1)
        f.flush()
        os.fsync(f.fileno())
    part.replace(path)
    return path


def submitted(folder: SweepFolder, submission: Submission, job_id: str) -> Submission:
    """Note the job that a frozen submission became."""
    done = replace(submission, state="submitted", job_id=job_id)
    write_submission(folder, done)
    return done


def refused(folder: SweepFolder, submission: Submission, reason: str) -> Submission:
    """Note that a frozen submission became no job, and why."""
    done = replace(submission, state="refused", reason=reason)
    write_submission(folder, done)
    return done


def read_submissions(folder: SweepFolder) -> list[Submission]:
    """Every submission of a sweep, oldest first.

    Raises:
        UsageError: a file of another schema.
    """
    return [read_submission(p) for p in sorted(submissions_folder(folder).glob("*.json"))]


def read_submission(path: Path) -> Submission:
    """Read one file of the ledger.

    Raises:
        UsageError: it can't be read, or is of another schema.
    """
    try:
        values = json.loads(path.read_text())
        schema = values.pop("schema")
        if schema != SCHEMA:
            raise UsageError(
                f"{path} has schema {schema}, this code reads {SCHEMA}: "
                "use the code that wrote it (code/ beside it), or start a new sweep: sweep=NAME"
            )
        cells = values.pop("cells")
        tasks = tuple((task,) if isinstance(task, str) else tuple(task) for task in cells)
        return Submission(name=path.stem, tasks=tasks, **values)
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise UsageError(f"{path} is not a submission ({type(e).__name__}: {e})") from None


def job_ids(submissions: Iterable[Submission]) -> list[str]:
    """Ids of those that became jobs."""
    return [s.job_id for s in submissions if s.job_id is not None]


def of_kind(submissions: Sequence[Submission], kind: str) -> list[Submission]:
    """Those of one kind, in order."""
    return [s for s in submissions if s.kind == kind]


def submissions_folder(folder: SweepFolder) -> Path:
    """Where the ledger of a sweep lies."""
    return folder.path / "submissions"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user id may have no name
        return str(os.getuid())
