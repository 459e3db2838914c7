"""How launch.stop_hopeless judges a running cell, by what its launch froze (sweep/stop_law.py).

Imports are late: a worker that ends nobody needs no scipy.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweep.claim import Attempt
    from sweep.folder import SweepFolder


@dataclass(frozen=True)
class StopRule:
    """Whom a launch may end, and by which prediction.

    Attributes:
        fits, sha256: the file of the law. level: of its intervals, and of projected ones.
        expected: by cell id: loss, low, high, nats per token. Probes, and cells for which the law
            claims no interval, are not in it and run to their end.
    """

    fits: str
    sha256: str
    level: float
    expected: Mapping[str, tuple[float, float, float]]

    def of_cells(self, cell_ids: Collection[str]) -> StopRule:
        """Return the same for some of the cells."""
        return replace(self, expected={i: e for i, e in self.expected.items() if i in cell_ids})

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> StopRule:
        """Rebuild what `to_dict` made."""
        expected = {i: tuple(e) for i, e in values["expected"].items()}
        return StopRule(values["fits"], values["sha256"], values["level"], expected)

    def why_end(self, folder: SweepFolder, attempt: Attempt) -> Callable[[], str | None]:
        """Return what an attempt asks after each evaluation: why it is hopeless, or None."""
        cell_id = attempt.cell.id
        if cell_id not in self.expected:
            return lambda: None
        from analysis.stored_law import Expected
        from sweep.outlooks import Curves

        curves, (loss, low, high) = Curves(folder), self.expected[cell_id]

        def why() -> str | None:
            curves.look_again()
            law = Expected(loss, (low, high))
            seen = curves.outlook(cell_id, attempt.number, law, self.level)
            if seen.verdict not in ("hopeless", "diverged"):
                return None
            by = f"[{low:.4g}, {high:.4g}] by {self.fits}, sha256 {self.sha256[:12]}"
            about = f"; {loss:.4g} {by}, was predicted" if seen.verdict == "diverged" else f" {by}"
            return f"{seen.verdict} at {seen.share:.0%} of its tokens: {seen.reason}{about}"

        return why


def read_rule(values: Mapping[str, Any] | None) -> StopRule | None:
    """Rebuild what a launch froze; None where it ends nobody."""
    return None if values is None else StopRule.from_dict(values)


def why_end(
    rule: StopRule | None, folder: SweepFolder, attempt: Attempt
) -> Callable[[], str | None]:
    """Return what an attempt asks after each evaluation, by a rule or without one."""
    return (lambda: None) if rule is None else rule.why_end(folder, attempt)
