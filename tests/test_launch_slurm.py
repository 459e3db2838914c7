"""A launch on SLURM as far as it goes without SLURM: dry runs, limits, the ledger, bad input."""

import json
import os
import re
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from helpers_cli import tiny_grid

from results.record import RecordStatus
from sweep.arguments import parse
from sweep.bad_devices import note_failure
from sweep.cluster import cluster_settings, launch_settings
from sweep.code import choose_code
from sweep.errors import UsageError
from sweep.finish import Tally, tell
from sweep.folder import SweepFolder, freeze_plan, read_plan
from sweep.frozen import Frozen, open_submission, own_cells
from sweep.in_queue import settle_submissions
from sweep.launch_price import disk_needed
from sweep.predict import predict_cost
from sweep.resolve import hardware_settings, resolve, run_settings
from sweep.resources import Resources, classes, measured_factor, size_cells
from sweep.submissions import new_submission, read_submissions, submitted, write_submission
from sweep.verbs import VERBS

SLURM = ("cluster=slurm", "launch.dry_run=true")
NOWHERE = "/nowhere"  # a PATH without SLURM's commands, or any others


@pytest.fixture
def launch(tmp_path, text_folder, command, monkeypatch):
    """Return a function that launches the tiny grid as on a machine without SLURM."""

    def launch(*words: str, **changes) -> SimpleNamespace:
        monkeypatch.setenv("PATH", NOWHERE)
        code, out, err = command(
            "launch", *tiny_grid(tmp_path / "root", text_folder, **changes), *words
        )
        return SimpleNamespace(returncode=code, stdout=out, stderr=err)

    launch.root = tmp_path / "root"
    return launch


@pytest.fixture
def asked(tmp_path, text_folder):
    """Return the tiny grid, resolved."""
    words = [*tiny_grid(tmp_path / "root", text_folder), "cluster=slurm"]
    return parse("launch", words, VERBS["launch"].reads).app


def test_a_dry_run_prints_the_batch_files_and_writes_nothing(launch):
    notes = ("cluster.partition=gpu x", "cluster.gpus=2", "cluster.parallelism=3",
             "cluster.setup=[module load cuda/12]", "cluster.additional.reservation=mine",
             "cluster.comment=it's mine")  # fmt: skip
    done = launch(*SLURM, *notes, hardware__price=2.5)
    assert (done.returncode, done.stderr) == (0, "")
    for line in ("--partition='gpu x'", "--gres=gpu:2", "--reservation=mine", "--array=0-4%3",
                 "--comment='it'\"'\"'s mine'", "--dependency=afterok:CANARY"):  # fmt: skip
        assert f"#SBATCH {line}\n" in done.stdout
    assert "\nmodule load cuda/12\n" in done.stdout
    assert "-P -m sweep.job" in done.stdout
    assert "at hardware.price=2.5 an hour" in done.stdout
    assert "Time limits are 2 x that and" in done.stdout
    assert "Nothing was written or submitted" in done.stdout
    assert not launch.root.exists()
    assert "price" not in launch(*SLURM).stdout


