"""A sweep of tiny trained cells to export: byte tokens, a trained BPE, and one without a form."""

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from helpers_cells import CPU, MODEL, RUN, data_settings, tiny_cell
from helpers_hf import make_tokenizer, some_documents, write_jsonl
from safetensors.torch import save_file

from models.config import MLP, Attention, GPTConfig, Init, Norm, Positions
from models.gpt import GPT
from sweep.attempt import run_attempt
from sweep.cell import Cell, DataRef
from sweep.claim import claim
from sweep.data import open_data, prepare_data
from sweep.data_settings import DataSettings, SourceSettings, TextSet
from sweep.data_tokenizer import identify
from sweep.device import open_device
from sweep.folder import SweepFolder

BYTES = tiny_cell(8)
NO_FORM = tiny_cell(2, model=replace(MODEL, positions=Positions.LEARNED, mlp=MLP.SWIGLU))


@dataclass(frozen=True)
class Trained:
    """A sweep's folder with three finished cells."""

    folder: SweepFolder
    bpe: Cell  # of documents that are masked from each other
    texts: list[str]

    def words(self, cell: str, *more: str) -> list[str]:
        """Words that name a cell of it."""
        return [f"root={self.folder.root}", f"sweep={self.folder.name}", f"cell={cell}", *more]


def train_all(root: Path, text_folder: Path) -> Trained:
    """Train a cell of bytes, one of BPE tokens, and one that no stock architecture computes."""
    folder, asked = SweepFolder(root, "s"), asked_of(text_folder)
    texts = some_documents(root / "text", size=60_000)
    tokenizer = make_tokenizer(root / "bpe", texts)
    jsonl = write_jsonl(root / "a.jsonl", texts)
    bpe_asked = replace(
        asked, source="hf", path=None, tokenizer=str(tokenizer), document_mask=True, val_tokens=1024,
        sources=(SourceSettings(text=TextSet(name="made_up", path=str(jsonl))),),
    )  # fmt: skip
    found = identify(str(tokenizer), None, folder.data_cache)
    model = replace(
        MODEL, vocab_size=found.vocab_size, norm=Norm.RMSNORM, mlp=MLP.SWIGLU, qk_norm=True,
        n_kv_head=1, tied=True,
    )  # fmt: skip
    ref = DataRef(name="hf", revision="1", tokenizer=found.name, document_mask=True)
    bpe = replace(tiny_cell(8, model=model), data=ref)
    for cell, data in ((BYTES, asked), (NO_FORM, asked), (bpe, bpe_asked)):
        train(folder, cell, data)
    return Trained(folder, bpe, texts)


def asked_of(text_folder: Path) -> DataSettings:
    """Ask for so many validation tokens that the loss has a standard error."""
    return replace(data_settings(text_folder), val_tokens=12_288)


def train(folder: SweepFolder, cell: Cell, asked: DataSettings, **more) -> None:
    """Train an attempt at a cell."""
    shards = prepare_data(asked, folder.data_cache, lambda line: None, 1)
    data, attempt = open_data(shards, asked, cell.model.seq_len), claim(folder, cell, False)
    try:
        run_attempt(attempt, folder, data, asked, open_device(CPU), RUN, **more)
    finally:
        attempt.release()


def random_model(cfg: GPTConfig, seed: int = 0) -> GPT:
    """Make a model whose gains are no ones and whose blocks are no identities."""
    model = GPT(replace(cfg, init=Init.FAN_IN), Attention.REFERENCE)
    model.init_weights(seed)
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        if p.ndim == 1:
            p.data.uniform_(0.5, 1.5, generator=generator)
    return model


@torch.no_grad()
def job(model: GPT, folder: Path, texts: list[str]) -> dict:
    """Write down what a fresh process should find in a folder."""
    tokens = torch.randint(model.cfg.vocab_size, (2, model.cfg.seq_len))
    expected = folder.with_name(f"{folder.name}.expected")
    save_file({"tokens": tokens, "logits": model(tokens).contiguous()}, expected)
    return {"folder": str(folder), "expected": str(expected), "texts": texts}


def look_afresh(jobs: list[dict], folder: Path) -> list[dict]:
    """Have fresh_loader.py look at checkpoints."""
    (folder / "jobs.json").write_text(json.dumps(jobs))
    loader = Path(__file__).with_name("fresh_loader.py")
    done = subprocess.run(
        [sys.executable, "-I", loader, folder / "jobs.json"],
        cwd=folder, capture_output=True, text=True, timeout=3600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
