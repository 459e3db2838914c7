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
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn

from results.record import Record
from slurm.lease import Holder, LeaseLost, Watch
from slurm.local import BAD_DEVICE
from slurm.preempt import ignore_signals
from sweep.attempt import Progress, Stopped, run_attempt
from sweep.claim import Attempt, claim, claim_for_launch
from sweep.data import check_data, open_data
from sweep.device import Device, check_replica, in_words, open_device, share_memory
from sweep.folder import PlannedCell, SweepFolder, read_plan
from sweep.past import failure_unrecorded, failures_here, rows_to_try
from sweep.retry import Failure, classify
from sweep.settings import HardwareSettings, RunSettings
from sweep.stop_rule import read_rule, why_end


def main() -> None:
    """Serve until stdin ends."""
    say = _take_stdout()
    inbox: queue.Queue[dict[str, Any]] = queue.Queue()
    ended = threading.Event()
    threading.Thread(target=_listen, args=(inbox, ended), daemon=True).start()
    setup = inbox.get()["setup"]
    if setup["cores"]:
        os.sched_setaffinity(0, setup["cores"])
    if "SLURM_JOB_ID" in os.environ:  # which tells all processes of a job: the parent answers
        ignore_signals()
    folder = SweepFolder(Path(setup["root"]), setup["sweep"])
    plan = {p.cell.id: p for p in read_plan(folder)}
    try:
        device = _open_device(HardwareSettings(**setup["hardware"]), plan.values())
    except ValueError as e:
        say({"kind": "refused", "reason": str(e)})
        return
    share_memory(device, setup["share"])
    model = next(iter(plan.values())).cell.model
    print(f"training on {in_words(device, model)}", file=sys.stderr, flush=True)  # its log
    say({"kind": "ready"})
    settings = RunSettings(**setup["run"])
    watch = Watch(settings.lease_seconds)
    while (message := inbox.get()) and not ended.is_set():
        planned = plan[message["item"]]

        def tell(p: Progress) -> None:
            say({"kind": "progress", **_progress(p)})

        try:
            got = claim_for_launch(folder, planned.cell, watch, setup["anew"])
            if not isinstance(got, Attempt):
                say({"item": planned.cell.id, **_elsewhere(got, ended), "free": True})
                continue
            outcome = _train(got, planned, folder, setup, device, settings, tell, ended)
        except Stopped:
            return
        except LeaseLost as e:
            say({"item": planned.cell.id, "kind": "held", "by": str(e), "free": True})
            continue
        except Exception as e:  # whatever it is, the next cell deserves its turn
            traceback.print_exc()
            reason = f"{type(e).__name__}: {e}"
            if failure_unrecorded(folder, reason).again:
                _leave_to_another(reason)
            outcome = {"status": "failed", "reason": reason, "seconds": 0.0}
        say({"kind": "done", "item": planned.cell.id, **outcome, "free": True})


def _open_device(asked: HardwareSettings, plan: Collection[PlannedCell]) -> Device:
    """Open the device for all sizes of the sweep, which share one attention."""
    head_dims = {p.cell.model.head_dim for p in plan}
    return open_device(asked, 0, head_dims, any(p.data.document_mask for p in plan))


def _elsewhere(got: Holder | str, ended: threading.Event) -> dict[str, Any]:
    """Say of a cell that it is done, or who works on it; in no haste to be asked again."""
    if isinstance(got, str):
        return {"kind": "done_elsewhere", "status": got}
    ended.wait(1.0)
    return {"kind": "held", "by": got.in_words()}


def _train(
    attempt: Attempt,
    planned: PlannedCell,
    folder: SweepFolder,
    setup: Mapping[str, Any],
    device: Device,
    settings: RunSettings,
    tell: Callable[[Progress], None],
    ended: threading.Event,
) -> dict[str, Any]:
    """Train a claimed cell to a result; what may pass is tried again."""
    while True:
        record = _attempt(attempt, planned, folder, setup, device, settings, tell, ended)
        if record.status != "failed":
            break
        after = failures_here(folder, record, setup["retries"], os.environ.get("SLURM_JOB_ID"))
        print(f"{record.cell_id}: {record.reason}; {after.why}", file=sys.stderr, flush=True)
        if not after.again:
            break
        if classify(record.reason) is not Failure.MEMORY:  # what failed may be this process
            _leave_to_another(record.reason)
        attempt = claim(folder, planned.cell, resume=True)
    return {
        "status": record.status,
        "reason": record.reason,
        "val_loss": record.val_loss,
        "seconds": record.seconds,
    }


def _leave_to_another(reason: str) -> NoReturn:
    """End this process: the next one gets the cell."""
    sys.exit(BAD_DEVICE if classify(reason) is Failure.DEVICE else 1)


def _attempt(
    attempt: Attempt,
    planned: PlannedCell,
    folder: SweepFolder,
    setup: Mapping[str, Any],
    device: Device,
    settings: RunSettings,
    tell: Callable[[Progress], None],
    ended: threading.Event,
) -> Record:
    """Make one attempt, which is given back however it ends."""
    shards, cell = Path(setup["data"]), planned.cell
    node_cache = Path(setup["node_cache"]) if setup["node_cache"] else None
    rows = rows_to_try(folder, cell.id, device.hardware.micro_rows)
    device = replace(device, hardware=replace(device.hardware, micro_rows=rows))
    try:
        check_replica(cell.model, cell.recipe.batch_rows, device)
        data = open_data(
            shards, planned.data, cell.model.seq_len, verify=True, node_cache=node_cache
        )
        check_data([cell], data, planned.data.max_epochs)
        return run_attempt(
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
            hopeless=why_end(read_rule(setup["stop"]), folder, attempt),
        )
    finally:
        attempt.release()


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
