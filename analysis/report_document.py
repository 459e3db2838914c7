"""What a report is made of, before it is HTML or Markdown: sections of plain-text blocks.

No block holds markup: names that users chose pass through as text, and the writers escape them.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Text:
    """A paragraph. `lead` is the answer; `warning` must not be missed; `note` is small print."""

    words: str
    kind: str = "plain"  # plain, lead, warning or note


@dataclass(frozen=True)
class Points:
    """A list of sentences."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table of texts; columns whose name is in `numeric` are aligned as numbers.

    `picks`: for each row the choice that it belongs to, see Choice; empty where there is none.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[str] = frozenset()
    caption: str = ""
    picks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Choice:
    """Sentences of which a reader may choose one, by its name; else all are there to read.

    The choice goes for the whole section: rows and marks of other choices fade (Table.picks,
    plot_style.choose).
    """

    label: str
    options: tuple[tuple[str, str], ...]  # name, sentence


@dataclass(frozen=True)
class Picture:
    """A figure, by the name of a figures.Figure."""

    name: str


@dataclass(frozen=True)
class Command:
    """Something to type, or a block of fixed text."""

    words: str


Block = Text | Points | Table | Picture | Command | Choice


@dataclass(frozen=True)
class Section:
    """A heading and what is under it; `id` is its anchor."""

    id: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Document:
    """A whole report."""

    title: str
    subtitle: str
    sections: tuple[Section, ...]


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, text: Sequence[str],
    caption: str = "", picks: Sequence[int] = (),
) -> Table:  # fmt: skip
    """Make a table whose columns are numeric but for those in `text`."""
    numeric = frozenset(columns) - frozenset(text)
    return Table(tuple(columns), tuple(tuple(r) for r in rows), numeric, caption, tuple(picks))
