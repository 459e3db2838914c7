"""A cell: everything that is asked of one run, and its id.

Pure: the same arguments give the same id on every machine; a launch, a rerun and an analysis months
later agree by that alone.
"""

import hashlib
import json
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass, replace
from functools import cached_property

from models.flops import FlopRule, N_flops, count_params, flops_per_token, orthogonalise_flops
from models.parametrisation import growth
from models.size import Size
from results.record import Probe
from sweep.recipe import Recipe, outside_regime
from sweep.recipe_regime import Optimizer, Target


@dataclass(frozen=True, kw_only=True)
class DataRef:
    """Which data a cell trains on, as asked; the bytes have a hash of their own in the record."""

    name: str
    revision: str
    tokenizer: str
    mix: str | None = None  # several sources: share, name and revision of each
    document_mask: bool = False  # attention stays within a document


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One point of the grid: train `model` by `recipe` for `steps` steps, once, with `seed`."""

    budget: float  # C asked for, FLOPs under flop_rule
    flop_rule: FlopRule
    model: Size
    recipe: Recipe
    steps: int
    seed: int
    data: DataRef
    probe: Probe | None = None  # how it differs from probe_of
    probe_of: str | None = None  # id of the cell whose recipe it tests
    on_trunk: bool = False  # branches off a trunk that cells of other budgets share

    @property
    def batch_tokens(self) -> int:
        """Tokens of one optimizer step."""
        return self.recipe.batch_rows * self.model.seq_len

    @property
    def tokens(self) -> int:
        """D, training tokens."""
        return self.steps * self.batch_tokens

    @property
    def N(self) -> float:
        """N_flops: parameters for which C = 6 N D."""
        return N_flops(self.model, self.flop_rule)

    @property
    def flops(self) -> float:
        """C spent; differs from `budget` only by rounding to whole steps."""
        return self.tokens * flops_per_token(self.model, self.flop_rule)

    @property
    def optimizer_flops(self) -> float:
        """FLOPs of Muon's orthogonalisation over all steps; 0 under AdamW. Not in C."""
        muon = self.recipe.optimizer is Optimizer.MUON
        return self.steps * orthogonalise_flops(self.model) if muon else 0.0

    @property
    def lr_blocks(self) -> float:
        """Peak learning rate of the blocks' matrices: the recipe's, over m_d under muP."""
        return self.recipe.lr / growth(self.model)[0]

    @property
    def outside_regime(self) -> str | None:
        """In which way the cell lies outside the regime of its recipe, or None."""
        return outside_regime(self.recipe, Target(self.model, self.flop_rule, self.tokens))

    @cached_property
    def id(self) -> str:
        """Readable prefix for people, content hash for machines: changes iff what is asked does."""
        digest = _digest(_content(self))
        budget = f"{self.budget:.3g}".replace("e+", "e")
        probe = f"-{self.probe}" if self.probe else ""
        return f"c{budget}-n{si(self.N)}-s{self.seed}{probe}-{digest}"

    @property
    def branch_step(self) -> int:
        """Steps before the final decay: there a cell on a trunk leaves it."""
        return self.steps - self.recipe.decay_steps

    @property
    def trunk(self) -> str | None:
        """Id of the trunk, the same for all cells that share their steps before the decay."""
        if not self.on_trunk:
            return None
        shared = _content(replace(self, probe=None, probe_of=None))
        del shared["budget"], shared["steps"], shared["recipe"]["decay_steps"]
        return f"n{si(self.N)}-s{self.seed}-{_digest(shared)}"


def params_of(cell: Cell) -> dict[str, float]:
    """N under every convention, by the record's column names."""
    N = count_params(cell.model)
    return {
        "N_flops": cell.N,
        "N_total": N.total,
        "N_non_embedding": N.non_embedding,
        "N_matmul": N.matmul,
        "N_active": N.active,
    }


def flops_of(cell: Cell) -> dict[str, float]:
    """Training FLOPs of the cell under every rule, by the record's column names."""
    return {f"flops_{rule}": cell.tokens * flops_per_token(cell.model, rule) for rule in FlopRule}


def cell_to_dict(cell: Cell) -> dict:
    """Return plain values, for a frozen plan or config file."""
    return asdict(cell)


def _digest(content: object) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.blake2s(text.encode(), digest_size=4).hexdigest()


def _content(value: object) -> object:
    """Return what enters the id: all fields, but one with a default only where it differs from it.

    So a field that is added later, with a default, leaves the ids of old cells as they were. What was
    found, not asked, stays out.
    """
    if not is_dataclass(value):
        return value
    return {
        f.name: _content(getattr(value, f.name))
        for f in fields(value)
        if (f.default is MISSING or getattr(value, f.name) != f.default)
        and f.metadata.get("asked", True)
    }


def si(x: float) -> str:
    """Two significant digits with a magnitude: 423_000 -> '420k', 41_900_000 -> '42M'."""
    x = float(f"{x:.2g}")
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if x >= size:
            return f"{x / size:g}{letter}"
    return f"{x:g}"
