"""Probes of the recipe in a report: apart from the cells, since they enter no fit."""

import pandas as pd

from analysis.report_document import Table, table
from analysis.report_numbers import count, duration, power, significant, with_error
from results.record import Probe

_CHANGED = {
    Probe.LR_HALF: "half the lr",
    Probe.LR_DOUBLE: "twice the lr",
    Probe.BATCH_DOUBLE: "twice the batch",
    Probe.SEED: "seed",
}


def cells_and_probes(
    results: pd.DataFrame | None,
) -> tuple[pd.DataFrame | None, pd.DataFrame | None]:
    """Part results in cells of the grid and probes; None of None."""
    if results is None:
        return None, None
    probes = results["probe"].notna()
    return results[~probes], results[probes]


def probe_table(probes: pd.DataFrame) -> Table:
    """One row a probe: which cell it is of, what is changed, how it ended."""
    ordered = probes.sort_values(["budget", "N_flops", "probe", "seed"], kind="stable")
    rows = [
        [
            str(p.probe_of),
            _CHANGED[p.probe],
            str(p.seed),
            significant(p.lr, 2),
            count(p.batch_tokens),
            with_error(p.val_loss, p.val_loss_se) if p.status == "finished" else str(p.status),
            duration(p.seconds),
        ]
        for p in ordered.itertuples()
    ]
    caption = (
        f"{len(probes)} probes of the recipe, {power(probes['flops'].sum())} FLOPs: each is a cell "
        "with one thing changed, and enters no fit"
    )
    columns = ("probe of", "changed", "seed", "lr", "batch", "loss", "time")
    return table(columns, rows, text=("probe of", "changed"), caption=caption)
