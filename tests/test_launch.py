"""Real launches of a tiny grid: whole, killed in every way, interrupted, and in each other's way."""

import json
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers_cells import CPU, RUN
from helpers_cli import isoflop, start, tiny_grid

from results.store import read_records, results_of
from slurm.lease import _started, me
from sweep import launch, workers
from sweep.arguments import parse
from sweep.attempt import run_attempt
from sweep.claim import claim
from sweep.data import open_data, prepare_data
from sweep.device import open_device
from sweep.folder import SweepFolder, read_plan
from sweep.local_launches import announced
from sweep.resolve import resolve, run_settings
from sweep.verbs import VERBS
from sweep.workers import Attempts, worker_commands

LONG = "[6e8]"  # half a second a cell, or a few on a busy machine
SAVE_OFTEN = "run.checkpoint_seconds=0.05"


def losses_of(folder: SweepFolder) -> dict[str, float]:
    rows = read_records(folder.records)
    assert set(rows["status"]) == {"finished"}
    return dict(zip(rows["cell_id"], rows["val_loss"], strict=True))


def train_here(words: list[str], root: Path) -> dict[str, float]:
    """Losses of the same cells, trained one after another in this process."""
    app = parse("launch", words, VERBS["launch"].reads).app
    app.root = str(root)
    resolved, device = resolve(app), open_device(CPU)
    shards = prepare_data(resolved.data, resolved.folder.data_cache, lambda line: None)
    for planned in resolved.planned:
        data = open_data(shards, planned.data, planned.cell.model.seq_len)
        attempt = claim(resolved.folder, planned.cell, resume=False)
        run_attempt(attempt, resolved.folder, data, planned.data, device, run_settings(app.run))
        attempt.release()
    return losses_of(resolved.folder)


def status_files(folder: SweepFolder) -> list[dict]:
    """Return what the attempts of a sweep last said of themselves."""
    found = []
    for path in folder.path.glob("cells/*/*/status.json"):
        found.append({"cell": path.parent.parent.name, **json.loads(path.read_text())})
    return found


def wait_until_training(folder: SweepFolder, process) -> list[dict]:
    """Wait for cells that have a checkpoint and are not done; returns their status."""
    give_up = time.monotonic() + 120
    while time.monotonic() < give_up and process.poll() is None:
        now = [s for s in status_files(folder) if s["state"] == "running" and s["step"] > 5]
        if now:
            return now
        time.sleep(0.02)
    process.kill()
    pytest.fail(f"nothing was in training: {process.communicate()}")


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until_gone(pids: set[int]) -> None:
    give_up = time.monotonic() + 60
    while not all(map(is_gone, pids)):
        assert time.monotonic() < give_up, f"{pids} outlived their launcher"
        time.sleep(0.05)


def test_a_launch_trains_every_cell_once_and_a_second_one_none(text_folder, tmp_path, command):
    words = tiny_grid(tmp_path / "root", text_folder)
    folder = SweepFolder(tmp_path / "root", "tiny")
    first = isoflop("launch", *words, cwd=tmp_path)
    assert (first.returncode, first.stderr) == (0, "")
    plan = read_plan(folder)
    assert len(plan) >= 4
    assert f"[{len(plan)}/{len(plan)}]" in first.stdout
    losses = losses_of(folder)
    assert set(losses) == {p.cell.id for p in plan}

    records = {p: p.stat().st_mtime_ns for p in folder.records.iterdir()}
    code, out, err = command("launch", *words)
    assert (code, err) == (0, "")
    assert f"All {len(plan)} cells of sweep=tiny are done." in out
    code, _, err = command("launch", *tiny_grid(tmp_path / "root", text_folder, recipe__lr=0.02))
    assert code == 2
    assert "sweep=tiny was launched with lr=0.01, not 0.02" in err
    assert {p: p.stat().st_mtime_ns for p in folder.records.iterdir()} == records
    assert losses == train_here(words, tmp_path / "here")

    asked = (f"root={tmp_path / 'root'}", "sweep=tiny")
    code, out, err = command("status", *asked)
    assert (code, err) == (0, "")
    assert f"isoflop collect {' '.join(asked)}" in out
    code, out, err = command("collect", *asked)
    assert (code, err) == (0, "")
    assert f"{len(plan)} of {len(plan)} planned cells" in out
    rows = read_records(folder.collected)
    assert dict(zip(rows["cell_id"], rows["val_loss"], strict=True)) == losses

    code, out, err = command("run", *words, f"cell={plan[0].cell.id}")
    assert (code, err) == (0, "")
    assert "equal to the bit" in out
    text = [w for w in words if w.startswith(("data", "root", "sweep"))]
    digest = plan[-1].cell.id.rsplit("-")[-1]
    code, out, err = command("run", *text, f"record={folder.collected}", f"cell={digest}")
    assert (code, err) == (0, "")
    assert "equal to the bit" in out
    rows = read_records(folder.records)
    assert len(rows) == len(plan) + 2
    assert set(results_of(rows)["attempt"]) == {0}


