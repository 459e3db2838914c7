"""Cells that share a trunk: in which order they branch off it, and what that spares.

Cells of one trunk have all steps before their decay in common. Trained shortest first, each goes on
from where the one before it left the trunk, so that no step of the trunk is trained twice.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from sweep.cell import Cell


def before_it(cells: Iterable[Cell]) -> dict[str, Cell]:
    """Of each cell on a trunk but its shortest, by id: the cell that leaves the trunk before it."""
    found = {}
    for branches in _by_trunk(cells).values():
        for shorter, longer in pairwise(branches):
            found[longer.id] = shorter
    return found


def shared_steps(cells: Iterable[Cell]) -> dict[str, int]:
    """Count steps of each cell, by id, that a shorter branch of its trunk takes for it."""
    cells = list(cells)
    before = before_it(cells)
    return {c.id: before[c.id].branch_step if c.id in before else 0 for c in cells}


def spent_flops(cells: Iterable[Cell]) -> float:
    """FLOPs that these cells take, trunks trained once; a cell's own `flops` is its whole path."""
    cells = list(cells)
    shared = shared_steps(cells)
    return sum(c.flops * (1 - shared[c.id] / c.steps) for c in cells)


def chains(cell_ids: Sequence[str], before: Mapping[str, Cell]) -> list[tuple[str, ...]]:
    """Group cells: those of one trunk in the order in which they are trained, others alone.

    Args:
        cell_ids: to train.
        before: `before_it` of the whole plan, where cells that are done may stand between two.
    """
    wanted, after = set(cell_ids), {}
    for cell_id in cell_ids:
        earlier = before.get(cell_id)
        while earlier is not None and earlier.id not in wanted:
            earlier = before.get(earlier.id)
        if earlier is not None:
            after[earlier.id] = cell_id
    followers, found = set(after.values()), []
    for cell_id in cell_ids:
        if cell_id not in followers:
            chain = [cell_id]
            while chain[-1] in after:
                chain.append(after[chain[-1]])
            found.append(tuple(chain))
    return found


def _by_trunk(cells: Iterable[Cell]) -> dict[str, list[Cell]]:
    """Return the cells of each trunk, shortest first."""
    found: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        if (trunk := cell.trunk) is not None:
            found[trunk].append(cell)
    return {t: sorted(branches, key=lambda c: (c.steps, c.id)) for t, branches in found.items()}
