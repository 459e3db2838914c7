"""The gallery shows what its script would write, in pictures that are there and small."""

import importlib.util
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs"


def script():
    spec = importlib.util.spec_from_file_location("make_gallery", DOCS / "make_gallery.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_the_one_that_the_script_writes():
    assert (DOCS / "gallery.md").read_text("utf-8") == script().page()


def test_every_picture_is_there_and_no_other():
    gallery = script()
    wanted = {gallery.picture(e, figure) for e in gallery.ENTRIES for figure, _ in e.pictures}
    found = {p.name: p.stat().st_size for p in (DOCS / "gallery").iterdir()}
    assert set(found) == wanted
    assert all(10_000 < size < 300_000 for size in found.values())
    assert sum(found.values()) < 1_000_000
