"""Sets and sources of a cell as texts of the record, and back: what one row says of many sets.

Both are JSON, so that a sweep may have any sets without a column for each in every record.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pandas as pd

from results.store import results_of
from sweep.batches import Usage
from sweep.data import CellData
from sweep.errors import UsageError

if TYPE_CHECKING:  # it imports torch; a fit does not need it
    from sweep.evaluate import Evaluation, Validation


def sets_column(final: "Validation") -> str | None:
    """Losses of the extra sets, and of each source of a mixture, by name; None where none is."""
    kinds = {"source": final.sources if len(final.sources) > 1 else {}, "extra": final.extra}
    sets = {
        name: {"kind": kind, **set_numbers(found)}
        for kind, by_name in kinds.items()
        for name, found in by_name.items()
    }
    return json.dumps(sets) if sets else None


def sources_column(data: CellData, used: Sequence[Usage]) -> str | None:
    """Say what a run took from each source of a mixture; None where there is one source."""
    if len(used) < 2:
        return None
    weights = {h.name: h.weight for h in data.validation}
    return json.dumps(
        {
            u.name: {
                "weight": weights[u.name],
                "tokens": u.tokens,
                "unique_tokens": u.unique_tokens,
                "epochs": u.epochs,
            }
            for u in used
        }
    )


def set_numbers(found: "Evaluation") -> dict[str, Any]:
    """Plain values of the loss on a set; JSON has no NaN, so unknown is null."""
    return {k: None if math.isnan(v) else v for k, v in asdict(found).items()}


def names_of_sets(text: str | None) -> frozenset[str]:
    """Names of a record's sets."""
    return frozenset(json.loads(text)) if text else frozenset()


def set_lines(text: str | None) -> list[str]:
    """Say the losses of a record's sets for a person, a line each."""
    sets = json.loads(text) if text else {}
    return [
        f"  {name}: {s['loss']:.6f} ± {_known(s['se']):.4f} nats/token, "
        f"{_known(s['bpb']):.4f} ± {_known(s['bpb_se']):.4f} bits/byte on {s['tokens']:,} tokens"
        for name, s in sets.items()
    ]


def _known(value: float | None) -> float:
    return math.nan if value is None else value


def tokens_of_a_set(row: Mapping[str, Any]) -> int | None:
    """Tokens of the largest set behind a record's loss: data.val_tokens, unless all were shorter.

    None where the record has no loss.
    """
    if isinstance(row.get("val_sets"), str):
        sets = json.loads(row["val_sets"]).values()
        sizes = [s["tokens"] for s in sets if s["kind"] == "source"]
        if sizes:
            return max(sizes)
    tokens = row["val_tokens"]
    return int(tokens) if tokens == tokens and tokens else None


def with_set_columns(records: pd.DataFrame) -> pd.DataFrame:
    """Add loss_<name>, loss_se_<name>, bpb_<name> and bpb_se_<name> for each set of the records.

    Unknown is NaN: a record without the set has none of it.
    """
    rows = [_flat(text) for text in records["val_sets"]]
    found = pd.DataFrame(rows, index=records.index)
    return pd.concat([records, found], axis=1)


def with_loss_of(records: pd.DataFrame, name: str) -> pd.DataFrame:
    """Make the loss of one set that of the records: its laws are then fitted like any other.

    Raises:
        UsageError: no record has such a set; names those that there are.
    """
    wide = with_set_columns(records)
    column = f"loss_{name}"
    if column not in wide:
        known = sorted(c.removeprefix("loss_") for c in set(wide) - set(records)
                       if c.startswith("loss_") and not c.startswith("loss_se_"))  # fmt: skip
        there = f"it may be {', '.join(known)}" if known else "the sweep was trained without eval="
        raise UsageError(f"fit.loss={name}: no record has a set of that name; {there}")
    results = results_of(wide)
    missing = results["status"].eq("finished") & results[column].isna()
    if missing.any():
        cells = ", ".join(results.loc[missing, "cell_id"].head(3))
        raise UsageError(
            f"fit.loss={name}: {missing.sum()} finished cells lack the set ({cells}): judge them on "
            "it with isoflop evaluate eval=[...], then isoflop collect; or fit another set"
        )
    wide = wide[wide["status"].ne("finished") | wide[column].notna()]  # without reruns that lack it
    return wide.assign(val_loss=wide[column], val_loss_se=wide[f"loss_se_{name}"],
                       bpb=wide[f"bpb_{name}"], bpb_se=wide[f"bpb_se_{name}"])  # fmt: skip


def _flat(text: object) -> dict[str, float]:
    if not isinstance(text, str):
        return {}
    names = {"loss": "loss", "se": "loss_se", "bpb": "bpb", "bpb_se": "bpb_se"}
    return {
        f"{column}_{name}": _known(values[key])
        for name, values in json.loads(text).items()
        for key, column in names.items()
    }
