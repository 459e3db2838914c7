"""A real SLURM to launch on, and ways to hurt it."""

import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from helpers_cli import ISOFLOP, environment

from results.record import RecordStatus
from results.store import read_records, results_of
from slurm.devcluster.cluster import DevCluster
from slurm.devcluster.processes import Process, daemons, job_processes, node_daemon
from slurm.devcluster.up import client, start_nodes, up
from sweep.folder import SweepFolder

PATIENCE = 480.0  # seconds for whatever is waited for; the machine may be busy


@dataclass(frozen=True)
class Lab:
    """A dev cluster and a root for sweeps; every helper waits for what it names."""

    cluster: DevCluster
    root: Path

    def words(self, sweep: str, *more: str) -> list[str]:
        """Words of a launch of the smoke grid on it, without canary and last stage."""
        words = {
            "grid": "smoke",
            "root": str(self.root),
            "sweep": sweep,
            "cluster": "slurm",
            "cluster.gpus": "1",
            "cluster.partition": "main",
            "cluster.signal_seconds": "20",
            "launch.canary": "false",
            "launch.finish": "false",
            "run.checkpoint_steps": "20",  # status tells of a step early enough to hold a cell
            "run.lease_seconds": "15",
        }
        words |= dict(word.split("=", 1) for word in more)
        return [f"{key}={value}" for key, value in words.items()]

    def isoflop(self, verb: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run([ISOFLOP, verb, *words], env=self.env, capture_output=True, text=True,
                              timeout=4 * PATIENCE)  # fmt: skip

    def launch(self, sweep: str, *more: str) -> subprocess.CompletedProcess[str]:
        """Launch, which must work."""
        done = self.isoflop("launch", *self.words(sweep, *more))
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def status(self, sweep: str) -> str:
        """Return what `isoflop status` prints of a sweep."""
        done = self.isoflop("status", f"root={self.root}", f"sweep={sweep}")
        assert done.returncode in (0, 1), done.stderr
        return done.stdout

    def wait_to_be_told(self, sweep: str, words: str) -> str:
        """Wait until status says something, for accounting lags behind; return all that it says."""
        return self.wait_for(
            f"status to say {words!r}",
            lambda: said if words in (said := self.status(sweep)) else "",
        )

    @property
    def env(self) -> dict[str, str]:
        """Environment of commands on the cluster."""
        return environment(SLURM_CONF=str(self.cluster.conf))

    def folder(self, sweep: str) -> SweepFolder:
        """Return a sweep's folder."""
        return SweepFolder(self.root, sweep)

    def ask(self, *argv: str) -> str:
        """Run one of SLURM's commands, which must work."""
        done = client(self.cluster, *argv)
        assert done.returncode == 0, f"{argv}: {done.stderr}"
        return done.stdout.strip()

    def queue(self) -> list[str]:
        """Return `id state` of every job and task in the queue."""
        return client(self.cluster, "squeue", "-h", "-r", "-o", "%i %T %r").stdout.split("\n")[:-1]

    def wait_for(self, what: str, holds: Callable[[], object], seconds: float = PATIENCE) -> object:
        """Wait until something holds, and return it; a dear look is taken less often."""
        end = time.monotonic() + seconds
        while True:
            began = time.monotonic()
            if held := holds():
                return held
            now = time.monotonic()
            assert now < end, f"waited {seconds:.0f} s for: {what}; {self.queue()[:10]}"
            time.sleep(max(0.1, 3 * (now - began)))

    def wait_until_idle(self, seconds: float = PATIENCE) -> None:
        """Wait until the queue is empty."""
        self.wait_for("an empty queue", lambda: not self.queue(), seconds)

    def running(self, sweep: str) -> dict[str, dict]:
        """Return the status of each cell that has taken a step and no end, by cell."""
        found = {}
        for path in (self.folder(sweep).path / "cells").glob("*/*/status.json"):
            status = json.loads(path.read_text())
            if status["state"] == "running" and status["step"]:
                found[path.parent.parent.name] = status
        return found

    def a_running_cell(self, sweep: str) -> tuple[str, dict]:
        """Wait for a cell that trains; returns its id and status."""
        running = self.wait_for(f"a cell of {sweep} that trains", lambda: self.running(sweep))
        return next(iter(running.items()))

    def hold(
        self, sweep: str, but: Collection[str] = (), index: int | None = None
    ) -> tuple[str, dict]:
        """Stop the process of a cell in the middle, so that it can't end before what comes.

        Args:
            sweep: of the cell.
            but: cells that are held already.
            index: of its task in the array; None: whichever trains first.

        Returns:
            The cell's id and status. `go_on` lets the process go on.
        """

        def one() -> tuple[str, dict] | None:
            for cell, status in self.running(sweep).items():
                if cell in but or not status["slurm_job_id"]:
                    continue
                if index in (None, status["index"]):
                    with suppress(ProcessLookupError):
                        os.kill(status["pid"], signal.SIGSTOP)
                        if cell in self.running(sweep):
                            return cell, status
                        os.kill(status["pid"], signal.SIGCONT)  # it had ended
            return None

        return self.wait_for(f"a cell of {sweep} that trains", one)

    def hold_until_gone(self, status: Mapping) -> None:
        """Hold a process still that SLURM wakes and tells to end: it could do so within KillWait."""

        def gone() -> bool:
            with suppress(ProcessLookupError):
                os.kill(status["pid"], signal.SIGSTOP)
            return not any(line.split()[0] == self.job_of(status) for line in self.queue())

        self.wait_for("the end of a job", gone)

    def go_on(self, status: Mapping) -> None:
        """Let a held process go on, if it lives."""
        with suppress(ProcessLookupError):
            os.kill(status["pid"], signal.SIGCONT)

    def job_of(self, status: Mapping) -> str:
        """Return the job of a status as SLURM's commands take it."""
        return f"{status['slurm_job_id']}_{status['index']}"

    def node_of(self, status: Mapping) -> str:
        """Return the node of a running cell."""
        return self.ask("squeue", "-h", "-o", "%N", "-j", self.job_of(status))

    def shown(self, status: Mapping) -> str:
        """Return what SLURM knows of a cell's job, on one line."""
        return self.ask("scontrol", "show", "job", "-o", self.job_of(status))

    def step_daemon(self, status: Mapping, step: str) -> Process:
        """Return the slurmstepd of the batch script (`batch`) or of srun's step (`0`)."""
        job_id = self.shown(status).split("JobId=")[1].split()[0]
        named = f"slurmstepd: [{job_id}.{step}]"
        return next(p for p in job_processes(self.cluster) if " ".join(p.argv).startswith(named))

    def kill_process(self, status: Mapping) -> None:
        """Kill the process that trains."""
        os.kill(status["pid"], signal.SIGKILL)

    def kill_node_daemon(self, node: str) -> None:
        """Kill a node's slurmd, as if the node had lost its network: its jobs live on."""
        daemon = node_daemon(self.cluster, node)
        if daemon is None:
            raise ProcessLookupError(f"no slurmd of {node}")
        os.kill(daemon.pid, signal.SIGKILL)

    def kill_controller(self) -> None:
        """Kill slurmctld."""
        for process in daemons(self.cluster, "slurmctld"):
            os.kill(process.pid, signal.SIGKILL)

    def mend(self) -> None:
        """Start what does not run, and put every node back to work."""
        up(self.cluster, lambda line: None)
        start_nodes(self.cluster)

    def clear(self) -> None:
        """Cancel everything, mend everything."""
        self.mend()
        jobs = {line.split()[0].split("_")[0] for line in self.queue()}
        if jobs:
            client(self.cluster, "scancel", "--full", "--signal=KILL", *jobs)
            client(self.cluster, "scancel", *jobs)
            self.wait_until_idle()

    def take_room_of(self, held: Mapping) -> None:
        """Preempt a held cell: a job of the high partition takes its node, until it runs there.

        The process goes on once it was told, or was killed at once.
        """
        hog = ["sbatch", "--parsable", "--partition=main", f"--nodelist={self.node_of(held)}",
               "--output=/dev/null", f"--gres=gpu:{self.cluster.gpus}", "--wrap=sleep 600"]  # fmt: skip
        job = self.ask(*hog)
        try:
            self.wait_for("the preemption", lambda: was_told(held["pid"]))
            self.go_on(held)
            self.wait_for("the hog to run", lambda: f"{job} RUNNING None" in self.queue())
        finally:
            client(self.cluster, "scancel", job)

    def losses(self, sweep: str) -> dict[str, float]:
        """Return the loss on record of each finished cell."""
        results = results_of(read_records(self.folder(sweep).records))
        results = results[results["status"] == str(RecordStatus.FINISHED)]
        return dict(zip(results["cell_id"], results["val_loss"], strict=True))

    def check(self, sweep: str, right: Mapping[str, float]) -> None:
        """Every cell finished exactly once, with the loss of the undisturbed sweep, to the bit."""
        self.check_no_twin(sweep)
        assert self.losses(sweep) == dict(right)

    def check_no_twin(self, sweep: str) -> None:
        """No cell has two records that say finished."""
        records = read_records(self.folder(sweep).records)
        finished = Counter(records.loc[records["status"] == "finished", "cell_id"])
        assert set(finished.values()) <= {1}, finished

    def logs(self, sweep: str) -> str:
        """Return what all jobs of a sweep said."""
        texts = sorted((self.folder(sweep).path / "logs").glob("*.out"))
        return "\n".join(p.read_text(errors="replace") for p in texts)

    def start(self, sweep: str, *more: str, **env: str) -> subprocess.Popen[str]:
        """Start a launch and return at once."""
        return subprocess.Popen([ISOFLOP, "launch", *self.words(sweep, *more)], env=self.env | env,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                start_new_session=True)  # fmt: skip


def was_told(pid: int) -> bool:
    """Whether a stopped process has SIGUSR2 or SIGTERM waiting for it, or is no more."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return True
    masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd", "ShdPnd"))]
    told = (1 << signal.SIGUSR2 - 1) | (1 << signal.SIGTERM - 1)
    return any(mask & told for mask in masks) or "State:\tZ" in "\n".join(lines)
