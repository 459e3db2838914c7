"""A registry of predictions: JSON lines, only ever added to, each line bound to the one before.

A line holds the sha256 of its predecessor, so that a prediction that was changed after the fact
no longer fits what follows it. Lines are of two kinds: a prediction, made before a run, and the
score of one, made after. A prediction is scored once.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.fits_file import plain_json

REGISTRY_VERSION = 1
KINDS = ("prediction", "score")
Entry = dict[str, Any]


class RegistryError(ValueError):
    """A registry that can't be read or added to; the text is one line that says what to do."""


def read_registry(path: Path) -> list[Entry]:
    """Entries in the order in which they were made; none where there is no file.

    Raises:
        RegistryError: it is no registry, of another version, or was changed.
    """
    try:
        return _entries(Path(path).read_bytes(), path)
    except FileNotFoundError:
        return []
    except OSError as e:
        raise RegistryError(f"can't read {path}: {e.strerror}") from None


def predictions(entries: Sequence[Entry]) -> list[Entry]:
    """Predictions among the entries."""
    return [e for e in entries if e["kind"] == "prediction"]


def scores(entries: Sequence[Entry]) -> dict[str, Entry]:
    """Scores by the id of their prediction."""
    return {e["id"]: e for e in entries if e["kind"] == "score"}


def prediction_id(content: Mapping[str, Any]) -> str:
    """Twelve hex digits of what is predicted: the fit, the law and the target."""
    keys = ("fit_sha256", "law", "kind_of_target", "target")
    asked = json.dumps(plain_json({k: content[k] for k in keys}), sort_keys=True)
    return hashlib.sha256(asked.encode()).hexdigest()[:12]


def append(path: Path, added: Sequence[Mapping[str, Any]]) -> list[Entry]:
    """Add entries to a registry, made where it is not there; returns them as written.

    Raises:
        RegistryError: as read_registry; a prediction or score that is in it already, which is never
            overwritten; a folder that can't be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            before = file.read()
            lines = _lines(_entries(before, path), before, added, path)
            file.write("".join(lines).encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as e:
        raise RegistryError(
            f"can't write {path}: {e.strerror}; name a file you can write"
        ) from None
    return [json.loads(line) for line in lines]


def _lines(
    known: list[Entry], before: bytes, added: Sequence[Mapping[str, Any]], path: Path
) -> list[str]:
    """Text of the lines to add, each with the hash of the one before it."""
    seen = {(e["kind"], e["id"]): e for e in known}
    last, lines = _last_hash(before), []
    for entry in added:
        key = entry["kind"], entry["id"]
        if key in seen:
            what = "registered" if entry["kind"] == "prediction" else "scored"
            raise RegistryError(
                f"{path}: {entry['id']} was {what} on {seen[key]['date']} and stays as it is; "
                "predict from another fit, at another target, or in another file"
            )
        whole = {"registry": REGISTRY_VERSION, **plain_json(entry), "previous": last}
        line = json.dumps(whole, allow_nan=False, ensure_ascii=False) + "\n"
        seen[key], last = whole, hashlib.sha256(line.encode()).hexdigest()
        lines.append(line)
    return lines


def _last_hash(content: bytes) -> str | None:
    lines = content.splitlines(keepends=True)
    return hashlib.sha256(lines[-1]).hexdigest() if lines else None


def _entries(content: bytes, path: Path) -> list[Entry]:
    entries, last = [], None
    for number, line in enumerate(content.splitlines(keepends=True), start=1):
        at = f"{path}, line {number}"
        try:
            entry = json.loads(line)
            version, kind, name = entry["registry"], entry["kind"], entry["id"]
            previous, _ = entry["previous"], entry["date"]
        except (ValueError, KeyError, TypeError):
            raise RegistryError(
                f"{at} is no entry of a registry of predictions: name another file, or take out a "
                "line that was cut short"
            ) from None
        if version != REGISTRY_VERSION or kind not in KINDS or not isinstance(name, str):
            raise RegistryError(
                f"{at} is of registry version {version}, kind {kind}; this code reads version "
                f"{REGISTRY_VERSION}, {' and '.join(KINDS)}"
            )
        if previous != last or not line.endswith(b"\n"):
            raise RegistryError(f"{at} does not follow the line before it: the file was changed")
        last = hashlib.sha256(line).hexdigest()
        entries.append(entry)
    return entries