def test_a_killed_launcher_takes_its_workers_along_and_the_next_goes_on(
    text_folder, tmp_path, command
):
    words = [*tiny_grid(tmp_path / "root", text_folder, budgets=LONG), SAVE_OFTEN]
    folder = SweepFolder(tmp_path / "root", "tiny")
    launcher = start("launch", *words, cwd=tmp_path)
    training = wait_until_training(folder, launcher)
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.communicate()
    code, _, err = command("launch", *words)  # at once: it waits for the workers to leave
    assert (code, err) == (0, "")
    wait_until_gone({s["pid"] for s in training})
    assert losses_of(folder) == train_here(words, tmp_path / "here")
    rows = read_records(folder.records).set_index("cell_id")
    assert max(rows["restarts"]) >= 1
    assert set(rows["attempt"]) == {0}
    assert rows.index.is_unique


def test_ctrl_c_saves_and_exits_with_130_and_a_killed_worker_is_replaced(text_folder, tmp_path):
    words = [
        *tiny_grid(tmp_path / "root", text_folder, budgets=LONG),
        SAVE_OFTEN,
        "cluster.workers=1",
    ]
    folder = SweepFolder(tmp_path / "root", "tiny")
    launcher = start("launch", *words, cwd=tmp_path)
    training = wait_until_training(folder, launcher)
    os.killpg(launcher.pid, signal.SIGINT)
    out, err = launcher.communicate(timeout=90)
    assert launcher.returncode == 130, (out, err)
    assert err.strip() == "Stopped. Nothing finished is lost: the same command goes on."
    assert all(is_gone(s["pid"]) for s in training)
    saved = {s["cell"]: s["step"] for s in status_files(folder) if s["state"] == "stopped"}
    assert saved

    launcher = start("launch", *words, cwd=tmp_path)
    victim = wait_until_training(folder, launcher)[0]
    assert victim["step"] >= saved.get(victim["cell"], 0)
    os.kill(victim["pid"], signal.SIGKILL)
    out, err = launcher.communicate(timeout=200)
    assert (launcher.returncode, err) == (0, "")
    assert f"{victim['cell']}: worker died (SIGKILL), resuming it" in out
    assert losses_of(folder) == train_here(words, tmp_path / "here")
    assert len(read_records(folder.records)) == len(read_plan(folder))


@pytest.mark.slow
def test_two_launches_at_once_share_the_cells_and_train_each_once(text_folder, tmp_path):
    words = [*tiny_grid(tmp_path / "root", text_folder, budgets=LONG), SAVE_OFTEN]
    folder = SweepFolder(tmp_path / "root", "tiny")
    both = [start("launch", *words, "cluster.workers=1", cwd=tmp_path) for _ in range(2)]
    ended = [p.communicate(timeout=240) for p in both]
    assert [p.returncode for p in both] == [0, 0], ended
    assert [err for _, err in ended] == ["", ""]
    assert losses_of(folder) == train_here(words, tmp_path / "here")
    rows = read_records(folder.records)
    assert len(rows) == len(read_plan(folder)) == rows["cell_id"].nunique()
    assert set(rows["attempt"]) == {0}
    trained = [out.count("finished, loss") for out, _ in ended]
    assert sum(trained) == len(rows)
    for (out, _), own in zip(ended, trained, strict=True):  # each says what the other did
        assert own == len(rows) or "by another process" in out or "are done" in out, ended


@pytest.mark.slow
def test_a_launch_of_which_the_other_is_killed_takes_over_its_cell(text_folder, tmp_path):
    words = [*tiny_grid(tmp_path / "root", text_folder, budgets=LONG), SAVE_OFTEN]
    folder = SweepFolder(tmp_path / "root", "tiny")
    first = start("launch", *words, "cluster.workers=1", cwd=tmp_path)
    victim = wait_until_training(folder, first)[0]
    os.kill(victim["pid"], signal.SIGSTOP)  # it lives, and is silent: as on a node that hangs
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    second = start("launch", *words, "run.lease_seconds=3", cwd=tmp_path)
    out, err = second.communicate(timeout=240)
    assert (second.returncode, err) == (0, "")
    assert f"{victim['cell']}: trained by process {victim['pid']} on" in out
    records = {p: p.read_bytes() for p in folder.records.iterdir()}
    checkpoints = {p: p.read_bytes() for p in folder.path.glob("cells/*/*/checkpoint/*")}
    os.kill(victim["pid"], signal.SIGCONT)  # the twin wakes, notices, and writes nothing
    wait_until_gone({victim["pid"]})
    assert {p: p.read_bytes() for p in folder.records.iterdir()} == records
    assert {p: p.read_bytes() for p in folder.path.glob("cells/*/*/checkpoint/*")} == checkpoints
    assert losses_of(folder) == train_here(words, tmp_path / "here")
    assert set(read_records(folder.records)["attempt"]) == {0}


