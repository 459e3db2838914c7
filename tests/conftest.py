"""What all tests share: one thread, unhurried hypothesis, and a little prepared text."""

import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: tests run side by side

import pytest
from hypothesis import Phase, settings

# A shell that starts tests in the background has them ignore Ctrl-C, and so all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

sys.path.append(str(Path(__file__).parent))  # helpers_*.py; last, so that it shadows nothing

# No deadline: the machine may be busy. The same examples each time, so that a red test means a
# change; HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=1000)
# A planted bug is to turn its test red: by which example is all the same.
found = tuple(phase for phase in Phase if phase is not Phase.shrink)
settings.register_profile("planted", settings.get_profile("repeatable"), phases=found)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory) -> Path:
    """Return a folder of text that a small model can learn from."""
    from helpers_cells import write_text

    return write_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="session")
def shards(text_folder, tmp_path_factory) -> Path:
    """Return the prepared folder of that text."""
    from helpers_cells import data_settings

    from sweep.data import prepare_data

    cache = tmp_path_factory.mktemp("cache")
    return prepare_data(data_settings(text_folder), cache, lambda line: None)


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Return a function that runs the command line in this process."""
    from sweep import cli

    def command(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["isoflop", *words])
        monkeypatch.chdir(tmp_path)
        return cli.main(), *capsys.readouterr()

    return command
