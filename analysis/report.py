"""Write a report: one HTML file, the same as Markdown, and every figure with its data.

The page is a Document of plain-text blocks (report_answer, report_evidence, report_runs), the
figures are Figures (figures), and report_html and report_markdown put both on paper.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import figures as fig
from analysis.figure_data import part
from analysis.figure_list import make_figures, summary_of
from analysis.report_answer import answer_section, headline
from analysis.report_beyond import beyond_section
from analysis.report_compare import (
    NamedFit,
    compare,
    compared_figures,
    compared_section,
    groups_of,
)
from analysis.report_document import Document
from analysis.report_drawing import draw_all
from analysis.report_evidence import evidence_sections
from analysis.report_html import to_html
from analysis.report_markdown import to_markdown
from analysis.report_numbers import known, power
from analysis.report_runs import run_sections
from analysis.report_worth import Worth
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
    price: float | None = None,
) -> list[Path]:
    """Write report.html, report.md and figures/ into a folder.

    Parts that are missing or failed are said in words; equal inputs give equal bytes.

    Args:
        out: the folder, made if needed.
        fits: parsed fits.json (analysis.fits_file.read_fits).
        records: every attempt (results.store.read_records), or None.
        curves: curves.parquet: cell_id, attempt, tokens and losses, or None.
        plan: planned cells with a column cell_id, or None.
        points: the fitted runs: N, D, C, loss, budget and, if known, name, and those of
            analysis.beyond.COLUMNS that there are; or None.
        title: heading of the page.
        command: what a person types to make the same page again.
        price: of one device-hour, dollars; no money is shown without it.

    Returns:
        The files written, report.html first.
    """
    cells = None if records is None else results_of(records)
    made = make_figures(fits, points, cells, curves, headline(fits))
    made += compared_figures(groups_of(fits))
    pictures, written = save_figures(made, summary_of(made), out / "figures")
    document = compose(fits, set(pictures), records=records, plan=plan, points=points,
                       curves=curves, title=title, command=command, price=price)  # fmt: skip
    return write_document(out, document, made, pictures) + written


def save_figures(
    made: Sequence[fig.Figure], summary: fig.Figure | None, folder: Path
) -> tuple[dict[str, str], list[Path]]:
    """Save every figure, and draw those of the page in both widths.

    Args:
        made: figures of the page.
        summary: one that is saved, and not on the page.
        folder: where the files go.

    Returns:
        name -> element for the page, and the paths written.
    """
    saved = [*made, *([summary] if summary else [])]
    written = [fig.write_whole(_made(folder) / "columns.md", fig.column_dictionary(saved).encode())]
    elements = {}
    for figure, (element, paths) in zip(saved, draw_all(saved, folder), strict=True):
        elements[figure.name] = element
        written += paths
    return {f.name: elements[f.name] for f in made}, written


def write_document(
    out: Path, document: Document, made: Sequence[fig.Figure], pictures: Mapping[str, str]
) -> list[Path]:
    """Write report.html and report.md; arguments as `save_figures` takes and returns them."""
    captions = {f.name: (f.alt, f.caption) for f in made}
    texts = {
        "report.html": to_html(document, pictures),
        "report.md": to_markdown(document, captions),
    }
    return [fig.write_whole(_made(out) / name, text.encode()) for name, text in texts.items()]


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_comparison(
    out: Path,
    named: Sequence[NamedFit],
    *,
    title: str,
    command: str,
    worth: Sequence[Worth] = (),
) -> list[Path]:
    """Write a report on several fits side by side; returns its files, report.html first.

    Args:
        out: the folder, made if needed.
        named: fits of distinct names; one that can't be read is named on the page.
        title: heading of the page.
        command: what a person types to make the same page again.
        worth: what the compute of some is worth in that of others.
    """
    document, made = compare(named, title=title, command=command, worth=worth)
    pictures, written = save_figures(made, None, out / "figures")
    return write_document(out, document, made, pictures) + written


def compose(
    fits: Mapping[str, Any],
    pictures: Collection[str],
    *,
    records: pd.DataFrame | None,
    plan: pd.DataFrame | None,
    points: pd.DataFrame | None,
    title: str,
    command: str,
    curves: pd.DataFrame | None = None,
    price: float | None = None,
) -> Document:
    """Say everything that the report says; arguments as in `write_report`.

    Args:
        pictures: names of the figures there are; others are explained away in words.
    """
    cells = None if records is None else results_of(records)
    groups = groups_of(fits)
    evidence = evidence_sections(fits, pictures)
    sections = (
        answer_section(fits, records),
        *([compared_section(groups, pictures)] if groups else evidence),
        *([] if groups else [beyond_section(fits, points, curves)]),
        *run_sections(fits, pictures, records, cells, plan, command, price),
    )
    return Document(title, _subtitle(fits, points), sections)


def _subtitle(fits: Mapping[str, Any], points: pd.DataFrame | None) -> str:
    n = known(part(fits, "points").get("n"))
    words = [f"{n:.0f} runs" if n is not None else "runs unknown"]
    if points is not None and len(points):
        budgets = points["budget"]
        words[0] += f" over {budgets.nunique()} budgets"
        words.append(f"{power(budgets.min())} to {power(budgets.max())} FLOPs")
    rule = part(fits, "points").get("flop_rule")
    return ", ".join([*words, *([f"counted by {rule}"] if rule else [])]) + "."
