"""A report as Markdown, for a pull request or a terminal; its figures are files beside it."""

import re
from collections.abc import Mapping

from analysis.report_document import Block, Choice, Command, Document, Picture, Points, Table, Text

# Punctuation that starts markup somewhere in GitHub's dialect.
_MARKUP = re.compile(r"([\\`*_\[\]<>#|~&])")


def to_markdown(document: Document, captions: Mapping[str, tuple[str, str]]) -> str:
    """Write the report.

    Args:
        document: what it says; every text is escaped here.
        captions: figure name -> (alt text, caption).
    """
    parts = [f"# {_text(document.title)}", _text(document.subtitle)]
    for section in document.sections:
        parts.append(f"## {_text(section.title)}")
        parts += [_block(b, captions) for b in section.blocks]
    return "\n\n".join(parts) + "\n"


def _block(block: Block, captions: Mapping[str, tuple[str, str]]) -> str:
    match block:
        case Text(words, "lead" | "warning" as kind):
            return f"> {'**Warning.** ' if kind == 'warning' else ''}{_text(words)}"
        case Text(words):
            return _text(words)
        case Points(items):
            return "\n".join(f"- {_text(i)}" for i in items)
        case Choice(_, options):
            return "\n".join(f"- {_text(words)}" for _, words in options)
        case Command(words):
            fence = "`" * max(3, 1 + max((len(m) for m in re.findall("`+", words)), default=0))
            return f"{fence}text\n{words}\n{fence}"
        case Picture(name):
            alt, caption = captions[name]
            return f"![{_text(alt)}](figures/{name}.png)\n\n{_text(caption)}"
        case Table():
            return _table(block)


def _table(block: Table) -> str:
    rule = ["---:" if c in block.numeric else ":---" for c in block.columns]
    rows = [[_text(v) for v in row] for row in block.rows]
    lines = [[_text(c) for c in block.columns], rule, *rows]
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{_text(block.caption)}\n\n{body}" if block.caption else body


def _text(words: str) -> str:
    return _MARKUP.sub(r"\\\1", " ".join(words.split()))