def test_a_worker_that_can_not_start_fails_the_launch_and_no_cell(
    text_folder, tmp_path, command, monkeypatch
):
    monkeypatch.setattr(workers, "sys", SimpleNamespace(executable="/bin/false"))
    words = tiny_grid(tmp_path / "root", text_folder)
    folder = SweepFolder(tmp_path / "root", "tiny")
    code, out, err = command("launch", *words)
    assert (code, err) == (1, "")
    assert "no worker could start: exit status 1: it said nothing" in out
    assert "logs/worker-" in out
    assert not folder.records.exists()
    assert not list(folder.path.glob("cells/*"))


def test_workers_have_cores_of_their_own_unless_another_launch_is_here(tmp_path, text_folder):
    folder = SweepFolder(tmp_path, "tiny")
    (folder.path).mkdir()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("one core")

    def pinned() -> list[list[int]]:
        slots = [{"OMP_NUM_THREADS": "1"}] * 2
        attempts = Attempts(tmp_path, None, CPU, RUN, retries=0, anew={}, stop=None)
        return [c.setup["cores"] for c in worker_commands(folder, attempts, slots, tmp_path)]

    with announced(folder):
        assert pinned() == [[cores[0]], [cores[1]]]
        (folder.path / "launch" / "local" / "other.json").write_text(
            json.dumps({**me(), "pid": os.getppid(), "started": _started(os.getppid())})
        )
        assert pinned() == [[], []]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"hardware.ranks": 9}, "hardware.ranks=9 is more than the 8 sequences in a batch of c"),
        ({"hardware.device": "cuda"}, "torch sees no GPU here; try hardware=cpu"),
        ({"hardware.compile": "maybe"}, "hardware.compile=maybe is unknown"),
        ({"hardware.micro_rows": 0}, "hardware.micro_rows=0 must be at least 1"),
        ({"run.keep_checkpoints": "some"}, "it may be none, last, all"),
        ({"hardware.memory_bytes": 1e5}, "a replica needs"),
    ],
)
def test_what_can_not_run_here_is_refused_before_anything_is_written(
    text_folder, tmp_path, command, wrong, words
):
    grid = tiny_grid(
        tmp_path / "root", text_folder, **{k.replace(".", "__"): v for k, v in wrong.items()}
    )
    code, out, err = command("launch", *grid)
    assert (code, out) == (2, "")
    assert words in err
    assert not (tmp_path / "root" / "tiny").exists()


def test_cells_whose_replica_does_not_fit_are_left_out_of_the_plan(text_folder, tmp_path, command):
    words = tiny_grid(tmp_path / "root", text_folder, hardware__memory_bytes=2e5)
    code, out, _ = command("plan", *words, "plan.format=json")
    assert code == 0
    plan = json.loads(out)
    assert plan["cells"]
    skipped = [s for s in plan["skipped"] if "a replica needs" in s["reason"]]
    assert skipped
    assert all("would fit" in s["reason"] for s in skipped)
    assert {c["size_id"] for c in plan["cells"]}.isdisjoint(s["size_id"] for s in skipped)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"recipe__schedule": "linear"}, "schedule=cosine, not linear"),
        ({"recipe__weight_decay": 0.2}, "weight_decay=0.1, not 0.2"),
        ({"recipe__timescale": 0.2}, "timescale=None, not 0.2"),
        ({"grid__flop_rule": "6nd"}, "flop_rule=palm, not 6nd"),
        ({"data__revision": "2"}, "data_revision=1, not 2"),
        ({"data__val_tokens": 2048}, "data_val_tokens=4096, not 2048"),
        ({"model__tied": "true"}, "tied=False, not True"),
    ],
)
def test_a_sweep_has_one_recipe_ladder_and_data(text_folder, tmp_path, command, changes, key):
    words = tiny_grid(tmp_path / "root", text_folder)
    resolved = resolve(parse("launch", words, VERBS["launch"].reads).app)
    resolved.folder.make()
    launch.freeze_plan(resolved.folder, resolved.planned)
    before = resolved.folder.plan.read_bytes()
    code, _, err = command("launch", *tiny_grid(tmp_path / "root", text_folder, **changes))
    assert code == 2
    assert f"sweep=tiny was launched with {key}" in err
    assert "sweep=NAME" in err
    assert resolved.folder.plan.read_bytes() == before
    assert not resolved.folder.records.exists()


@pytest.mark.parametrize("recipe", [{}, {"recipe__timescale": 0.2}])  # a decay for each cell
def test_a_plan_grows_by_budgets_and_seeds_and_keeps_what_it_has(text_folder, tmp_path, recipe):
    def freeze(**changes):
        words = tiny_grid(tmp_path / "root", text_folder, **changes, **recipe)
        resolved = resolve(parse("launch", words, VERBS["launch"].reads).app)
        resolved.folder.make()
        return [p.cell.id for p in launch.freeze_plan(resolved.folder, resolved.planned)]

    first = freeze()
    more = freeze(grid__budgets="[4e8,8e8]", grid__seeds="[0,1]")
    assert more[: len(first)] == first
    assert len(set(more)) == len(more) > len(first)
    assert freeze() == more
