"""Write a report: one HTML file, the same as Markdown, and every figure with its data.

The page is a Document of plain-text blocks (report_answer, report_evidence, report_runs), the
figures are Figures (figures), and report_html and report_markdown put both on paper.
"""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import figures as fig
from analysis.figure_data import part
from analysis.figure_list import make_figures, summary_of
from analysis.report_answer import answer_section, headline
from analysis.report_document import Document
from analysis.report_evidence import evidence_sections
from analysis.report_html import figure_element, to_html
from analysis.report_markdown import to_markdown
from analysis.report_numbers import known, power
from analysis.report_runs import run_sections
from analysis.report_svg import inline_svg
from results.store import results_of


def write_report(
    out: Path,
    fits: Mapping[str, Any],
    *,
    records: pd.DataFrame | None,
    curves: pd.DataFrame | None,
    plan: pd.DataFrame | None,
    points: pd.DataFrame | None,
    title: str,
    command: str,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write report.html, report.md and figures/ into a folder.

    Parts that are missing or failed are said in words; equal inputs give equal bytes.

    Args:
        out: the folder, made if needed.
        fits: parsed fits.json (analysis.fits_file.read_fits).
        records: every attempt (results.store.read_records), or None.
        curves: curves.parquet: cell_id, attempt, tokens and losses, or None.
        plan: planned cells with a column cell_id, or None.
        points: the fitted runs: N, D, C, loss, budget and, if known, name; or None.
        title: heading of the page.
        command: what a person types to make the same page again.
        progress: called with (figures done, figures in all).

    Returns:
        The files written, report.html first.
    """
    cells = None if records is None else results_of(records)
    made = make_figures(fits, points, cells, curves, headline(fits))
    summary = summary_of(made)
    pictures, written = {}, []
    saved = [*made, *([summary] if summary else [])]
    for i, figure in enumerate(saved):
        drawing, paths = fig.save(figure, out / "figures")
        written += paths
        if figure is not summary:
            pictures[figure.name] = _for_page(figure, drawing)
        if progress is not None:
            progress(i + 1, len(saved))
    document = compose(fits, set(pictures), records=records, plan=plan, points=points,
                       title=title, command=command)  # fmt: skip
    captions = {f.name: (f.alt, f.caption) for f in made}
    texts = {
        out / "report.html": to_html(document, pictures),
        out / "report.md": to_markdown(document, captions),
        out / "figures" / "columns.md": fig.column_dictionary(saved),
    }
    for path in texts:
        path.parent.mkdir(parents=True, exist_ok=True)
    return [fig.write_whole(path, text.encode()) for path, text in texts.items()] + written


def compose(
    fits: Mapping[str, Any],
    pictures: Collection[str],
    *,
    records: pd.DataFrame | None,
    plan: pd.DataFrame | None,
    points: pd.DataFrame | None,
    title: str,
    command: str,
) -> Document:
    """Say everything that the report says; arguments as in `write_report`.

    Args:
        pictures: names of the figures there are; others are explained away in words.
    """
    cells = None if records is None else results_of(records)
    sections = (
        answer_section(fits, records),
        *evidence_sections(fits, pictures),
        *run_sections(fits, pictures, records, cells, plan, command),
    )
    return Document(title, _subtitle(fits, points), sections)


def _for_page(figure: fig.Figure, drawing: fig.Drawing) -> str:
    """Make both widths of a figure for the page; `drawing` is the wide one."""
    phone = fig.render(figure, narrow=True)
    return figure_element(
        inline_svg(drawing.svg, figure.name, figure.alt, drawing.words),
        inline_svg(phone.svg, f"{figure.name}-narrow", figure.alt, phone.words),
        figure.caption,
        single=len(figure.panels) == 1,
    )


def _subtitle(fits: Mapping[str, Any], points: pd.DataFrame | None) -> str:
    n = known(part(fits, "points").get("n"))
    words = [f"{n:.0f} runs" if n is not None else "runs unknown"]
    if points is not None and len(points):
        budgets = points["budget"]
        words[0] += f" over {budgets.nunique()} budgets"
        words.append(f"{power(budgets.min())} to {power(budgets.max())} FLOPs")
    rule = part(fits, "points").get("flop_rule")
    return ", ".join([*words, *([f"counted by {rule}"] if rule else [])]) + "."
