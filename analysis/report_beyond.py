"""The section of laws beyond the fit: what these data allow, and what the others would need."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.beyond import laws_beyond
from analysis.report_document import Block, Points, Section, Text

_MORE = (
    "Two sweeps against each other, what one recipe's compute is worth in the other's: "
    "isoflop report 'fits=[A,B]' out=DIR."
)


def beyond_section(
    fits: Mapping[str, Any], points: pd.DataFrame | None, curves: pd.DataFrame | None
) -> Section:
    """Say every law beyond the fit in a line; arguments as analysis.beyond.laws_beyond takes them."""
    found = laws_beyond(fits, points, curves)
    told = tuple(f"{b.law}: {b.says}." for b in found if b.says)
    left = tuple(f"{b.law}: {b.needs}." for b in found if b.needs)
    blocks: list[Block] = [Points(told)] if told else []
    if left:
        blocks += [Text("What these runs don't hold, by the law that would need it:"), Points(left)]
    return Section("beyond", "Laws beyond the fit", (*blocks, Text(_MORE, "note")))
