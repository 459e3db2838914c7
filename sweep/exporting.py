"""The export verb: a finished cell as a checkpoint of transformers, checked before it has its name."""

import math
import shlex
from pathlib import Path

from rich.console import Console

from models.hf_config import HFConfig
from sweep.arguments import Arguments
from sweep.checkpoint_folder import transformers_of
from sweep.documents import expand
from sweep.errors import UsageError
from sweep.export_card import Exported, card, facts
from sweep.export_folder import refuse_what_is_there, staged
from sweep.export_form import WEIGHTS, Form
from sweep.export_tokenizer import find_encoder, write_tokenizer
from sweep.folder import SweepFolder
from sweep.law_position import position_of
from sweep.stamps import read_sha256
from sweep.trained import Finished, with_weights


def export(args: Arguments, folder: SweepFolder, console: Console) -> None:
    """Write a finished cell's weights, config, tokenizer and model card into out=.

    Raises:
        UsageError: no such finished cell, no weights, no stock architecture, no tokenizer, or a
            folder that is taken. Nothing is written then.
    """
    app = args.app
    transformers_of("isoflop export")
    out = expand(app.out).resolve()
    refuse_what_is_there(out)
    finished = with_weights(folder, app.cell)
    if app.export.dry_run:
        form = form_of(finished)
        find_encoder(finished, folder)
        console.print(
            f"{_name(finished)} would be a {form.class_name} in {out}, of "
            f"{finished.record['N_total']:,} parameters ({4 * finished.record['N_total'] / 1e6:,.1f} "
            "MB). Nothing was written."
        )
        return
    made = export_attempt(finished, folder, out)
    console.print(
        f"{_name(finished)} is a {made.class_name} now: loss {finished.record['val_loss']:.6f} "
        f"nats/token on record. Logits differ by {made.compared.in_words}."
    )
    console.print(f"{made.position.in_words}.")
    console.print(f"Wrote {out}")
    again = args.again("import", ("root", "sweep", "grid"))
    console.print(f"Judge it on the cell's validation set: {again} {shlex.quote(f'from={out}')}")


def export_attempt(finished: Finished, folder: SweepFolder, out: Path) -> Exported:
    """Write a finished attempt's checkpoint into a new or empty folder; prints nothing.

    Raises:
        UsageError: no stock architecture, no tokenizer, other logits, or a folder that is taken.
    """
    form, encoder = form_of(finished), find_encoder(finished, folder)
    with staged(out) as part:
        made = _write(finished, form, encoder.id.eod, part, folder)
        write_tokenizer(encoder, part, finished.cell.model.seq_len)  # read back beside a config
        (part / "isoflop.json").write_text(facts(made))
        (part / "README.md").write_text(card(made))
    return made


def form_of(finished: Finished) -> Form:
    """Choose what a cell is in transformers.

    Raises:
        UsageError: nothing there computes what its options do; says which is in the way.
    """
    if isinstance(finished.cell.model, HFConfig):
        from sweep.export_hf import hf_form  # late: it imports transformers' models

        return hf_form(finished)
    from sweep.export_gpt import gpt_form

    return gpt_form(finished)


def _write(finished: Finished, form: Form, eod: int, part: Path, folder: SweepFolder) -> Exported:
    """Write weights and configs; refuse what gives other logits when it is loaded again."""
    written = form.write(eod, part)
    (part / WEIGHTS).chmod((part / "config.json").stat().st_mode)  # it is made for its owner alone
    if not written.compared.is_the_same_model:
        raise UsageError(
            f"{finished.cell.id} can't be exported: logits of {form.class_name} differ by "
            f"{written.compared.in_words}, so it is not the same model"
        )
    return Exported(
        finished=finished,
        class_name=form.class_name,
        numbers=_numbers(part / WEIGHTS),
        compared=written.compared,
        changes=written.changes,
        position=position_of(folder, finished.record),
        weights_sha256=read_sha256(part / WEIGHTS),
    )


def _numbers(weights: Path) -> int:
    """Count what a file of weights holds."""
    from safetensors import safe_open

    with safe_open(weights, framework="pt") as f:
        return sum(math.prod(f.get_slice(name).get_shape()) for name in f.keys())


def _name(finished: Finished) -> str:
    return f"{finished.cell.id}, attempt {finished.record['attempt']},"
