"""From `key=value` words to a typed config, or one line that says which word is wrong.

Hydra composes the config. Two things are kept from it: values that are texts (paths, names, ids),
which its grammar would mangle (`~/r.csv`, `x=1/r.csv`, `3e912345`), and its tracebacks.
"""

import os
import re
import shlex
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files

from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf.schema import AppConf
from sweep.errors import UsageError, nearest

TEXT_KEYS = ("root", "sweep", "cell", "record", "points", "curves", "out", "from", "fit.where", "fit.by",
             "fit.loss", "model.architecture", "data.path", "data.name", "data.revision",
             "data.dataset", "data.subset", "data.split", "data.validation_split",
             "data.text_column", "data.tokenizer", "data.tokenizer_revision", "data.cache",
             "report.title", "budget.ask", "budget.format",
             "budget.law", "budget.hardware", "budget.serve_hardware", "budget.dtype",
             "budget.records", "preregister", "score", "grid.prior", "grid.cells", "design.until",
             "design.fits", "cluster.partition", "cluster.account", "cluster.qos",
             "cluster.gpu_type", "cluster.constraint", "cluster.exclude", "cluster.comment",
             "cluster.mail_user", "cluster.mail_type", "cluster.python", "cluster.container",
             "launch.notify", "launch.fits", "status.fits",
             "run.tracker_project", "evaluate.command")  # fmt: skip
TEXT_LISTS = ("fits",)  # [a,b]
FIELDS = {"from": "from_"}  # of the schema, where a key is a word of Python's own
_OPEN = ("model.base",)  # maps of anybody's keys, which Hydra adds to only where it is forced
# With explicit cells these would change nothing.
REPLACED_BY_CELLS = ("grid.budgets", "grid.tokens_per_param", "grid.window",
                     "grid.tokens_per_param_range", "grid.design", "grid.taper", "grid.prior",
                     "grid.noise")  # fmt: skip
_ADDITIONAL = "cluster.additional."
_GROUPS = ("grid", "model", "recipe", "data", "cluster", "hardware", "fit", "report")


@dataclass(frozen=True)
class Arguments:
    """A composed config, and which keys the person named."""

    app: AppConf
    words: tuple[str, ...]  # as typed

    @property
    def named(self) -> frozenset[str]:
        """Keys that the person named."""
        return frozenset(word.partition("=")[0] for word in self.words)

    def groups_named(self, *groups: str) -> frozenset[str]:
        """Those of the named keys that lie in some groups."""
        return frozenset(k for k in self.named if k.split(".")[0] in groups)

    def words_of(self, reads: tuple[str, ...]) -> tuple[str, ...]:
        """Return what was typed of some keys."""
        return tuple(word for word in self.words if is_read(word.partition("=")[0], reads))

    def again(self, verb: str, reads: tuple[str, ...], without: tuple[str, ...] = ()) -> str:
        """Return a command for the next verb, with what was typed of the keys it reads."""
        kept = [w for w in self.words_of(reads) if w.partition("=")[0] not in without]
        return shlex.join(["isoflop", verb, *kept])


def parse(verb: str, words: list[str], reads: tuple[str, ...]) -> Arguments:
    """Compose the config that the words ask for.

    Args:
        verb: for messages.
        words: `key=value` each.
        reads: keys that the verb reads: `grid` is the choice of a group, `grid.*` its keys.

    Raises:
        UsageError: an unknown key or group, a value of the wrong type, a key that is not read.
    """
    texts: dict[str, str] = {}
    overrides: list[str] = []
    for word in words:
        key, value = _split(word)
        _check_read(key, verb, reads)
        if _is_text(key):
            texts[key] = value
        else:
            _check_choice(key, value)
            overrides.append(_forced(word))
    app = _compose(overrides)
    for key, value in texts.items():
        _set_text(app, key, value)
    _check_cells(app, verb, {word.partition("=")[0] for word in words})
    return Arguments(app, tuple(words))


def is_read(key: str, reads: tuple[str, ...]) -> bool:
    """Whether a key is among those that a verb reads; `grid.*` stands for all keys of grid."""
    return key in reads or ("." in key and f"{key.split('.')[0]}.*" in reads)


def _is_text(key: str) -> bool:
    return key in (*TEXT_KEYS, *TEXT_LISTS) or key.startswith(("columns.", _ADDITIONAL))


def quoted(word: str) -> str:
    """Return a word as Hydra's grammar must see it, for Hydra's own flags (--cfg job)."""
    key, sep, value = word.partition("=")
    if not sep or not _is_text(key) or value == "null":
        return _forced(word)
    if key in TEXT_LISTS:
        return f"{key}=[{','.join(map(_escaped, _elements(value)))}]"
    added = "++" if key.startswith(_ADDITIONAL) else ""
    return f"{added}{FIELDS.get(key, key)}={_escaped(value)}"


def _forced(word: str) -> str:
    return f"++{word}" if word.partition("=")[0] in _OPEN else word


def _escaped(value: str) -> str:
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", value)
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped).replace("${", r"\${")
    return f"'{escaped}'"