@pytest.mark.parametrize(
    ("runtime", "words"),
    [
        (
            "slurm_apptainer",
            "apptainer exec --nv --bind {root}:{root} --bind /data '/my img.sif' python3 -P",
        ),
        ("slurm_pyxis", "'--container-image=/my img.sif' --container-mounts={root}:{root},/data"),
    ],
)
def test_jobs_run_in_a_container(launch, runtime, words):
    done = launch(
        f"cluster={runtime}", "cluster.container=/my img.sif", "cluster.container_mounts=[/data]",
        "cluster.gpus=1", "launch.dry_run=true",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert words.format(root=launch.root) in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cluster=slurm"], r"no sinfo here: cluster=slurm is for a machine that submits jobs; use"),
        ([*SLURM, "cluster.nodes=2"], r"hardware\.ranks=1 can't be shared out evenly among cluster\.n"),
        ([*SLURM, "hardware.ranks=9"], r"hardware\.ranks=9 is more than the 8 sequences"),
        ([*SLURM, "cluster.workers=2"], r"cluster\.workers is read by cluster=local"),
        ([*SLURM, "launch.max_gpu_hours=1e-9"], r"launch\.max_gpu_hours=1e-09, but 5 cells .* raise it"),
        ([*SLURM, "cluster.gpus=-1"], r"cluster\.gpus=-1 must be at least 0"),
        ([*SLURM, "cluster.margin=0.5"], r"cluster\.margin=0\.5 must be at least 1"),
        ([*SLURM, "cluster.kind=pbs"], r"cluster\.kind=pbs is unknown; it may be local or slurm"),
        ([*SLURM, "cluster.container_runtime=docker"], r"it may be apptainer or pyxis"),
        ([*SLURM, "cluster.partition=a\n#SBATCH --x"], r"cluster\.partition has a line break"),
        ([*SLURM, "cluster.additional.array=0-9"], r"the launcher itself sets --array"),
        ([*SLURM, "cluster.additional.cpus_per_task=4"], r"cluster\.additional\.cpus_per_task: say it by cluster\.cpus"),
        ([*SLURM, "cluster.additional.exclude=n1"], r"say it by cluster\.exclude"),
        ([*SLURM, "cluster.additional.x='a\nb'"], r"cluster\.additional\.x has a line break"),
        ([*SLURM, "launch.only=some"], r"launch\.only=some is unknown; it may be failed"),
        ([*SLURM, "launch.code=old"], r"launch\.code=old is unknown; it may be frozen or new"),
        ([*SLURM, "launch.notify=echo {cell}"], r"launch\.notify: \{cell\} is unknown; it may be \{s"),
        ([*SLURM, "launch.notify=echo {sweep"], r"launch\.notify: "),
        (["cluster.partition=x"], r"cluster\.partition is read by cluster=slurm only"),
        (["launch.canary=false"], r"launch\.canary is read by cluster=slurm only"),
        ([*SLURM, "sweep=../x"], r"sweep='\.\./x' must be one folder name"),
        ([*SLURM, "sweep=a;rm -rf b"], r"must be one folder name"),
        ([*SLURM, "cluster.max_hours=0.1", "cluster.max_requeues=0", "hardware.flops_per_second=1e4"],
         r"is predicted to need \d+ jobs of 6 min one after another, cluster\.max_requeues=0"),
    ],
)  # fmt: skip
def test_what_can_not_be_launched_is_refused_in_one_line(launch, words, message):
    done = launch(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.search(message, done.stderr), done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not launch.root.exists()


def test_a_root_that_slurm_would_read_as_a_pattern_is_refused(launch, tmp_path):
    done = launch(*SLURM, f"root={tmp_path / '100%'}")
    assert done.returncode == 2
    assert "SLURM would read % in the name of a log as a pattern" in done.stderr


@pytest.fixture
def read_only(tmp_path):
    """Return a function that makes a folder read-only, for root too."""
    mounted = []

    def make(path: Path) -> Path:
        path.mkdir(parents=True)
        if os.getuid() != 0:
            path.chmod(0o500)
        elif subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(path)], capture_output=True
        ).returncode:
            pytest.skip("root writes everywhere, and may mount nothing here")
        else:
            mounted.append(path)
        return path

    yield make
    for path in mounted:
        subprocess.run(["umount", str(path)], check=True)


def test_a_folder_that_can_not_be_written_is_refused(read_only, tmp_path, text_folder, command):
    root = read_only(tmp_path / "root")
    code, _, err = command("launch", *tiny_grid(root, text_folder))
    assert code == 2
    assert re.search(r"can't write \S+ \(.*\); name a folder that you can write: root=FOLDER", err)


def test_a_folder_that_a_colleague_made_for_himself_is_named(read_only, tmp_path):
    folder = SweepFolder(tmp_path, "s")
    read_only(folder.path / "submissions")
    with pytest.raises(UsageError, match=r"submissions, which \S+ made: .* chmod -R g\+w"):
        folder.make()


def test_a_sweep_that_can_only_be_read_is_not_cancelled(read_only, tmp_path, command, asked):
    folder = resolve(asked).folder
    folder.make()
    freeze_plan(folder, resolve(asked).planned)
    read_only(folder.path / "launch")
    code, _, err = command("cancel", f"root={folder.root}", f"sweep={folder.name}")
    assert code == 2
    assert re.search(r"can't write \S+launch \(.*\): ask whose it is", err), err


def test_a_sweep_that_is_not_there_is_not_cancelled_into_being(tmp_path, command):
    code, _, err = command("cancel", f"root={tmp_path / 'none'}", "sweep=typo")
    assert code == 2
    assert "launch it first" in err
    assert not (tmp_path / "none").exists()


def test_a_full_disk_is_found_before_anything_is_launched(tmp_path, monkeypatch):
    def full(path: Path, data: bytes) -> int:
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UsageError, match="No space left on device"):
        SweepFolder(tmp_path, "s").make()
    assert not list((tmp_path / "s").iterdir())


# limits


