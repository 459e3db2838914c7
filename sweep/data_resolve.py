"""From what was written of the data to what it means."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from conf.schema import AppConf, DataConf
from sweep.cell import DataRef
from sweep.data import tokenizer_of
from sweep.data_settings import DataSettings, SourceSettings, TextSet, mix_of
from sweep.data_tokenizer import TokenizerId
from sweep.documents import expand
from sweep.errors import UsageError

_ONE_SOURCE = ("path", "dataset", "subset", "split", "validation_split")


@dataclass(frozen=True)
class DataHandling:
    """How data is made and read; nothing here changes a token."""

    node_cache: Path | None  # folder of a node's own disk
    workers: int | None  # processes that tokenise


@dataclass(frozen=True)
class ResolvedData:
    """Data of a config: what to train on, what a cell says of it, and how it is handled."""

    settings: DataSettings
    ref: DataRef
    tokenizer: TokenizerId
    handling: DataHandling


def resolve_data(app: AppConf, cache: Path) -> ResolvedData:
    """Take the data of a config.

    Args:
        app: the config.
        cache: folder of prepared data.

    Raises:
        UsageError: a value that is wrong, missing or not read, naming its key.
    """
    try:
        settings = _settings(app)
        handling = _handling(app.data)
    except ValueError as e:
        raise UsageError(str(e)) from None
    tokenizer = tokenizer_of(settings, cache)
    ref = DataRef(
        name=app.data.name,
        revision=app.data.revision,
        tokenizer=tokenizer.name,
        mix=mix_of(settings),
        document_mask=settings.document_mask,
    )
    return ResolvedData(settings, ref, tokenizer, handling)


def eval_sets(app: AppConf) -> tuple[TextSet, ...]:
    """Take the sets of eval= alone.

    Raises:
        UsageError: a value that is wrong, or one name twice.
    """
    try:
        sets = tuple(_evals(app))
    except ValueError as e:
        raise UsageError(str(e)) from None
    names = [s.name for s in sets]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"eval: two sets are named {name}: rename one")
    return sets


def _evals(app: AppConf) -> list[TextSet]:
    return [_named(f"eval[{i}]", _text_set, asdict(e)) for i, e in enumerate(app.eval)]


def _settings(app: AppConf) -> DataSettings:
    for key in ("name", "revision"):
        if not getattr(app.data, key).strip():
            raise ValueError(f"data.{key} is empty")
    values = asdict(app.data)
    plain = {k: values[k] for k in DataSettings.__dataclass_fields__ if k in values}
    evals = _evals(app)
    if app.data.source == "hf":
        plain["path"] = None  # of its one source
    else:
        _refuse_hf_keys(app.data)
    return DataSettings(**{**plain, "sources": tuple(_sources(app.data)), "evals": tuple(evals)})


def _sources(data: DataConf) -> list[SourceSettings]:
    if data.source != "hf":
        return []
    if not data.sources:
        if data.path is None and data.dataset is None:
            raise ValueError(
                "data=hf needs data.path=FILE_OR_FOLDER (parquet, JSON lines, text), "
                "data.dataset=HUB_NAME, or data.sources=[...]"
            )
        values = asdict(data)
        one = {k: values[k] for k in (*_ONE_SOURCE, "name", "revision", "text_column")}
        return [_named("data", _source, {**one, "weight": 1.0})]
    unread = [k for k in _ONE_SOURCE if getattr(data, k) is not None]
    if unread:
        raise ValueError(f"data.{unread[0]} is not read with data.sources: say it in each source")
    return [_named(f"data.sources[{i}]", _source, asdict(s)) for i, s in enumerate(data.sources)]


def _source(values: dict[str, Any]) -> SourceSettings:
    own = {k: values.pop(k) for k in ("weight", "validation_split")}
    return SourceSettings(text=_text_set(values), **own)


def _text_set(values: dict[str, Any]) -> TextSet:
    path = values["path"]
    return TextSet(**{**values, "path": None if path is None else str(expand(path).resolve())})


def _named(key: str, make: Any, values: dict[str, Any]) -> Any:
    try:
        return make(values)
    except ValueError as e:
        raise ValueError(f"{key}: {e}") from None


def _refuse_hf_keys(data: DataConf) -> None:
    keys = ("dataset", "subset", "split", "validation_split")
    unread = [k for k in keys if getattr(data, k) is not None] + ["sources"] * bool(data.sources)
    if unread:
        raise ValueError(
            f"data.{unread[0]} is not read by data={data.source}: add data=hf, or leave it out"
        )


def _handling(data: DataConf) -> DataHandling:
    if data.workers is not None and not 1 <= data.workers <= 1024:
        raise ValueError(f"data.workers={data.workers} must lie between 1 and 1024")
    return DataHandling(None if data.cache is None else expand(data.cache), data.workers)
