"""When the demo may leave a report as it is."""

import json
import os
from pathlib import Path

import pytest

from analysis.fits_file import read_fits
from results.provenance import code_sha256
from sweep.folder import SweepFolder
from sweep.reporting import current_page

REFERENCE = Path(__file__).resolve().parent.parent / "results" / "reference" / "demo" / "fits.json"


@pytest.fixture
def folder(tmp_path):
    """Return a sweep whose page is newer than its only record, fitted by this code."""
    folder = SweepFolder(tmp_path, "one")
    folder.records.mkdir(parents=True)
    folder.report.mkdir()
    (folder.records / "cell.0.parquet").touch()
    (folder.report / "report.html").touch()
    write_fits(folder, code_sha256())
    set_age(folder.records / "cell.0.parquet", 10)
    return folder


def write_fits(folder: SweepFolder, code: str) -> None:
    fits = read_fits(REFERENCE)
    folder.fits.write_text(json.dumps({**fits, "provenance": {"code_sha256": code}}))


def set_age(path: Path, seconds: float) -> None:
    at = (path.parent.parent / "fits.json").stat().st_mtime - seconds
    os.utime(path, (at, at))


def test_a_page_of_all_records_by_this_code_is_current(folder):
    assert current_page(folder) == folder.report / "report.html"


def test_a_record_after_the_page_makes_it_old(folder):
    set_age(folder.report / "report.html", 20)
    assert current_page(folder) is None


def test_other_code_makes_it_old(folder):
    write_fits(folder, "0" * 64)
    assert current_page(folder) is None


def test_no_page_and_no_fits_are_not_current(folder):
    folder.fits.unlink()
    assert current_page(folder) is None
    (folder.report / "report.html").unlink()
    assert current_page(folder) is None