def test_cells_of_like_cost_share_an_array_and_limits_cover_the_prediction(asked):
    resolved, hardware = resolve(asked), hardware_settings(asked.hardware)
    cluster = cluster_settings(asked.cluster)
    sized = size_cells(resolved.planned, resolved.rates, hardware, cluster, None)
    assert len(classes(sized)) == 1
    slow = replace(resolved.rates, flops_per_second=1e5)
    apart = classes(size_cells(resolved.planned, slow, hardware, cluster, None))
    assert len(apart) > 1
    for res, cells in apart.items():
        assert all(60 * res.minutes >= cluster.margin * c.seconds for c in cells)
        assert all(60 * res.minutes < 2 * (cluster.margin * c.seconds + 180) + 600 for c in cells)
    assert sorted(apart, key=lambda r: -r.minutes) == list(apart)
    tight = size_cells(resolved.planned, slow, hardware, replace(cluster, max_hours=0.25), None)
    assert max(c.lives for c in tight) > 1
    assert max(c.resources.minutes for c in tight) == 15
    faster = size_cells(resolved.planned, slow, hardware, cluster, 0.1)
    assert sum(c.seconds for c in faster) == pytest.approx(
        0.1 * sum(c.seconds for cells in apart.values() for c in cells)
    )


def test_ranks_and_memory_are_asked_for_by_node(asked):
    resolved = resolve(asked)
    hardware = replace(hardware_settings(asked.hardware), ranks=4, threads=3)
    cluster = replace(cluster_settings(asked.cluster), nodes=2)
    (res,) = classes(size_cells(resolved.planned, resolved.rates, hardware, cluster, None))
    assert (res.nodes, res.tasks_per_node, res.cpus, res.gpus) == (2, 2, 3, 0)
    assert res.memory_mb == 2000
    on_gpu = replace(hardware, device="cuda", dtype="bfloat16")
    (res,) = classes(size_cells(resolved.planned, resolved.rates, on_gpu, cluster, None))
    assert res.gpus == 2
    asked_gb = replace(cluster, memory_gb=7.5)
    (res,) = classes(size_cells(resolved.planned, resolved.rates, hardware, asked_gb, None))
    assert res.memory_mb == 7500


def test_the_disk_is_what_is_kept_and_what_is_being_written(asked):
    resolved, run = resolve(asked), run_settings(asked.run)
    hardware, cluster = hardware_settings(asked.hardware), cluster_settings(asked.cluster)
    sized = size_cells(resolved.planned, resolved.rates, hardware, cluster, None)
    by_policy = [
        disk_needed(sized, replace(run, keep_checkpoints=keep)) for keep in ("none", "last", "all")
    ]
    assert by_policy == sorted(by_policy)
    assert by_policy[2] - by_policy[1] == pytest.approx(12 * (by_policy[1] - by_policy[0]))


# the ledger


def frozen(asked, shards: Path) -> Frozen:
    return Frozen(shards, None, hardware_settings(asked.hardware), run_settings(asked.run), 3, 1)


def test_a_job_finds_its_cell_and_settings_in_its_submission(asked, tmp_path, monkeypatch):
    resolved = resolve(asked)
    folder = resolved.folder
    folder.make()
    plan = freeze_plan(folder, resolved.planned)
    first, *rest = (p.cell.id for p in reversed(plan))
    tasks = ((first,), tuple(rest))
    settings = frozen(asked, tmp_path / "shards")
    one = new_submission(
        folder, "cells", code="abc", tasks=tasks, resources=vars(Resources(1, 1, 0, 1, 500, 10)),
        settings=settings.to_dict(),
    )  # fmt: skip
    path = write_submission(folder, one)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    found_folder, found, found_settings = open_submission(path)
    assert found_settings == settings
    assert own_cells(found_folder, found) == read_plan(folder)[-2::-1]
    assert submitted(folder, one, "77") == read_submissions(folder)[0]
    assert one.cells == (first, *rest)
    assert json.loads(path.read_text())["job_id"] == "77"
    assert json.loads(path.read_text())["cells"] == [first, rest]  # as it was, for a cell alone


def test_job_names_are_their_own(tmp_path):
    folder = SweepFolder(tmp_path, "s")
    names = {new_submission(folder, "cells", code="c").job_name for _ in range(100)}
    assert len(names) == 100
    assert all(re.fullmatch(r"isoflop-s-cells-[0-9a-f]{8}", name) for name in names)


@pytest.mark.parametrize("text", ["", "{}", '{"schema": 99}', '{"schema": 1, "cells": [], "x": 1}'])
def test_a_ledger_of_another_code_is_refused(tmp_path, text):
    folder = SweepFolder(tmp_path, "s")
    path = write_submission(folder, new_submission(folder, "cells", code="c"))
    path.write_text(text)
    with pytest.raises(UsageError, match=re.escape(str(path))):
        read_submissions(folder)


