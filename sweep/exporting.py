"""The export verb: a finished cell as a checkpoint of transformers, checked before it has its name."""

import shlex
from collections.abc import Mapping
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from models.attention import choose_attention, only
from models.gpt import GPT
from models.hf_config import HFConfig
from models.parametrisation import as_standard
from models.stock import GPT2, NoStockForm, Stock, TrainedAngles, config_of, stock_of, weights_of
from sweep.arguments import Arguments
from sweep.checkpoint_folder import open_model, transformers_of
from sweep.documents import expand
from sweep.errors import UsageError
from sweep.export_card import Compared, Exported, card, facts
from sweep.export_folder import refuse_what_is_there, staged
from sweep.export_tokenizer import find_encoder, write_tokenizer
from sweep.folder import SweepFolder
from sweep.law_position import position_of
from sweep.stamps import read_sha256
from sweep.trained import Finished, load_weights, with_weights

WEIGHTS = "model.safetensors"
# Of a logit's difference at equal angles, over the largest logit or 1. Rounding leaves a tenth of it
# where attention is sharp and rows are long; one matrix in a wrong order, ten times as much.
LIMIT = 1e-4
_ROWS = 2  # of random tokens, on which logits are compared


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
        stock = stock_for(finished)
        find_encoder(finished, folder)
        console.print(
            f"{_name(finished)} would be a {stock.class_name} in {out}, of "
            f"{finished.record['N_total']:,} parameters ({4 * finished.record['N_total'] / 1e6:,.1f} "
            "MB). Nothing was written."
        )
        return
    made = export_attempt(finished, folder, out)
    console.print(
        f"{_name(finished)} is a {made.stock.class_name} now: loss {finished.record['val_loss']:.6f} "
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
    stock, encoder = stock_for(finished), find_encoder(finished, folder)
    with staged(out) as part:
        made = _write(finished, stock, encoder.id.eod, part, folder)
        write_tokenizer(encoder, part, finished.cell.model.seq_len)  # read back beside a config
        (part / "isoflop.json").write_text(facts(made))
        (part / "README.md").write_text(card(made))
    return made


def stock_for(finished: Finished) -> Stock:
    """Choose the stock architecture of a cell.

    Raises:
        UsageError: no stock architecture computes what its options do; says which is in the way.
    """
    if isinstance(finished.cell.model, HFConfig):
        raise UsageError(
            f"{finished.cell.id} can't be exported: model.architecture="
            f"{finished.cell.model.architecture} is of transformers already, and isoflop export writes "
            "cells of our own GPT"
        )
    try:
        return stock_of(as_standard(finished.cell.model, {})[0])
    except NoStockForm as e:
        raise UsageError(f"{finished.cell.id} can't be exported: {e}") from None


def trained_model(finished: Finished) -> GPT:
    """Make our model with the attempt's weights, on the CPU; muP's multipliers are in the weights.

    Raises:
        UsageError: a checkpoint that does not hold them.
    """
    cfg, weights = as_standard(finished.cell.model, load_weights(finished))
    model = GPT(cfg, choose_attention("cpu", torch.float32, head_dims={cfg.head_dim}))
    try:
        model.load_state_dict(weights)
    except RuntimeError as e:
        raise UsageError(
            f"{finished.checkpoint} holds other weights than {finished.cell.id} has: "
            f"{' '.join(str(e).split())[:200]}"
        ) from None
    return model.eval()


def _write(finished: Finished, stock: Stock, eod: int, part: Path, folder: SweepFolder) -> Exported:
    """Write weights and configs, load them again, and compare logits."""
    model = trained_model(finished)
    try:
        weights = weights_of(model, stock)
    except NoStockForm as e:
        raise UsageError(f"{finished.cell.id} can't be exported: {e}") from None
    write_checkpoint(model, stock, eod, weights, part)
    compared = compare_logits(model, stock, part)
    if not compared.same_angles <= LIMIT * max(1.0, compared.largest):
        raise UsageError(
            f"{finished.cell.id} can't be exported: logits of {stock.class_name} differ by "
            f"{compared.in_words}, so it is not the same model"
        )
    return Exported(
        finished=finished,
        stock=stock,
        numbers=sum(w.numel() for w in weights.values()),
        compared=compared,
        position=position_of(folder, finished.record),
        weights_sha256=read_sha256(part / WEIGHTS),
    )


def write_checkpoint(
    model: GPT, stock: Stock, eod: int, weights: Mapping[str, Tensor], part: Path
) -> None:
    """Write config.json, generation_config.json and model.safetensors."""
    from safetensors.torch import save_file

    transformers = transformers_of("isoflop export")
    config = transformers.AutoConfig.for_model(stock.model_type, **config_of(model, stock, eod))
    config.save_pretrained(part)
    transformers.GenerationConfig(
        eos_token_id=eod, pad_token_id=eod, max_length=model.cfg.seq_len
    ).save_pretrained(part)
    save_file(dict(weights), part / WEIGHTS, metadata={"format": "pt"})
    (part / WEIGHTS).chmod((part / "config.json").stat().st_mode)  # it is made for its owner alone


@torch.no_grad()
def compare_logits(model: GPT, stock: Stock, checkpoint: Path) -> Compared:
    """Load a checkpoint as anybody would, and compare its logits on random tokens with ours."""
    generator = torch.Generator().manual_seed(0)
    size = (_ROWS, model.cfg.seq_len)
    tokens_BT = torch.randint(model.cfg.vocab_size, size, generator=generator)
    with only(model.implementation):
        ours = model(tokens_BT)
    theirs = open_model(checkpoint, "isoflop export")
    as_loaded = same_angles = _largest(ours - theirs(tokens_BT, use_cache=False).logits)
    if stock is not GPT2:
        theirs.model.rotary_emb = TrainedAngles(model.turn_TK2)
        same_angles = _largest(ours - theirs(tokens_BT, use_cache=False).logits)
    return Compared(as_loaded, same_angles, _largest(ours))


def _largest(values: Tensor) -> float:
    return values.abs().max().item()


def _name(finished: Finished) -> str:
    return f"{finished.cell.id}, attempt {finished.record['attempt']},"
