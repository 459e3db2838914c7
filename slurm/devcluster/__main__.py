"""The command line: python -m slurm.devcluster up|down [key=value ...]."""

import sys
import time
from dataclasses import fields
from pathlib import Path

from slurm.devcluster.cluster import ClusterError, DevCluster
from slurm.devcluster.down import down
from slurm.devcluster.up import up

_KEYS = {f.name: f.type for f in fields(DevCluster)}
_USAGE = (
    "python -m slurm.devcluster up [key=value ...]     a real SLURM on this machine\n"
    "python -m slurm.devcluster down [root=FOLDER] [keep=true]\n\n"
    "Keys of up, with their defaults: "
    + ", ".join(f"{f.name}={str(f.default).lower()}" for f in fields(DevCluster))
)


def main() -> int:
    """Run the command line; returns the exit status."""
    verb, words = (sys.argv[1] if len(sys.argv) > 1 else "help"), sys.argv[2:]
    if verb in ("help", "--help", "-h"):
        print(_USAGE)
        return 0
    try:
        values = _parse(verb, words)
        started = time.monotonic()
        if verb == "up":
            cluster = DevCluster(**values)
            up(cluster, print)
            took = f"{time.monotonic() - started:.0f} s"
            print(f"Took {took}. In your shell: export SLURM_CONF={cluster.conf}")
        else:
            keep = values.pop("keep", False)
            root = values.get("root", DevCluster.root)
            cluster = DevCluster.load(root)
            if cluster is None:
                print(f"No cluster at {root}.")
            else:
                down(cluster, print, keep)
    except ClusterError as e:
        print(f"devcluster {verb}: {e}", file=sys.stderr)
        return 2
    return 0


def _parse(verb: str, words: list[str]) -> dict[str, object]:
    """Return the values of the keys that were typed.

    Raises:
        ClusterError: an unknown verb or key, or a value of another type.
    """
    if verb not in ("up", "down"):
        raise ClusterError("no such verb; it may be up or down")
    known = _KEYS if verb == "up" else {"root": Path, "keep": bool}
    values: dict[str, object] = {}
    for word in words:
        key, sep, text = word.partition("=")
        if not sep or key not in known:
            raise ClusterError(f"{word}: it may be {', '.join(f'{k}=' for k in known)}")
        try:
            values[key] = _convert(text, known[key])
        except (ValueError, KeyError):
            raise ClusterError(f"{word} must be of type {known[key].__name__}") from None
    return values


def _convert(text: str, kind: type) -> object:
    return {"true": True, "false": False}[text] if kind is bool else kind(text)


if __name__ == "__main__":
    sys.exit(main())
