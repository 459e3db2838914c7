"""Draw a report's figures, on as many cores as there are: drawing is most of the time it takes."""

import os
import sys
import threading
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path

from analysis.figures import Drawing, Figure, render, save
from analysis.report_html import figure_element
from analysis.report_svg import inline_svg

Drawn = tuple[str, list[Path]]  # the element for the page, and the files written
MOST_PROCESSES = 4
_work: tuple[Sequence[Figure], Path] = ((), Path())  # of a worker


def draw_all(figures: Sequence[Figure], folder: Path) -> list[Drawn]:
    """Save each figure's files and make its element for the page, in the order given.

    Workers are forked, since a figure holds functions, which do not pickle; where a fork is not
    safe, or one core is all there is, this process draws.
    """
    n = min(len(os.sched_getaffinity(0)), MOST_PROCESSES, len(figures))
    if n < 2 or not _may_fork():
        return [_element(f, save(f, folder), render(f, narrow=True)) for f in figures]
    # The dearest first, so that all workers end at about the same time.
    order = sorted(range(len(figures)), key=lambda i: -len(figures[i].panels))
    with get_context("fork").Pool(n, _take, (figures, folder)) as pool:
        wide = pool.map_async(_save_number, order, chunksize=1)
        narrow = pool.map_async(_render_number, order, chunksize=1)
        drawn = {i: _element(figures[i], saved, phone)
                 for i, saved, phone in zip(order, wide.get(), narrow.get(), strict=True)}  # fmt: skip
    return [drawn[i] for i in range(len(figures))]


def _may_fork() -> bool:
    """Whether a forked child can trust its locks: no other thread may hold one."""
    return threading.active_count() == 1 and "torch" not in sys.modules


def _take(figures: Sequence[Figure], folder: Path) -> None:
    global _work
    _work = (figures, folder)


def _save_number(i: int) -> tuple[Drawing, list[Path]]:
    figures, folder = _work
    return save(figures[i], folder)


def _render_number(i: int) -> Drawing:
    figures, _ = _work
    return render(figures[i], narrow=True)


def _element(figure: Figure, saved: tuple[Drawing, list[Path]], phone: Drawing) -> Drawn:
    drawing, paths = saved
    element = figure_element(
        inline_svg(drawing.svg, figure.name, figure.alt, drawing.words),
        inline_svg(phone.svg, f"{figure.name}-narrow", figure.alt, phone.words),
        figure.caption,
        single=len(figure.panels) == 1,
    )
    return element, paths
