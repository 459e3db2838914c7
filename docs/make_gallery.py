"""Make docs/gallery.md and its pictures with the commands that it shows.

    python docs/make_gallery.py

The committed demo is always drawn. Public sweeps are drawn where ISOFLOP_SHARED_DATA names the
folder of them, else their pictures stay as they are. Nothing of a public sweep but its figures ends
up here.
"""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
ISOFLOP = Path(sys.executable).parent / "isoflop"
PORIAN = (
    "dataset=='rw' and warmup=='short' and param_count=='standard' and decay in ('const','kaplan')"
)
_PORIAN_FITS = tuple(
    ("fit", "points=porian_isoflop_points.csv", f"out=outputs/gallery-porian/{name}",
     "fit.targets=[1e20]", f"fit.where={PORIAN} and hparams=='{name}'")
    for name in ("base", "tuned")
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One part of the gallery: commands, and pictures of the report of the last one."""

    title: str
    words: str
    commands: tuple[tuple[str, ...], ...]  # words after `isoflop`, each
    out: str  # folder of the report, as the last command names it
    pictures: tuple[tuple[str, str], ...]  # figure, what to see in it
    needs: str = ""  # a file of ISOFLOP_SHARED_DATA


ENTRIES = (
    Entry(
        "The demo's sweep",
        "What `make demo` trains and draws: 23 models, five budgets, some minutes on a CPU. Its records are committed, so the report can be made "
        "again without training. The same runs as a table of points, all parameters counted:",
        (("report", "points=results/reference/demo/records.parquet", "out=outputs/gallery-demo",
          "columns.N=N_total", "columns.D=tokens", "columns.C=flops", "columns.loss=val_loss"),),
        "outputs/gallery-demo",
        (("surface", "The runs over size and data, on lines of equal loss of the fitted law. The "
          "diamond is the forecast: how far it lies from every dot is how far to trust it."),
         ("holdout", "What budgets below predicted of the ones above them, and by how much they "
          "missed, against how far they reached.")),
    ),
    Entry(
        "Hoffmann et al. 2022, figure 4",
        "245 runs of the Chinchilla paper, digitised by Epoch AI (github.com/epoch-research/"
        "analyzing-chinchilla), five of them excluded as Epoch did. They share no budgets: C is cut "
        "into bins, and each loss is moved to its bin's C.",
        (("report", "points=chinchilla_epoch245.csv", "out=outputs/gallery-chinchilla",
          "columns.excluded=excluded_by_epoch"),),
        "outputs/gallery-chinchilla",
        (("profiles", "Hollow dots on a broken line belong to budgets without a minimum."),
         ("optimum", "The optimal size and data, beside the slopes of Kaplan, Hoffmann and Epoch.")),
        needs="chinchilla_epoch245.csv",
    ),
    Entry(
        "Porian et al. 2024, tuned and untuned",
        "Two of the sweeps of Porian et al. (github.com/formll/resolving-scaling-law-discrepancies) "
        "on RefinedWeb, with the hyper-parameters of one size for all, and tuned by size. Two fits, "
        "then one report on both.",
        (*_PORIAN_FITS, ("report", "out=outputs/gallery-porian",
          "fits=[outputs/gallery-porian/base,outputs/gallery-porian/tuned]")),
        "outputs/gallery-porian",
        (("compared", "Tuning changes the slope: untuned small models lose more, so the optimum "
          "seems to grow faster."),
         ("exponents", "The exponents with their intervals. By the minima (diamonds) the two sweeps "
          "differ; by the law (dots) they can't be told apart.")),
        needs="porian_isoflop_points.csv",
    ),
)  # fmt: skip


def main() -> None:
    """Draw what can be drawn here, and write the page."""
    shared = os.environ.get("ISOFLOP_SHARED_DATA")
    (DOCS / "gallery").mkdir(exist_ok=True)
    for entry in ENTRIES:
        if not entry.needs or shared:
            _draw(entry, shared or "")
        else:
            print(f"{entry.title}: left as it is, since ISOFLOP_SHARED_DATA names no folder")
    (DOCS / "gallery.md").write_text(page(), encoding="utf-8")


def _draw(entry: Entry, shared: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.symlink(ROOT / "results", Path(folder) / "results")
        if entry.needs:
            os.symlink(Path(shared) / entry.needs, Path(folder) / entry.needs)
        for command in entry.commands:
            subprocess.run([ISOFLOP, *command], cwd=folder, check=True)
        for figure, _ in entry.pictures:
            made = Path(folder) / entry.out / "figures" / f"{figure}.png"
            shutil.copy(made, DOCS / "gallery" / picture(entry, figure))


def picture(entry: Entry, figure: str) -> str:
    """Return the name of a picture's file."""
    return f"{Path(entry.out).name.removeprefix('gallery-')}-{figure}.png"


def page() -> str:
    """Return docs/gallery.md."""
    parts = [
        "# Gallery",
        "Every picture was made by the commands above it. `python docs/make_gallery.py` runs them "
        "again, and writes this page; public sweeps are read from the folder that "
        "`ISOFLOP_SHARED_DATA` names, and are not part of this repository. The report of a whole "
        "sweep, as a page, is [results/reference/demo/report](../results/reference/demo/report/"
        "report.md); the same from Python is [laws_from_python.ipynb](laws_from_python.ipynb).",
    ]
    for entry in ENTRIES:
        lines = "\n".join(shlex.join(["isoflop", *c]) for c in entry.commands)
        parts += [f"## {entry.title}", entry.words, f"```sh\n{lines}\n```"]
        parts += [f"![{words}](gallery/{picture(entry, figure)})\n\n*{words}*"
                  for figure, words in entry.pictures]  # fmt: skip
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
