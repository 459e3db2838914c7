"""A launch on SLURM as far as it goes without SLURM: dry runs, limits, the ledger, bad input."""

import json
import os
import re
import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers_cli import tiny_grid

from results.record import RecordStatus
from sweep.arguments import parse
from sweep.cluster import cluster_settings, launch_settings
from sweep.code import choose_code
from sweep.errors import UsageError
from sweep.finish import Tally, tell
from sweep.folder import SweepFolder, freeze_plan, read_plan
from sweep.frozen import Frozen, open_submission, own_cells
from sweep.in_queue import settle_submissions
from sweep.launch_price import disk_needed
from sweep.resolve import hardware_settings, resolve, run_settings
from sweep.resources import Resources, classes, size_cells
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


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_that_can_not_be_written_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match=r"can't write .*; name a folder that you can write"):
        SweepFolder(tmp_path, "s").make()


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
