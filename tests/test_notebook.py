"""The notebook runs from top to bottom, and what it fits is what was planted."""

import json
from pathlib import Path

import matplotlib
import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "docs" / "laws_from_python.ipynb"


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Run every code cell in one namespace, its report written to a folder of the test's own."""
    matplotlib.use("Agg")
    out = tmp_path_factory.mktemp("notebook")
    names = {"__name__": "notebook"}
    for i, cell in enumerate(read()["cells"]):
        if cell["cell_type"] == "code":
            source = "".join(cell["source"])
            source = source.replace('CHECKOUT / "outputs" / "notebook"', f"Path({str(out)!r})")
            source = source.replace("folder = Path", "from pathlib import Path\nfolder = Path")
            exec(compile(source, f"{NOTEBOOK.name}, cell {i}", "exec"), names)
    yield names, out
    matplotlib.pyplot.close("all")


def read() -> dict:
    return json.loads(NOTEBOOK.read_text("utf-8"))


def test_is_a_notebook_without_outputs():
    content = read()
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    assert len({c["id"] for c in content["cells"]}) == len(content["cells"])
    for cell in content["cells"]:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None


def test_the_planted_law_comes_back(ran):
    names, _ = ran
    for name, true in names["truth"].items():
        low, high = names["planted"].approach3.ci[name]
        assert low - (high - low) <= true <= high + (high - low), name


def test_it_writes_the_report_that_it_promises(ran):
    _, out = ran
    assert (out / "report.html").exists()
    assert (out / "figures" / "surface.svg").exists()


def test_it_draws_on_its_own_axes(ran):
    names, _ = ran
    assert names["left"].get_xlabel() == "parameters N"
    assert len(names["right"].lines) > 5
