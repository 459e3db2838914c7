"""The section of a comparison that says what one fit's compute is worth in another's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analysis.report_document import Block, Points, Section, Text, table
from analysis.report_numbers import DASH, NBSP, known, loss, power, significant

if TYPE_CHECKING:
    from analysis.multiplier import Multiplier


@dataclass(frozen=True)
class Worth:
    """A's compute in B's: multipliers by each law, or why there are none."""

    a: str
    b: str
    found: tuple[Multiplier, ...] = ()
    problem: str | None = None


def worth_section(worth: Sequence[Worth]) -> Section | None:
    """Say every effective-compute multiplier, with its interval; None where none was asked for."""
    if not worth:
        return None
    rows = [_row(w, m) for w in worth for m in w.found]
    columns = ("A", "B", "at C (FLOPs)", "law", "A is worth", "A's loss", "B's loss",
               "A is better", "status")  # fmt: skip
    blocks: list[Block] = []
    if rows:
        blocks.append(table(columns, rows, text=("A", "B", "law", "status")))
        blocks.append(
            Text("A is worth m times the compute of B: it reaches at C what B reaches at m C. "
                 "A is better: the probability that A's loss at C is the lower one. Both suppose "
                 "that the losses are of one text and tokenizer, which only you can know.", "note")
        )  # fmt: skip
    left = [f"{w.a} against {w.b}: {w.problem}" for w in worth if w.problem]
    return Section(
        "worth", "What compute is worth", (*blocks, *([Points(tuple(left))] if left else []))
    )


def _row(w: Worth, m: Multiplier) -> list[str]:
    status = " – ".join(str(v) for v in (m.status, m.reason) if v)
    x = known(m.multiplier)
    shown = (
        DASH
        if x is None
        else f"{significant(x)}×{NBSP}[{_end(m.interval[0])},{NBSP}{_end(m.interval[1])}]"
    )
    probability = known(m.probability)
    return [w.a, w.b, power(m.C), m.law, shown, loss(m.loss[0]), loss(m.loss[1]),
            DASH if probability is None else f"{probability:.2f}", status]  # fmt: skip


def _end(value: float) -> str:
    """End of an interval: no compute of B gets there, or all of it does."""
    return "∞" if value == float("inf") else significant(value, 2)
