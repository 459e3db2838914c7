"""A report as one HTML file that needs nothing else: style, script and figures are inside it."""

import re
from collections.abc import Mapping
from html import escape
from pathlib import Path

from analysis.report_document import (
    Block,
    Choice,
    Command,
    Document,
    Picture,
    Points,
    Section,
    Table,
    Text,
)
from analysis.report_svg import colour_variables

_HERE = Path(__file__).parent
_INDEXED = re.compile(r"\b([NDL])_(opt|min)\b")
MOST_COLUMNS = 9
LONG = 40
# Inline style and script only: nothing is fetched, whatever a name in the data says.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def to_html(document: Document, pictures: Mapping[str, str]) -> str:
    """Write the page.

    Args:
        document: what it says; every text is escaped here.
        pictures: name -> <figure> element from `figure_element`.
    """
    title = escape(document.title)
    links = " ".join(
        f'<a href="#{escape(s.id)}">{escape(s.title)}</a>' for s in document.sections[1:]
    )
    sections = "\n".join(
        _section(s, pictures, first=s is document.sections[0]) for s in document.sections
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>
{_style()}</style>
</head>
<body>
<main>
<header>
<h1>{title}</h1>
<p class="subtitle">{escape(document.subtitle)}</p>
<nav>{links}</nav>
</header>
{sections}
</main>
<script>
{(_HERE / "report.js").read_text("utf-8")}</script>
</body>
</html>
"""


def figure_element(wide: str, narrow: str, caption: str, *, single: bool) -> str:
    """Put a figure on the page in both of its widths, the page's style choosing one.

    Args:
        wide: <svg> for a desk screen.
        narrow: <svg> for a phone.
        caption: plain text.
        single: one panel, which needs less than the page's width.
    """
    kind = "wide single" if single else "wide"
    return (
        f'<figure><div class="{kind}">{wide}</div><div class="narrow">{narrow}</div>'
        f"<figcaption>{_say(caption)}</figcaption></figure>"
    )


def _style() -> str:
    light, dark = colour_variables(dark=False), colour_variables(dark=True)
    return (
        f":root{{{light}}}\n@media screen and (prefers-color-scheme: dark){{:root{{{dark}}}}}\n"
        + (_HERE / "report.css").read_text("utf-8")
    )


def _section(section: Section, pictures: Mapping[str, str], *, first: bool) -> str:
    kind = ' class="answer"' if first else ""
    body = "\n".join(_block(b, pictures) for b in section.blocks)
    return f'<section id="{escape(section.id)}"{kind}>\n<h2>{escape(section.title)}</h2>\n{body}\n</section>'


def _block(block: Block, pictures: Mapping[str, str]) -> str:
    match block:
        case Text(words, "plain"):
            return f"<p>{_say(words)}</p>"
        case Text(words, kind):
            return f'<p class="{escape(kind)}">{_say(words)}</p>'
        case Points(items):
            return "<ul>" + "".join(f"<li>{_say(i)}</li>" for i in items) + "</ul>"
        case Command(words):
            return f"<pre>{escape(words)}</pre>"
        case Picture(name):
            return pictures[name]
        case Choice():
            return _choice(block)
        case Table():
            return _table(block)


def _choice(block: Choice) -> str:
    """Every sentence; the page's script adds a button for each, and hides what is not chosen."""
    items = "\n".join(
        f'<li data-pick="{i}" data-name="{escape(name)}">{_say(words)}</li>'
        for i, (name, words) in enumerate(block.options)
    )
    return f'<div class="choice" data-label="{escape(block.label)}">\n<ul>\n{items}\n</ul></div>'


def _table(block: Table) -> str:
    kinds = [_kind(block, i) for i in range(len(block.columns))]
    head = "".join(
        f'<th scope="col"{k}>{_say(c)}</th>' for c, k in zip(block.columns, kinds, strict=True)
    )
    picks = [f' data-pick="{p}"' for p in block.picks] or [""] * len(block.rows)
    rows = "\n".join(
        f"<tr{pick}>"
        + "".join(f"<td{k}>{_say(v)}</td>" for v, k in zip(row, kinds, strict=True))
        + "</tr>"
        for row, pick in zip(block.rows, picks, strict=True)
    )
    caption = f'<p class="caption">{_say(block.caption)}</p>' if block.caption else ""
    dense = " dense" if len(block.columns) > MOST_COLUMNS else ""
    return (
        f'{caption}<div class="scroll{dense}" tabindex="0"><table><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _kind(block: Table, column: int) -> str:
    """Class of a column: a number, or a long text, which a narrow screen must not squeeze."""
    if block.columns[column] in block.numeric:
        return ' class="n"'
    longest = max((len(row[column]) for row in block.rows), default=0)
    return ' class="long"' if longest > LONG else ""


def _say(words: str) -> str:
    """Escape a text; N_opt and its like get their index set as one."""
    return _INDEXED.sub(r"\1<sub>\2</sub>", escape(words))
