"""Worker process of a local launch: trains the cells it is given, one after another.

Speaks the line protocol of slurm.local. Started as `python -P -m sweep.worker`, so that a file of
the current folder can't stand in for one of our modules.
"""

import json
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sweep.attempt import Progress, Stopped, run_attempt
from sweep.claim import claim
from sweep.data import check_data, open_data
from sweep.device import Device, check_replica, in_words, open_device
from sweep.folder import PlannedCell, SweepFolder, read_plan
from sweep.settings import HardwareSettings, RunSettings


def main() -> None:
    """Serve until stdin ends."""
    say = _take_stdout()
    inbox: queue.Queue[dict[str, Any]] = queue.Queue()
    ended = threading.Event()
    threading.Thread(target=_listen, args=(inbox, ended), daemon=True).start()
    setup = inbox.get()["setup"]
    folder = SweepFolder(Path(setup["root"]), setup["sweep"])
    plan = {p.cell.id: p for p in read_plan(folder)}
    try:
        device = _open_device(HardwareSettings(**setup["hardware"]), plan.values())
    except ValueError as e:
        say({"kind": "refused", "reason": str(e)})
        return
    print(f"training on {in_words(device)}", file=sys.stderr, flush=True)  # its log
    say({"kind": "ready"})
    settings = RunSettings(**setup["run"])
    while (message := inbox.get()) and not ended.is_set():
        planned = plan[message["item"]]

        def tell(p: Progress) -> None:
            say({"kind": "progress", **_progress(p)})

        try:
            outcome = _train(planned, folder, setup, device, settings, tell, ended)
        except Stopped:
            return
        except Exception as e:  # whatever it is, the next cell deserves its turn
            traceback.print_exc()
            outcome = {"status": "failed", "reason": f"{type(e).__name__}: {e}", "seconds": 0.0}
        say({"kind": "done", "item": planned.cell.id, **outcome, "free": True})


def _open_device(asked: HardwareSettings, plan: Collection[PlannedCell]) -> Device:
    """Open the device for all sizes of the sweep, which share one attention."""
    head_dims = {p.cell.model.head_dim for p in plan}
    return open_device(asked, 0, head_dims, any(p.data.document_mask for p in plan))


def _train(
    planned: PlannedCell,
    folder: SweepFolder,
    setup: Mapping[str, Any],
    device: Device,
    settings: RunSettings,
    tell: Callable[[Progress], None],
    ended: threading.Event,
) -> dict[str, Any]:
    check_replica(planned.cell.model, planned.cell.recipe.batch_rows, device)
    shards = Path(setup["data"])
    node_cache = Path(setup["node_cache"]) if setup["node_cache"] else None
    data = open_data(
        shards,
        planned.data,
        planned.cell.model.seq_len,
        verify=True,
        node_cache=node_cache,
    )
    check_data([planned.cell], data, planned.data.max_epochs)
    attempt = claim(folder, planned.cell, resume=True)
    try:
        record = run_attempt(
            attempt,
            folder,
            data,
            planned.data,
            device,
            settings,
            on_progress=tell,
            should_stop=ended.is_set,
            shards=shards,
            node_cache=node_cache,
        )
    finally:
        attempt.release()
    return {
        "status": record.status,
        "reason": record.reason,
        "val_loss": record.val_loss,
        "seconds": record.seconds,
    }


def _progress(p: Progress) -> dict[str, Any]:
    values = asdict(p)
    return {"item": values.pop("cell_id"), **values}


def _listen(inbox: "queue.Queue[dict[str, Any]]", ended: threading.Event) -> None:
    """Pass on what the parent says; when it falls silent for good, have the cell stop."""
    for line in sys.stdin:
        inbox.put(json.loads(line))
    ended.set()
    inbox.put({})


def _take_stdout():
    """Keep stdout for the protocol; whatever else prints goes to stderr, the worker's log."""
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def say(message: dict[str, Any]) -> None:
        try:
            channel.write(json.dumps(message) + "\n")
        except BrokenPipeError:
            pass  # the parent is gone; _listen ends the cell

    return say


if __name__ == "__main__":
    main()
