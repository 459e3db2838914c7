"""Have the data of a config on disk: one folder of shards, or an index of several.

Data of one text is one folder of shards. Data of data=hf, or with extra sets to judge on, is an
index that names a folder for each:

    <cache>/index-<hash>/manifest.json
"""

import hashlib
import json
import uuid
from collections.abc import Callable
from dataclasses import replace
from functools import cache as cached
from functools import partial
from pathlib import Path

from sweep.data_build import BuildSpec, Stream, build
from sweep.data_settings import DataSettings, SourceSettings, TextSet
from sweep.data_tokenizer import (
    ByteEncoder,
    Encoder,
    TokenizerId,
    byte_id,
    identify,
    load_encoder,
)
from sweep.documents import DataError, expand
from sweep.errors import UsageError
from sweep.shards import MANIFEST_SCHEMA, Tokens, open_tokens, read_sealed, write_sealed
from sweep.tokens import DataSpec, prepare, revision_of


def tokenizer_of(settings: DataSettings, cache: Path) -> TokenizerId:
    """Say which tokenizer is asked for; loads no library that trains.

    Raises:
        UsageError: no such tokenizer.
    """
    try:
        if settings.tokenizer == "bytes128":  # its table is known when its text is
            return byte_id("bytes128", (127,))
        return identify(settings.tokenizer, settings.tokenizer_revision, cache)
    except DataError as e:
        raise UsageError(str(e)) from None


def prepare_data(
    settings: DataSettings, cache: Path, say: Callable[[str], None], workers: int | None = None
) -> Path:
    """Fetch and tokenise once; returns the folder of shards, or of their index.

    Args:
        settings: what is asked of the data.
        cache: folder for prepared data; made if missing.
        say: takes a line for a person.
        workers: processes that tokenise; None: as many as are worth it.

    Raises:
        UsageError: text that can't be had, read or split.
    """
    try:
        if _is_one_text(settings):
            return prepare(_spec(settings), cache, say)
        return _prepare_index(settings, cache, say, workers)
    except DataError as e:
        raise UsageError(str(e)) from None


def find_prepared(settings: DataSettings, cache: Path) -> Path | None:
    """Return the folder that prepare_data would, if it is there; fetches and builds nothing.

    Raises:
        UsageError: the text can't be read.
    """
    try:
        if _is_one_text(settings):
            folder = cache / _spec(settings).folder_name
        else:
            folder = _index_folder(settings, cache)
    except DataError as e:
        raise UsageError(str(e)) from None
    return folder if folder.is_dir() else None


def parts_of(folder: Path, settings: DataSettings) -> tuple[dict[str, str], dict[str, str]]:
    """Folders of the sources and of the extra sets, by name, beside `folder`.

    Raises:
        DataError: not prepared, damaged, or prepared for other sources.
    """
    if _is_one_text(settings):
        return {settings.source: folder.name}, {}
    index = read_sealed(folder / "manifest.json")
    names = [s.name for s in settings.sources] or [settings.source]
    found = [*index.get("sources", ()), *index.get("evals", ())]
    if sorted(found) != sorted([*names, *(e.name for e in settings.evals)]):
        raise DataError(
            f"{folder} holds {', '.join(found) or 'no index'}: type isoflop prepare for this config"
        )
    return ({n: index["sources"][n] for n in names},
            {e.name: index["evals"][e.name] for e in settings.evals})  # fmt: skip


def id_of_shards(tokens: Tokens) -> TokenizerId:
    """Which tokenizer shards were made with."""
    if "tokenizer" in tokens.manifest:
        return TokenizerId(**tokens.manifest["tokenizer"])
    return byte_id(tokens.manifest["spec"]["tokenizer"], tokens.manifest["token_of_byte"])


