"""A cell's tokenizer as a tokenizer.json of transformers, and the proof that it gives the same ids."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sweep.checkpoint_folder import transformers_of
from sweep.data_prepare import encoder_of
from sweep.data_tokenizer import ByteEncoder, Encoder
from sweep.documents import DataError, first_line
from sweep.errors import UsageError
from sweep.folder import SweepFolder
from sweep.trained import Finished

_END = "\0"  # no document holds byte 0, so no text is taken for the end of one
_OTHER = "\ufffd"  # what a byte without a token of its own is read back as
_AWKWARD = (  # texts that tokenizers are known to treat in ways of their own
    "",
    " ",
    "The quick brown fox, 1,234.5 times; don't!",
    "  two spaces\tand\ttabs\r\nlines\n\n\n  indented:\n    code(x) == {'a': [1, 2]}\n",
    "na\u00efve cafe\u0301 \u4e2d\u6587 \U0001f600\u200d\U0001f680 \u0645\u0631\u062d\u0628\u0627 \ufeff\ufffd",
    "<|endoftext|> </s> <s> [UNK] <unk> <pad> <0x0A> \u2581 \u0100 \u0120",
    "".join(map(chr, range(1, 0x3000))),
)


def find_encoder(finished: Finished, folder: SweepFolder) -> Encoder:
    """Return the tokenizer that the cell was trained with.

    Raises:
        UsageError: it can't be had here, or is another one by now.
    """
    try:
        encoder = encoder_of(finished.data, folder.data_cache)
    except DataError as e:
        raise UsageError(f"the tokenizer of {finished.cell.id} can't be had: {e}") from None
    recorded = finished.record["tokenizer_sha256"]
    if isinstance(recorded, str) and encoder.id.sha256 != recorded:
        raise UsageError(
            f"{finished.cell.id} was trained with tokenizer {finished.cell.data.tokenizer} "
            f"({recorded[:8]}), and data.tokenizer={finished.data.tokenizer} is another one by now "
            f"({encoder.id.sha256[:8]}): bring back the files that it was trained with"
        )
    return encoder


def pipeline_of(encoder: Encoder) -> str:
    """Return the text of a tokenizer.json that gives the encoder's ids, and adds none to them.

    What a tokenizer puts around a text (a beginning-of-sequence token, say) was not trained on, so
    it is left out.
    """
    if isinstance(encoder, ByteEncoder):
        return json.dumps(_byte_pipeline(encoder.table, encoder.id.eod))
    pipeline = json.loads(encoder.pipeline)
    return json.dumps(pipeline | {"post_processor": None, "truncation": None, "padding": None})


def write_tokenizer(encoder: Encoder, folder: Path, seq_len: int) -> None:
    """Write a cell's tokenizer as transformers reads it.

    Raises:
        UsageError: transformers reads it, and gives other ids.
    """
    transformers = transformers_of("isoflop export")
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(pipeline_of(encoder))
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=tokenizer.id_to_token(encoder.id.eod),
        model_max_length=seq_len,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)
    why = why_not_the_same(encoder, open_tokenizer(folder))
    if why is not None:
        raise UsageError(
            f"data.tokenizer={encoder.id.name} can't be exported: transformers reads it back with "
            f"other ids ({why})"
        )


def open_tokenizer(folder: Path) -> Any:
    """Open the tokenizer of a folder, without any code of its own.

    Raises:
        UsageError: there is none that transformers can read.
    """
    transformers = transformers_of("isoflop import")
    try:
        return transformers.AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise UsageError(
            f"{folder} has no tokenizer that transformers can read ({first_line(e)}): losses can "
            "only be compared where texts have the same ids"
        ) from None


def why_not_the_same(
    encoder: Encoder, tokenizer: Any, texts: Sequence[str] = _AWKWARD
) -> str | None:
    """Say in which way a tokenizer of transformers differs from a cell's; None where it does not."""
    if tokenizer.eos_token_id != encoder.id.eod:
        return f"a document ends with {tokenizer.eos_token_id}, not with {encoder.id.eod}"
    for text in texts:
        ours = encoder.encode([text.encode()], count_bytes=False).ids[:-1].tolist()
        theirs = tokenizer(text, add_special_tokens=False)["input_ids"]
        if ours != theirs:
            return f"{text[:20]!r} is {_few(ours)}, not {_few(theirs)}"
    return None


def _few(ids: Sequence[int]) -> str:
    return f"{len(ids)} tokens {[*ids[:4]]}"


def _byte_pipeline(table: Sequence[int], eod: int) -> dict[str, Any]:
    """Make a tokenizer of single bytes: byte-level BPE without merges.

    Byte-level BPE writes each byte as a printable character (Radford et al. 2019, section 2.2). A
    byte that shares its token with others has no entry, and is read as the unknown token.
    """
    tokens = list(table)
    vocab = {_END: eod}
    for byte, char in enumerate(_byte_characters()):
        if byte and tokens.count(tokens[byte]) == 1:
            vocab[char] = tokens[byte]
    if shared := {token for token in tokens if tokens.count(token) > 1}:  # one of bytes128
        vocab[_OTHER] = max(shared)
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False,
             "use_regex": False}  # fmt: skip
    end = {"id": eod, "content": _END, "single_word": False, "lstrip": False, "rstrip": False,
           "normalized": False, "special": True}  # fmt: skip
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [end],
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": None,
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": _OTHER if shared else None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": [],
        },
    }


def _byte_characters() -> list[str]:
    """Return the character that byte-level BPE writes for each byte, (256,).

    Printable bytes of Latin-1 are themselves; the k-th of the others is U+0100 + k.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [b for b in range(256) if b not in printable]
    return [chr(b if b in printable else 0x100 + others.index(b)) for b in range(256)]
