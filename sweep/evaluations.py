"""The store of evaluations: what was found on a cell's trained model after its end.

    <root>/<sweep>/evaluations/<cell_id>.<attempt>.<key>.json

One file each, written once and never changed, as records are. The key is a hash of what was asked and of
the checkpoint's bytes: the same on the same model is not done again.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from slurm.lease import Lease
from sweep.errors import UsageError
from sweep.folder import SweepFolder

SCHEMA = 1
KINDS = ("tasks", "set")  # by a command; the loss on a set of eval=


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One evaluation of one attempt's model.

    Attributes:
        kind: tasks or set. asked: the command and its tasks, or the set.
        checkpoint_sha256: of the file that holds the model.
        found: tasks: numbers by task/metric. set: loss, se, bpb, bpb_se, tokens.
        counted: tasks: those that stand for themselves.
        at: UTC, ISO 8601, of its end. seconds: that it took.
        made_by: host, commit and hash of the code; of a set also device and dtype.
    """

    cell_id: str
    attempt: int
    kind: str
    asked: Mapping[str, Any]
    checkpoint_sha256: str
    found: Mapping[str, Any]
    counted: tuple[str, ...] = ()
    at: str
    seconds: float
    made_by: Mapping[str, Any]

    @property
    def by(self) -> str:
        """Hash of what was asked: numbers of one name can be compared where this is the same."""
        return hash_of({"kind": self.kind, "asked": self.asked})


def hash_of(values: Any) -> str:
    """Hash plain values, 12 hex digits."""
    return sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def key_of(kind: str, asked: Mapping[str, Any], checkpoint_sha256: str) -> str:
    """Return the key of an evaluation: what was asked, and of which bytes."""
    return hash_of({"kind": kind, "asked": asked, "checkpoint": checkpoint_sha256})


def path_of(folder: SweepFolder, cell_id: str, attempt: int, key: str) -> Path:
    """Where an evaluation is kept."""
    return folder.evaluations / f"{cell_id}.{attempt}.{key}.json"


def write_evaluation(evaluation: Evaluation, path: Path, lease: Lease) -> None:
    """Write an evaluation, whole or not at all.

    Raises:
        LeaseLost: somebody else took it over.
        FileExistsError: it is written already.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = lease.stage("evaluation.part")
    part.write_text(json.dumps({"schema": SCHEMA, **asdict(evaluation)}, indent=1) + "\n")
    lease.put(part, path, only_once=True)


def read_evaluations(folder: SweepFolder) -> list[Evaluation]:
    """Every evaluation of a sweep, the oldest first.

    Raises:
        UsageError: a file that can't be read, or of another schema.
    """
    found = [_read(path) for path in sorted(folder.evaluations.glob("*.json"))]
    return sorted(found, key=lambda e: e.at)


def latest_by(evaluations: Iterable[Evaluation]) -> dict[tuple[str, str], str]:
    """Say of each kind and name, of a number or a set, by which question it was last asked.

    Args:
        evaluations: the oldest first.
    """
    by: dict[tuple[str, str], str] = {}
    for e in evaluations:
        names = e.found if e.kind == "tasks" else [e.asked["name"]]
        by |= {(e.kind, name): e.by for name in names}
    return by


def _read(path: Path) -> Evaluation:
    try:
        values = json.loads(path.read_text())
        schema = values.pop("schema")
        if schema != SCHEMA:
            raise ValueError(f"it has schema {schema}, this code reads {SCHEMA}")
        return Evaluation(**{**values, "counted": tuple(values["counted"])})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise UsageError(
            f"{path} is no evaluation ({' '.join(str(e).split())[:200]}): move it away, "
            "and evaluate the cell again"
        ) from None
