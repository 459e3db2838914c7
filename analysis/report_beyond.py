"""The section of laws beyond the fit: what these data allow, and what the others would need."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.beyond import laws_beyond
from analysis.report_document import Block, Section, Text, table

_MORE = (
    "Two sweeps against each other, what one recipe's compute is worth in the other's: "
    "isoflop report 'fits=[A,B]' out=DIR."
)


def beyond_section(
    fits: Mapping[str, Any], points: pd.DataFrame | None, curves: pd.DataFrame | None
) -> Section:
    """Say every law beyond the fit in a line; arguments as analysis.beyond.laws_beyond takes them."""
    found = laws_beyond(fits, points, curves)
    told = [[b.law, b.says] for b in found if b.says]
    left = [[b.law, b.needs] for b in found if b.needs]
    blocks: list[Block] = []
    if told:
        columns = ("law", "what these runs say")
        blocks.append(table(columns, told, text=columns))
    if left:
        columns = ("law", "needs")
        caption = "Not asked, for want of data"
        blocks.append(table(columns, left, text=columns, caption=caption))
    blocks.append(Text(_MORE, "note"))
    return Section("beyond", "Laws beyond the fit", tuple(blocks))
