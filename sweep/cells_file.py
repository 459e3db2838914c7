"""A file of explicit cells (grid.cells=FILE): what isoflop design writes and launch trains.

Each cell is named by budget, size and seed, and built by the same rules as any other, so its id is
the id that it has in a normal grid; an id in the file is checked against it. A person may write
such a file by hand, without ids.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.flops import FlopRule
from models.size import Size
from results.record import Probe
from sweep.cell import Cell, DataRef
from sweep.errors import nearest
from sweep.grid import Grid, make_cell, why_unfit
from sweep.grid_settings import GridSettings
from sweep.probes import probe_of_kind
from sweep.recipe import RecipeSettings

CELLS_SCHEMA = 1
_KEYS = {"id", "budget", "size", "seed", "probe", "probe_of", "why"}


@dataclass(frozen=True)
class GridInputs:
    """All that cells are made of; unpacks as the arguments of isoflop_grid."""

    settings: GridSettings
    ladder: tuple[Size, ...]
    recipe: RecipeSettings
    data: DataRef

    def __iter__(self) -> Iterator[Any]:
        return iter((self.settings, self.ladder, self.recipe, self.data))


def cell_entry(cell: Cell, why: str | None = None) -> dict[str, Any]:
    """Return what the file holds of a cell or a probe."""
    entry = {"id": cell.id, "budget": cell.budget, "size": cell.model.size_id, "seed": cell.seed}
    if cell.probe is not None:
        entry |= {"probe": str(cell.probe), "probe_of": cell.probe_of}
    return entry if why is None else entry | {"why": why}


def read_cells(path: Path, inputs: GridInputs) -> Grid:
    """Build the cells that a file names.

    Raises:
        ValueError: no such file, not JSON of this schema, a size that the ladder lacks, a cell that
            misses its budget, or an id that the composed config does not give.
    """
    content = _read(path)
    cells = [_build(path, i, entry, inputs) for i, entry in enumerate(content["cells"])]
    if len({c.id for c in cells}) < len(cells):
        raise ValueError(f"grid.cells={path} names a cell twice")
    order = sorted(cells, key=lambda c: (c.budget, c.N, c.seed))
    return Grid(tuple(c for c in order if c.probe is None), (), tuple(c for c in order if c.probe))


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"grid.cells={path} does not exist; isoflop design writes one") from None
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as e:
        raise ValueError(f"grid.cells={path} can't be read as JSON: {e}") from None
    if not isinstance(content, dict) or content.get("schema") != CELLS_SCHEMA:
        raise ValueError(f"grid.cells={path} has not \"schema\": {CELLS_SCHEMA}; isoflop design writes one")  # fmt: skip
    entries = content.get("cells")
    if not isinstance(entries, list) or not any(not e.get("probe") for e in entries if isinstance(e, dict)):  # fmt: skip
        raise ValueError(f"grid.cells={path} has no cells")
    return content


def _build(path: Path, index: int, entry: Any, inputs: GridInputs) -> Cell:
    where = f"grid.cells={path}, cell {index}"
    if not isinstance(entry, dict) or not {"budget", "size"} <= set(entry) <= _KEYS:
        raise ValueError(f"{where} must have budget and size, and may have {', '.join(sorted(_KEYS - {'budget', 'size'}))}")  # fmt: skip
    settings, recipe = inputs.settings, inputs.recipe
    budget, seed = entry["budget"], entry.get("seed", settings.seeds[0])
    if not _is_number(budget) or not 1 <= budget <= 1e30 or not isinstance(seed, int) or not 0 <= seed < 2**31:  # fmt: skip
        raise ValueError(f"{where}: budget={budget!r} and seed={seed!r} must be FLOPs and a whole number")  # fmt: skip
    cfg, rule = _size(where, entry["size"], inputs.ladder), FlopRule(settings.flop_rule)
    kind = _probe(where, entry.get("probe"))
    own = settings.seeds[0] if kind is Probe.SEED else seed
    cell = make_cell(float(budget), rule, cfg, recipe, inputs.data, own, settings.trunks)
    if kind is not None:
        cell = probe_of_kind(cell, recipe, kind, seed)
    if reason := why_unfit(cell, settings.tolerance):
        raise ValueError(f"{where}, {cfg.size_id}: {reason}")
    if entry.get("id", cell.id) != cell.id:
        raise ValueError(
            f"{where} is {entry['id']}, and this config makes it {cell.id}: recipe, data or model "
            "differ from those it was designed with; type the command that isoflop design printed"
        )
    return cell


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _size(where: str, size_id: Any, ladder: Sequence[Size]) -> Size:
    by_id = {cfg.size_id: cfg for cfg in ladder}
    if size_id not in by_id:
        near = nearest(str(size_id), by_id) or list(by_id)[:3]
        raise ValueError(f"{where}: the ladder has no {size_id}; nearest: {', '.join(near)}")
    return by_id[size_id]


def _probe(where: str, kind: Any) -> Probe | None:
    if kind is None:
        return None
    if kind not in list(Probe):
        raise ValueError(f"{where}: probe={kind} is unknown; it may be {', '.join(Probe)}")
    return Probe(kind)
