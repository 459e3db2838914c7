"""The section that gives the answer under every flop rule and N convention that was refitted."""

from collections.abc import Collection, Mapping
from typing import Any

from analysis.figure_data import entries, reason_of
from analysis.figure_tables import conventions
from analysis.report_document import Block, Choice, Picture, Section, Text, table
from analysis.report_numbers import count_with_interval, exponent, known, loss, power

Fits = Mapping[str, Any]
TITLE = "The same runs, counted otherwise"


def conventions_section(fits: Fits, pictures: Collection[str]) -> Section:
    """Exponent, N*, D* and loss under each convention: one to choose, a figure, and a table."""
    found = conventions(fits)
    if not found:
        why = reason_of(next(iter(entries(fits, "refits")), None), "the fit holds no refits")
        return Section("conventions", TITLE, (Text(f"Nothing was refitted: {why}."),))
    blocks: list[Block] = [
        Text(
            "N and C mean different things in different papers, and both move the exponent. The "
            "law of approach 3 was fitted again under each count; a size is only comparable with "
            "one that is counted alike, while D* and the loss are comparable throughout."
        ),
        Choice("Count FLOPs and parameters as", tuple((c["name"], _sentence(c)) for c in found)),
    ]
    if "conventions" in pictures:
        blocks.append(Picture("conventions"))
    C = known(_first(found[0]).get("C"))
    columns = ("FLOPs", "N", "a, law", "a, minima", "N*", "D*", "loss")
    caption = "The first row is this report's own count"
    caption += "" if C is None else f"; N*, D* and loss at {power(C)} FLOPs, counted by each rule"
    rows = [_row(c) for c in found]
    blocks.append(table(columns, rows, text=columns[:2], caption=caption, picks=range(len(found))))
    return Section("conventions", TITLE, tuple(blocks))


def _first(c: Mapping[str, Any]) -> Mapping[str, Any]:
    return c["forecast"][0] if c["forecast"] else {}


def _sentence(c: Mapping[str, Any]) -> str:
    name = f"{c['name']}{' (this report)' if c['own'] else ''}"
    status = c.get("status")
    caveat = f"Status {status}: {c.get('reason') or 'no reason given'}."
    if known(c["a"]) is None:
        return f"{name}: no exponent. {caveat}"
    words = f"{name}: N_opt grows as C to the power {exponent(c['a'], c['a_interval'])} by the law"
    if known(c["minima"]) is not None:
        words += f" and {exponent(c['minima'], c['minima_interval'])} by the minima"
    first = _first(c)
    if known(first.get("N")) is not None:
        words += (
            f". At {power(first.get('C'))} FLOPs so counted, N* = "
            f"{count_with_interval(first['N'], first.get('N_interval'))}, D* = "
            f"{count_with_interval(first.get('D'), first.get('D_interval'))}, loss "
            f"{loss(first.get('loss'), first.get('loss_interval'))}"
        )
    return f"{words}." + (f" {caveat}" if status not in ("ok", None) else "")


def _row(c: Mapping[str, Any]) -> list[str]:
    first = _first(c)
    return [
        str(c["flop_rule"]),
        str(c["N_convention"]),
        exponent(c["a"], c["a_interval"]),
        exponent(c["minima"], c["minima_interval"]),
        count_with_interval(first.get("N"), first.get("N_interval")),
        count_with_interval(first.get("D"), first.get("D_interval")),
        loss(first.get("loss"), first.get("loss_interval")),
    ]
