"""What `isoflop status` says of cells in training: where their curves lead, beside the law."""

import math
from collections.abc import Iterator, Sequence

import pyarrow.parquet as pq

from analysis.fits_file import FitsError
from analysis.points import N_COLUMNS
from analysis.stopping import Outlook
from analysis.stored_law import Expected, StoredLaw
from sweep.errors import UsageError
from sweep.folder import SweepFolder
from sweep.outlooks import Curves, expected_of, law_for
from sweep.stop_law import fits_file

LOOKED_AT = 12  # running cells, dearest first: each may open a dozen curves
SHOWN = 8
_LEVEL = 0.9  # of a projected interval, where there is no law to take it from
_ORDER = ("diverged", "hopeless", "behind", "unknown", "beats")
_COLUMNS = ["cell_id", "flop_rule", "flops", "tokens", "probe", *N_COLUMNS.values()]


def outlook_lines(
    folder: SweepFolder, running: Sequence[tuple[str, int]], fits: str | None
) -> list[str]:
    """Say where running cells are heading, those to look at first.

    Args:
        folder: the sweep.
        running: id and attempt of each cell in training.
        fits: status.fits.

    Raises:
        UsageError: status.fits is no fits.json, or does not count as the sweep does.
    """
    wanted = [cell_id for cell_id, _ in running]
    table = pq.read_table(folder.plan, columns=_COLUMNS, filters=[("cell_id", "in", wanted)])
    rows = {r["cell_id"]: r for r in table.to_pylist() if r["probe"] is None}
    judged = sorted((c for c in running if c[0] in rows), key=lambda c: -rows[c[0]]["flops"])
    if not judged:
        return []
    law, without = _law(folder, fits, rows[judged[0][0]]["flop_rule"])
    level = _LEVEL if law is None else law.level
    curves, seen = Curves(folder), []
    for cell_id, attempt in judged[:LOOKED_AT]:
        expected = None if law is None else expected_of(law, rows[cell_id])
        seen.append((cell_id, curves.outlook(cell_id, attempt, expected, level), expected))
    seen.sort(key=lambda one: _ORDER.index(one[1].verdict))
    by = f"no law: {without}" if law is None else f"{law.law} of {law.path}"
    lines = [f"Running, and where it leads ({by}):"]
    lines += [f"  {_in_words(*one)}" for one in seen[:SHOWN]]
    more = len(judged) - len(seen[:SHOWN])
    return [*lines, f"  and {more:,} more running cells"] if more else lines


def _law(folder: SweepFolder, fits: str | None, flop_rule: str) -> tuple[StoredLaw | None, str]:
    """Return the law that was asked for or the sweep's own; None, and why, where it has none."""
    if fits is None and not folder.fits.exists():
        return None, "the sweep has no fits.json yet; status.fits=FILE names another"
    try:
        return law_for(folder.fits if fits is None else fits_file(fits), flop_rule), ""
    except FitsError as e:
        if fits is not None:
            raise UsageError(f"status.fits={fits}: {e}") from None
        return None, str(e)


def _in_words(cell_id: str, seen: Outlook, expected: Expected | None) -> str:
    return f"{cell_id} at {seen.share:.0%}: {'; '.join(_parts(seen, expected))}"


def _parts(seen: Outlook, expected: Expected | None) -> Iterator[str]:
    judged = f"{seen.verdict}, " if seen.verdict != "unknown" else ""
    yield f"{judged}{seen.reason}"
    if expected is not None and math.isfinite(seen.loss):
        low, high = expected.interval
        if math.isfinite(low):
            yield f"the law's interval [{low:.4g}, {high:.4g}]"
        else:
            yield f"the law claims no interval: {expected.reason}"
    if seen.plateau:
        yield "level: less than .2% a doubling of tokens, at a rate that has not begun to fall"
    if math.isfinite(seen.train_val_gap):
        yield f"validation - training {seen.train_val_gap:+.3g}"
    if seen.overfits:
        yield "overfits: validation rises while training falls"
