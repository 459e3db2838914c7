"""Everything that needs a GPU, run once and written to one JSON file.

    make gpu-check                                     on a machine with a CUDA device
    python tests/gpu/gpu_check.py --device cpu         the same checks, tiny, on a CPU

Exit status: 0 where every check that can run here passes; 1 where one fails, or where CUDA is asked
for and torch sees none. A check that can't run (a kernel's package is not installed) is `skipped`
with the reason. Progress is on stderr, the path of the file on stdout.
"""

import argparse
import functools
import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).resolve().parents[1]))  # helpers_*.py


def main(words: list[str]) -> int:
    """Run the checks, write the file, and say how they went."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=Path, default=Path("outputs/gpu-check.json"))
    parser.add_argument("--only", nargs="+", metavar="CHECK", help="names; default: all")
    parser.add_argument("--backend", help="of torch.compile; default: torch's own")
    asked = parser.parse_args(words)
    if asked.device == "cuda" and not torch.cuda.is_available():
        print(
            f"gpu-check: torch {torch.__version__} sees no CUDA device here, so nothing was checked. "
            "Run it on a machine with a GPU and a CUDA build of torch (docs/install-flash.md), or "
            "try the same checks, tiny, on this CPU: python tests/gpu/gpu_check.py --device cpu",
            file=sys.stderr,
        )
        return 1
    from gpu_checks import Scale, checks

    known = checks(Scale.of(asked.device))
    unknown = sorted(set(asked.only or ()) - set(known))
    if unknown:
        parser.error(f"no check is named {unknown[0]}; there are {', '.join(known)}")
    if asked.backend:
        torch.compile = functools.partial(torch.compile, backend=asked.backend)
    results = list(run(known, asked.only or list(known)))
    report = {"machine": machine(asked.device), "results": results, "totals": totals(results)}
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    part = asked.out.with_name(asked.out.name + ".part")
    part.write_text(json.dumps(report, indent=1, allow_nan=True) + "\n")
    part.replace(asked.out)
    print(asked.out)
    return 1 if report["totals"]["failed"] else 0


def run(known: dict, names: list[str]) -> Iterator[dict]:
    """Run checks one after another; whatever one does, the next has its turn."""
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        began = time.perf_counter()
        try:
            found = list(known[name]())
        except Exception as e:
            traceback.print_exc()
            found = [{"status": "failed", "reason": f"{type(e).__name__}: {e}"[:500]}]
        seconds = time.perf_counter() - began
        for one in found:
            print(
                f"  {one['status']}: {one.get('what', '')} {one['reason'] or ''}", file=sys.stderr
            )
            yield {"check": name, "seconds_of_check": seconds, **one}
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def totals(results: list[dict]) -> dict[str, int]:
    """Count results by status."""
    return {
        status: sum(r["status"] == status for r in results)
        for status in ("passed", "failed", "skipped")
    }


def machine(device: str) -> dict[str, object]:
    """Say what measured it."""
    from results.provenance import environment

    about: dict[str, object] = {
        "device": device,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "load_average": os.getloadavg(),
        **environment(),
    }
    if device == "cuda":
        about |= {
            "board": torch.cuda.get_device_name(),
            "capability": torch.cuda.get_device_capability(),
            "boards": torch.cuda.device_count(),
        }
    return about


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
