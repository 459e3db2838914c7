"""The command line: isoflop VERB [key=value ...].

Every verb reads the same config: `isoflop VERB --cfg job` prints it, `isoflop VERB --help` says
which keys the verb reads. Exit status: 0 done, 1 something that was asked did not work, 2 the
command was wrong, 130 Ctrl-C.
"""

import atexit
import gc
import importlib.util
import os
import sys
import tempfile
import textwrap
import traceback
from pathlib import Path

from sweep.errors import UsageError, nearest

CHECKOUT = Path(__file__).resolve().parent.parent
_PACKAGES = ("analysis", "conf", "models", "results", "slurm", "sweep")
_HYDRA_FLAGS = ("--cfg", "-c", "--info", "-i", "--hydra-help", "--shell-completion", "-sc",
                "--package", "-p", "--resolve")  # fmt: skip


def main() -> int:
    """Run the command line; returns the exit status."""
    verb, words = (sys.argv[1] if len(sys.argv) > 1 else "help"), sys.argv[2:]
    # What imports make lives to the end: looking for garbage in it is a tenth of a report's time.
    gc.set_threshold(50_000)
    atexit.register(gc.freeze)
    try:
        _refuse_shadows()
        return _dispatch(verb, words)
    except UsageError as e:
        print(f"isoflop {verb}: {' '.join(str(e).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped. Nothing finished is lost: the same command goes on.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except Exception as e:
        print(
            f"isoflop {verb}: {type(e).__name__}: {' '.join(str(e).split())[:300]}; "
            f"details in {_write_log()}",
            file=sys.stderr,
        )
        return 1


def _dispatch(verb: str, words: list[str]) -> int:
    from sweep.verbs import VERBS

    if verb in ("help", "--help", "-h"):
        print(_overview(VERBS))
        return 0
    if verb not in VERBS:
        near = nearest(verb, VERBS)
        hint = f"did you mean {near[0]}?" if near else f"it may be {', '.join(VERBS)}"
        raise UsageError(f"no such verb; {hint}")
    if {"--help", "-h"} & set(words):
        print(_help(verb, VERBS[verb]))
        return 0
    if {"--multirun", "-m"} & set(words):
        raise UsageError(
            "--multirun makes Cartesian products, which an isoFLOP grid is not: "
            "set grid.budgets and model.ladder, and launch"
        )
    from sweep.arguments import parse
    from sweep.console import PlainConsole

    if any(w.split("=")[0] in _HYDRA_FLAGS for w in words):
        keys = [w for w in words if "=" in w and not w.startswith("-")]
        parse(verb, keys, VERBS[verb].reads)  # Hydra would say what is wrong in many lines
        return _hydra(words)
    args = parse(verb, words, VERBS[verb].reads)

    return VERBS[verb].do(args, PlainConsole())


def _hydra(words: list[str]) -> int:
    """Leave the words to Hydra's own application, for its flags."""
    import hydra
    from hydra.core.config_store import ConfigStore

    from conf.schema import AppConf
    from sweep.arguments import quoted

    ConfigStore.instance().store(name="schema", node=AppConf)
    sys.argv = [sys.argv[0], *map(quoted, words)]
    hydra.main(config_path="pkg://conf", config_name="config", version_base="1.3")(
        lambda cfg: None
    )()
    return 0


def _refuse_shadows() -> None:
    """Make sure that each package is this checkout's, not a namesake on the path."""
    for name in _PACKAGES:
        spec = importlib.util.find_spec(name)
        origin = Path(spec.origin).resolve() if spec and spec.origin else None
        if origin != CHECKOUT / name / "__init__.py":
            raise UsageError(
                f"{name} would be imported from {origin}, not from {CHECKOUT}: "
                "rename that file, or take its folder out of PYTHONPATH"
            )


def _overview(verbs: dict) -> str:
    lines = [f"  {name:9} {verb.help}" for name, verb in verbs.items()]
    return (
        "isoflop VERB [key=value ...]   train an isoFLOP grid, fit scaling laws, report\n\n"
        + "\n".join(lines)
        + "\n\nStart with: isoflop demo          one verb: isoflop plan --help\n"
        "Everything that can be set, with its value: isoflop plan --cfg job"
    )


def _help(verb: str, entry) -> str:
    reads = f"Reads: {', '.join(entry.reads)}   (grid= chooses a group, grid.* are its keys)"
    more = f"{entry.more()}\n" if entry.more else ""
    return (
        f"isoflop {verb} [key=value ...]   {entry.help}\n\n"
        f"{textwrap.fill(reads, 96, subsequent_indent='  ')}\n"
        f"Example: {entry.example}\n{more}"
        f"Every key and its value: isoflop {verb} --cfg job; what they mean: docs/config.md"
    )


def _write_log() -> str:
    with tempfile.NamedTemporaryFile("w", prefix="isoflop-", suffix=".log", delete=False) as log:
        log.write(f"{sys.argv}\n{traceback.format_exc()}")
    return log.name


if __name__ == "__main__":
    sys.exit(main())