def _elements(value: str) -> list[str]:
    """Texts of [a,b], each as typed or in quotes; a text without brackets is one.

    A comma stands between two texts, unless what it would cut is the name of a file.
    """
    if not (value.startswith("[") and value.endswith("]")) or os.path.exists(value):
        return [value]
    parts = re.findall(r"""\s*("[^"]*"|'[^']*'|[^,]*)\s*(?:,|$)""", value[1:-1])
    pieces, texts = [p for p in parts if p], []
    while pieces:
        ends = range(len(pieces), 1, -1)
        whole = next((e for e in ends if os.path.exists(",".join(pieces[:e]))), 1)
        texts.append(",".join(pieces[:whole]))
        pieces = pieces[whole:]
    return [_unquoted(t.strip()) for t in texts]


def _unquoted(text: str) -> str:
    in_quotes = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if in_quotes else text


def _split(word: str) -> tuple[str, str]:
    key, sep, value = word.partition("=")
    if not sep or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", key):
        raise UsageError(f"{word!r} is not key=value, such as grid=smoke or recipe.lr=1e-3")
    return key, value


def _check_read(key: str, verb: str, reads: tuple[str, ...]) -> None:
    if not _is_known(key):
        near = nearest(key, _known_keys())
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise UsageError(f"{key} is not a key{hint} List them with: isoflop {verb} --cfg job")
    if is_read(key, reads):
        return
    raise UsageError(
        f"{key} is not read by isoflop {verb}, so it would change nothing: leave it out. "
        f"isoflop {verb} reads {', '.join(reads)}"
    )


def _check_cells(app: AppConf, verb: str, named: set[str]) -> None:
    """Refuse what explicit cells leave without effect, and explicit cells where cells are sought."""
    if app.grid.cells is None:
        return
    unused = sorted(named & set(REPLACED_BY_CELLS))
    if unused:
        raise UsageError(f"{unused[0]} changes nothing beside grid.cells: leave one of them out")
    if verb == "design":
        raise UsageError(
            "grid.cells is what isoflop design writes, not what it reads: leave it out"
        )


def _is_known(key: str) -> bool:
    return key in _known_keys() or key.startswith(("columns.", "fit.fix.", _ADDITIONAL))


@cache
def _known_keys() -> tuple[str, ...]:
    """Every key of the schema, `group.key`, and the groups themselves."""
    keys, typed = [], {field: key for key, field in FIELDS.items()}
    for f in fields(AppConf):
        keys.append(typed.get(f.name, f.name))
        if f.name in (
            *_GROUPS,
            "plan",
            "launch",
            "status",
            "forecast",
            "run",
            "evaluate",
            "budget",
            "design",
            "export",
        ):
            keys += [f"{f.name}.{sub.name}" for sub in fields(f.default_factory)]
    return tuple(keys)


def _compose(overrides: list[str]) -> AppConf:
    _register_schema()
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("conf", version_base="1.3"):
            app = OmegaConf.to_object(compose("config", overrides))
    except (HydraException, OmegaConfBaseException, ValueError) as e:  # grid=0: ValueError
        raise UsageError(_one_line(e)) from None
    finally:
        GlobalHydra.instance().clear()
    return app


@cache
def _register_schema() -> None:
    ConfigStore.instance().store(name="schema", node=AppConf)


def _one_line(error: Exception) -> str:
    """Say in one line what Hydra says in many."""
    causes = [error]
    # Under a debugger OmegaConf links an error to itself: stop where the chain comes round.
    while (cause := causes[-1].__cause__) is not None and cause not in causes:
        causes.append(cause)
    text = " ".join(str(error).split())
    if match := re.search(
        r"Could not find '(\w+)/([^']+)'(?: Available options in '\w+': (.*))?", text
    ):
        group, name, options = match.groups()
        known = ", ".join(re.split(r" Config search path", options or "")[0].split())
        return f"{group}={name} is not a {group}; it may be {known}"
    deepest = next((c for c in reversed(causes) if getattr(c, "full_key", None)), None)
    if deepest is not None:
        said = str(deepest).splitlines()[0]
        return f"{deepest.full_key}: {said}"
    return re.sub(r" See https?://\S+.*| Set the environment variable.*", "", text)


def _check_choice(key: str, value: str) -> None:
    if key in _GROUPS and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
        options = ", ".join(_options(key))
        raise UsageError(f"{key}={value}: a {key} is chosen by its name; it may be {options}")


def _options(group: str) -> list[str]:
    names = (entry.name for entry in files("conf").joinpath(group).iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def _set_text(app: AppConf, key: str, value: str) -> None:
    group, _, name = key.partition(".")
    if not value:
        raise UsageError(f"{key}= has no value")
    value = None if value == "null" else value
    if key in TEXT_LISTS:
        setattr(app, key, [] if value is None else _elements(value))
    elif group == "columns":
        app.columns[name] = value
    elif key.startswith(_ADDITIONAL):  # a flag of sbatch is true
        app.cluster.additional[key.removeprefix(_ADDITIONAL)] = True if value == "true" else value
    elif name:
        setattr(getattr(app, group), name, value)
    else:
        setattr(app, FIELDS.get(group, group), value)