def test_an_empty_ledger_asks_no_queue(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", NOWHERE)
    assert settle_submissions(SweepFolder(tmp_path, "s")) == ([], {})


# code, and the end


def test_other_code_than_began_the_sweep_asks_which_to_take(tmp_path):
    folder = SweepFolder(tmp_path, "s")
    now = choose_code(folder, None, True)
    old = folder.path / "code" / "0123456789ab"
    old.mkdir(parents=True)
    said = {**vars(now), "name": old.name, "content": "other", "untracked": []}
    (old / "SNAPSHOT.json").write_text(json.dumps(said))
    with pytest.raises(UsageError, match=r"code 0123456789ab, this is .*launch\.code=frozen .*new"):
        choose_code(folder, None, True)
    assert choose_code(folder, "frozen", True).name == old.name
    assert choose_code(folder, "new", True).content == now.content
    assert choose_code(folder, None, False).name == old.name  # nothing is trained


def test_a_notification_is_quoted_for_the_shell(tmp_path):
    folder = SweepFolder(tmp_path / "it's; touch hit", "s")
    out = tmp_path / "out"
    template = (
        f"echo {{sweep}} {{state}} {{finished}}/{{planned}} {{folder}} > {shlex.quote(str(out))}"
    )
    assert tell(template, folder, Tally(3, 1, 4))
    assert out.read_text() == f"s complete 3/4 {folder.path}\n"
    assert not list(tmp_path.rglob("hit"))
    assert not tell("exit 3", folder, Tally(3, 0, 4))


def test_a_sweep_is_complete_when_every_cell_has_a_terminal_result():
    assert Tally(3, 1, 4).state == "complete"
    assert Tally(3, 0, 4).state == "incomplete"
    assert RecordStatus.DIVERGED.terminal


def test_settings_are_checked_where_they_are_made(asked):
    with pytest.raises(UsageError, match=r"launch\.retries=-1"):
        launch_settings(replace(asked.launch, retries=-1))


# submitting, to programs that answer as SLURM does


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Put a site's commands on the path: arrays of two tasks, and an sbatch that can be told to refuse."""
    tools = tmp_path / "bin"
    tools.mkdir()
    answers = {
        "sinfo": "echo 'main*|4|4|4000|gpu:2|1-00:00:00'",
        "scontrol": "echo 'MaxArraySize = 3'",
        "squeue": f"cat {tmp_path}/queue",
        "sacct": "true",
        "srun": "true",
        "sbatch": (
            f'n=$(ls {tmp_path}/taken | wc -l)\n[ "$n" -ge "$(cat {tmp_path}/room)" ] && '
            "{ echo 'sbatch: error: QOSMaxSubmitJobPerUserLimit' >&2; exit 1; }\n"
            f'cp "$1" {tmp_path}/taken/$n; echo "Submitted batch job 10$n"'
        ),
    }
    for name, answer in answers.items():
        (tools / name).write_text(f"#!/bin/sh\n{answer}\n")
        (tools / name).chmod(0o755)
    (tmp_path / "taken").mkdir()
    (tmp_path / "queue").touch()
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")

    def room(jobs: int) -> None:
        (tmp_path / "room").write_text(str(jobs))

    room(99)
    return SimpleNamespace(room=room, taken=tmp_path / "taken", queue=tmp_path / "queue")


def test_what_sbatch_refuses_in_the_middle_is_submitted_by_the_next_launch(
    tmp_path, text_folder, command, site
):
    words = [*tiny_grid(tmp_path / "root", text_folder), "cluster=slurm", "launch.canary=false"]
    folder = SweepFolder(tmp_path / "root", "tiny")
    site.room(1)
    code, out, err = command("launch", *words)
    assert (code, len(err.strip().splitlines())) == (2, 1)
    assert (
        "refused 3 of 5 cells: QOSMaxSubmitJobPerUserLimit; the others are in the queue (100)"
        in err
    )
    ledger = read_submissions(folder)
    assert [(s.state, len(s.cells)) for s in ledger] == [
        ("submitted", 2),
        ("refused", 2),
        ("refused", 1),
    ]
    code, out, _ = command("status", f"root={folder.root}", "sweep=tiny")
    assert "sbatch refused it: QOSMaxSubmitJobPerUserLimit" in out
    mend = next(line.strip() for line in out.splitlines() if "launch" in line)
    assert sorted(shlex.split(mend)) == sorted(["isoflop", "launch", *words])  # it can be pasted

    site.queue.write_text(
        f"100_[0-1]|PENDING|Resources||0:00|10:00|1|N/A|main|{ledger[0].job_name}\n"
    )
    code, out, _ = command("launch", *words, "launch.dry_run=true")
    assert "5 cells, 0 done, 2 in the queue, 3 to submit" in out
    assert [out.count(f"#SBATCH --array=0-{n}%") for n in (1, 0)] == [1, 1]
    assert "#SBATCH --dependency=afterany:ARRAYS\n" in out
    site.room(3)
    code, out, err = command("launch", *words)
    assert (code, err) == (1, "")
    assert "last stage: sbatch refused it (QOSMaxSubmitJobPerUserLimit): isoflop collect" in out
    cells = [c for s in read_submissions(folder) if s.state == "submitted" for c in s.cells]
    assert sorted(cells) == sorted(p.cell.id for p in read_plan(folder))
    site.queue.write_text("")
    site.room(99)
    code, _, err = command("launch", *words, "launch.only=failed")  # none of them was begun
    assert (code, err) == (0, "")
    assert len(list(site.taken.iterdir())) == 3


def test_a_site_that_has_no_such_nodes_is_refused_before_anything_is_written(
    tmp_path, text_folder, command, site
):
    words = [*tiny_grid(tmp_path / "root", text_folder), "cluster=slurm"]
    for wrong, message in (
        ("cluster.partition=gpu", "cluster.partition=gpu is not here; it may be main"),
        ("cluster.gpus=3", "cluster.gpus=3: a node of partition main has 2"),
    ):
        code, out, err = command("launch", *words, wrong)
        assert (code, out) == (2, "")
        assert message in err
    assert not (tmp_path / "root").exists()


def test_nodes_of_gpus_that_failed_are_left_out_beside_those_that_were_named(
    tmp_path, text_folder, command, monkeypatch
):
    words = [*tiny_grid(tmp_path / "root", text_folder), "cluster=slurm", "launch.dry_run=true"]
    for node, times in (("n3", 2), ("n4", 1)):
        monkeypatch.setenv("SLURMD_NODENAME", node)
        for _ in range(times):
            note_failure(SweepFolder(tmp_path / "root", "tiny"), "CUDA error")
    _, out, _ = command("launch", *words, "cluster.exclude=n9")
    assert out.count("#SBATCH --exclude=n9,n3\n") == 3  # canary, array, last stage


def test_predictions_are_corrected_by_what_finished_cells_took(asked):
    resolved = resolve(asked)
    rates, planned = resolved.rates, resolved.planned
    rows = [
        {"cell_id": p.cell.id, "status": status, "n_device": rates.ranks, "device": device,
         "shared_steps": None,
         "seconds": times * predict_cost(p.cell, rates, p.data.final_tokens).seconds}
        for p, status, device, times in zip(
            planned, ("finished", "finished", "failed", "finished"), ("cpu", "cpu", "cpu", "cuda"),
            (2.0, 3.0, 50.0, 70.0), strict=False)
    ]  # fmt: skip
    frame = pd.DataFrame(rows)
    assert measured_factor(frame, planned, rates, "cpu") == pytest.approx(2.9)
    assert measured_factor(frame, planned, rates, "cuda") == pytest.approx(70)
    assert measured_factor(frame[2:3], planned, rates, "cpu") is None


def test_a_grid_for_a_month_of_a_cluster_is_split_by_what_its_cells_take(
    tmp_path, text_folder, command
):
    """1e18 to 3e20 FLOPs: limits of minutes to days, the dearest first, each below a day."""
    code, out, err = command(
        "launch", "grid=cluster", "data=text_folder", f"data.path={text_folder}", f"root={tmp_path / 'r'}",
        "hardware.ranks=8", "cluster.account=a1", "cluster.qos=long", "cluster.constraint=h100&ib",
        "cluster.mail_user=me@site", "cluster.mail_type=END", "launch.dry_run=true",
    )  # fmt: skip
    assert (code, err) == (0, "")
    for option in ("account=a1", "qos=long", "constraint='h100&ib'", "mail-user=me@site", "mail-type=END",
                   "gres=gpu:8", "ntasks-per-node=8"):  # fmt: skip
        assert f"#SBATCH --{option}\n" in out
    arrays = out.split("\n# isoflop-cluster-cells-")[1:]
    minutes = [int(re.search(r"#SBATCH --time=(\d+)", text).group(1)) for text in arrays]
    assert len(minutes) > 2
    assert sorted(minutes, reverse=True) == minutes
    assert max(minutes) <= 24 * 60