def encoder_of(settings: DataSettings, cache: Path) -> Encoder:
    """Load the tokenizer that is asked for; builds no shards.

    Raises:
        DataError: it can't be had, or is of a text that is not prepared.
    """
    if settings.tokenizer != "bytes128":
        return load_encoder(settings.tokenizer, settings.tokenizer_revision, cache)
    shards = find_prepared(settings, cache)
    if shards is None:
        raise DataError(
            f"bytes128 counts the bytes of its text, and data={settings.source} is not prepared in "
            f"{cache}: type isoflop prepare with the sweep's root and data"
        )
    sources, _ = parts_of(shards, settings)
    return _encoder_of(shards.parent / next(iter(sources.values())))


def _is_one_text(settings: DataSettings) -> bool:
    return settings.source != "hf" and not settings.evals


def _spec(settings: DataSettings) -> DataSpec:
    path = None if settings.path is None else str(expand(settings.path).resolve())
    return DataSpec(
        name=settings.source,
        revision=revision_of(settings.source, path),
        tokenizer=settings.tokenizer,
        path=path,
        validation_share=settings.validation_share,
    )


def _prepare_index(
    settings: DataSettings, cache: Path, say: Callable[[str], None], workers: int | None
) -> Path:
    """Prepare every part, then write the index that names them."""
    if settings.source == "hf":
        load = cached(partial(load_encoder, settings.tokenizer, settings.tokenizer_revision, cache))
        tokenizer = identify(settings.tokenizer, settings.tokenizer_revision, cache).sha256
        specs = [_source_spec(s, tokenizer, settings) for s in settings.sources]
        sources = {spec.name: build(spec, load, cache, say, workers) for spec in specs}
    else:
        base = prepare(_spec(settings), cache, say)
        load = cached(partial(_encoder_of, base))
        tokenizer, sources = base.name, {settings.source: base}
    specs = [_eval_spec(e, tokenizer) for e in settings.evals]
    evals = {spec.name: build(spec, load, cache, say, workers) for spec in specs}
    folder = _index_folder(settings, cache)
    index = {
        "schema": MANIFEST_SCHEMA,
        "sources": {name: path.name for name, path in sources.items()},
        "evals": {name: path.name for name, path in evals.items()},
    }
    _put_index(index, folder)
    return folder


def _encoder_of(folder: Path) -> ByteEncoder:
    """Make the encoder that numbers bytes as prepared shards do."""
    tokens = open_tokens(folder)
    return ByteEncoder(id_of_shards(tokens), tuple(tokens.manifest["token_of_byte"]))


def _put_index(index: dict, folder: Path) -> None:
    """Write an index whole; of two at once, both write the same."""
    folder.mkdir(exist_ok=True)
    part = folder / f".{uuid.uuid4().hex}"
    try:
        write_sealed(index, part)
        part.replace(folder / "manifest.json")
    except OSError as e:
        raise DataError(f"can't write prepared data: {e.strerror} ({folder})") from None


def _index_folder(settings: DataSettings, cache: Path) -> Path:
    """Where the index lies: told from the texts, splits and tokenizer, before any is prepared."""
    if settings.source == "hf":
        found = identify(settings.tokenizer, settings.tokenizer_revision, cache)
        tokenizer = found.sha256
        sources = [_source_spec(s, tokenizer, settings).folder_name for s in settings.sources]
    else:
        tokenizer = _spec(settings).folder_name
        sources = [tokenizer]
    parts = [sources, [_eval_spec(e, tokenizer).folder_name for e in settings.evals]]
    return cache / f"index-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]}"


def _source_spec(source: SourceSettings, tokenizer: str, settings: DataSettings) -> BuildSpec:
    if source.validation_split is None:
        streams: tuple[Stream, ...] = (Stream(source.text, settings.validation_share),)
    else:
        held = replace(source.text, split=source.validation_split)
        streams = (Stream(source.text, 0.0), Stream(held, 1.0))
    return BuildSpec(source.name, streams, tokenizer)


def _eval_spec(text: TextSet, tokenizer: str) -> BuildSpec:
    return BuildSpec(text.name, (Stream(text, 1.0),), tokenizer)
