"""Tasks of several cells on a real SLURM: trunks and packs, preempted, killed, and whole."""

import pytest
from helpers_cluster import Lab

from results.store import read_records
from slurm.devcluster.up import client
from sweep.folder import read_plan
from sweep.trunks import shared_steps

TRUNKS = ("grid.trunks=true", "grid.budgets=[1.4e10,3e10,6e10]")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def branches(cluster, root):
    """Return the losses of a sweep of trunks, trained undisturbed on this machine without SLURM."""
    lab = Lab(cluster, root)
    words = ("grid=smoke", f"root={root}", "sweep=branches", *TRUNKS)
    done = lab.isoflop("launch", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return lab.losses("branches")


def test_every_task_trains_a_trunk_and_pays_it_once(lab, branches):
    said = lab.launch("trunks", *TRUNKS).stdout
    assert " cells in " in said  # an array whose tasks have several
    assert "have said nothing" not in lab.status("trunks")
    lab.wait_until_idle()
    lab.check("trunks", branches)
    rows = read_records(lab.folder("trunks").records)

    plan = [p.cell for p in read_plan(lab.folder("trunks"))]
    assert dict(zip(rows["cell_id"], rows["shared_steps"], strict=True)) == shared_steps(plan)


def test_a_packed_job_that_is_preempted_saves_all_and_goes_on(lab, branches):
    sweep = "packed"
    lab.launch(sweep, *TRUNKS, "cluster.pack=2", "cluster.partition=preempt")
    _, status = lab.a_running_cell(sweep)
    hog = lab.ask("sbatch", "--parsable", "--partition=main", f"--nodelist={lab.node_of(status)}",
                  "--output=/dev/null", f"--gres=gpu:{lab.cluster.gpus}", "--wrap=sleep 600")  # fmt: skip
    try:
        lab.wait_for("the hog to run", lambda: f"{hog} RUNNING None" in lab.queue())
    finally:
        client(lab.cluster, "scancel", hog)
    lab.wait_until_idle()
    lab.check(sweep, branches)
    assert "queued again" in lab.logs(sweep)
    assert set(read_records(lab.folder(sweep).records)["attempt"]) == {0}


def test_a_worker_of_a_packed_job_is_killed_and_its_cell_goes_on(lab, right):
    lab.launch("worker-killed", "cluster.pack=2")
    held, status = lab.hold("worker-killed")
    lab.kill_process(status)
    lab.wait_until_idle()
    lab.check("worker-killed", right)
    assert f"{held}: its process died (SIGKILL); again" in lab.logs("worker-killed")
