"""Small datasets and a small tokenizer on disk, as a person would have them."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from helpers_cells import write_text

END = "<|endoftext|>"


def make_tokenizer(folder: Path, texts: list[str], vocab_size: int = 320, eos: bool = True) -> Path:
    """Train a byte-level BPE and save it as transformers would."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast"} | ({"eos_token": END} if eos else {})
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def some_documents(folder: Path, seed: int = 0, size: int = 30_000, length: int = 700) -> list[str]:
    """Documents of made-up words, some with characters of several bytes, one of them long."""
    write_text(folder, size=size, seed=seed)
    text = "".join(p.read_text() for p in sorted(folder.iterdir()))
    cut = [text[i : i + length] for i in range(0, len(text), length)]
    odd = [f"{i}: naïve café 中文 \U0001f600 {t}" for i, t in enumerate(cut[:10])]
    return [*cut, *odd, " ".join(cut[:20])]


def write_jsonl(path: Path, texts: list[str], column: str = "text") -> Path:
    """Write a document a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({column: t, "n": i}) + "\n" for i, t in enumerate(texts)))
    return path


def write_parquet(path: Path, texts: list[str], column: str = "text") -> Path:
    """Write a document a row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({column: texts}), path, row_group_size=50)
    return path
