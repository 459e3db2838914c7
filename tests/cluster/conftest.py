"""One real SLURM for all tests of this folder; where none can be had, they skip and say why."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers_cluster import Lab

from slurm.devcluster.cluster import ClusterError, DevCluster
from slurm.devcluster.down import down
from slurm.devcluster.packages import why_not_here
from slurm.devcluster.up import up

LONGEST = ("test_demo.py", "test_soak.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder; those that keep all cores busy for minutes come first.

    They come one after the other: workers are dealt a stretch of tests each, and steal from its end.
    """
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.cluster)
    items.sort(key=lambda item: [*LONGEST, item.path.name].index(item.path.name))


@pytest.fixture(scope="session")
def cluster() -> Iterator[DevCluster]:
    """Return a cluster of this worker's own; ISOFLOP_TEST_CLUSTER=port:prefix chooses its names."""
    if reason := why_not_here():
        pytest.skip(reason)
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    names = f"{19810 + 100 * worker}:{'tuvw'[worker % 4]}"
    port, prefix = os.environ.get("ISOFLOP_TEST_CLUSTER", names).split(":")
    root = Path(tempfile.gettempdir()) / f"isoflop-test-{port}"
    made = DevCluster(root=root, port=int(port), prefix=prefix, grace=30)
    try:
        if old := DevCluster.load(root):  # of tests that were killed
            down(old, print)
        up(made, print)
    except ClusterError as e:
        down(made, print)  # a part of it may have come up
        pytest.skip(f"no SLURM here: {e}")
    yield made
    down(made, print)


@pytest.fixture(scope="session")
def root(tmp_path_factory) -> Path:
    """Return the root of all sweeps, also of other workers: data is prepared once for all.

    Undisturbed sweeps are launched there by every worker that needs one, and so trained by all of
    them together.
    """
    own = tmp_path_factory.getbasetemp()
    root = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "sweeps"
    root.mkdir(exist_ok=True)
    return root


@pytest.fixture
def lab(cluster, root) -> Iterator[Lab]:
    """Return the cluster, quiet and mended before and after."""
    lab = Lab(cluster, root)
    lab.clear()
    yield lab
    lab.clear()


@pytest.fixture(scope="session")
def right(cluster, root) -> dict[str, float]:
    """Return the losses of the smoke grid, trained undisturbed on this machine without SLURM."""
    lab = Lab(cluster, root)
    words = ("grid=smoke", f"root={root}", "sweep=undisturbed", "launch.finish=false")
    done = lab.isoflop("launch", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return lab.losses("undisturbed")
