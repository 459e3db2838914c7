"""Words to a typed config: texts as typed, groups and keys checked, Hydra's errors in one line."""

import string

import pytest
from hydra import compose, initialize_config_module
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from sweep.arguments import FIELDS, TEXT_KEYS, parse, quoted
from sweep.errors import UsageError, find_one, nearest
from sweep.verbs import VERBS

EVERYTHING = ("grid", "grid.*", "model", "model.*", "recipe", "recipe.*", "data", "data.*",
              "fit", "fit.*", "report.*", "fits", *TEXT_KEYS, "columns.*")  # fmt: skip
HOSTILE = [
    "~/my runs/r.csv",
    "x=1/y=2.csv",
    "runs (1).csv",
    "a,b,c.csv",
    "3e912345",
    "1e5",
    "{a: b}",
    "[1,2]",
    "${oc.env:HOME}",
    'it\'s "quoted"',
    "back\\slash\\",
    "'",
    "\\'",
    "a\tb",
    "ünïcode/😀",
    "!tag &anchor *ref # no comment",
    "true",
    "@package",
    "-dash",
    "trailing ",
]


TEXTS = (*(key for key in TEXT_KEYS if key != "grid.prior"), "columns.N")


def read(values: dict[str, str]) -> dict[str, str | None]:
    """Give texts to the config and read them back; one composition for all, for it is slow."""
    app = parse("fit", [f"{key}={value}" for key, value in values.items()], EVERYTHING).app
    got = {}
    for key in values:
        group, _, name = FIELDS.get(key, key).rpartition(".")
        owner = getattr(app, group) if group else app
        got[key] = owner[name] if isinstance(owner, dict) else getattr(owner, name)
    return got


@pytest.mark.parametrize("shift", range(4))
def test_a_text_arrives_as_it_was_typed(shift):
    """Each key with four of the texts, and each text in several keys: a composition is slow."""
    values = {key: HOSTILE[(i + 5 * shift) % len(HOSTILE)] for i, key in enumerate(TEXTS)}
    assert read(values) == values


def test_a_prior_arrives_as_it_was_typed():
    values = {"grid.prior": "~/my fits=1/a,b (2).json"}  # by itself: grid.cells would replace it
    assert read(values) == values


@settings(max_examples=8)
@given(st.fixed_dictionaries({key: st.text(string.printable, min_size=1) for key in TEXTS}))
def test_any_text_arrives_as_it_was_typed(values):
    wanted = {key: None if value == "null" else value for key, value in values.items()}
    assert read(values) == wanted


@pytest.mark.parametrize(
    ("typed", "texts"),
    [
        ("a.json", ["a.json"]),
        ("[a.json]", ["a.json"]),
        ("[~/my runs/a.json, x=1/b (2).json]", ["~/my runs/a.json", "x=1/b (2).json"]),
        ("['a, b.json',\"it's.json\"]", ["a, b.json", "it's.json"]),
        ("[3e912345,${oc.env:HOME}]", ["3e912345", "${oc.env:HOME}"]),
        ("[]", []),
        ("null", []),
    ],
)
def test_a_list_of_texts_arrives_as_it_was_typed(typed, texts):
    assert parse("budget", [f"fits={typed}"], ("fits",)).app.fits == texts
    if typed != "null":
        composed = compose_quoted(f"fits={typed}")
        assert composed == texts


def compose_quoted(word: str) -> list[str]:
    """Return what Hydra's own flags make of a word."""
    with initialize_config_module("conf", version_base="1.3"):
        return list(OmegaConf.to_object(compose("config", [quoted(word)])).fits)


LISTED = [v for v in HOSTILE if "," not in v and v == v.strip()]


@pytest.mark.parametrize("value", LISTED)
def test_texts_of_a_list_arrive_as_they_were_typed(value):
    for typed, wanted in ((f"[{value},b]", [value, "b"]), (value, [value])):
        assert parse("forecast", [f"fits={typed}"], ("fits",)).app.fits == wanted


def test_a_comma_in_a_listed_text_is_quoted_or_is_of_a_path_that_exists(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse("forecast", ["fits=['a,b',\"c,d\"]"], ("fits",)).app.fits == ["a,b", "c,d"]
    assert parse("forecast", ["fits=[a,b,c]"], ("fits",)).app.fits == ["a", "b", "c"]
    (tmp_path / "b,c").touch()
    assert parse("forecast", ["fits=[a,b,c]"], ("fits",)).app.fits == ["a", "b,c"]


def test_null_unsets_a_text_and_nothing_is_no_value():
    assert read({"points": "null"}) == {"points": None}
    with pytest.raises(UsageError, match="points= has no value"):
        read({"points": ""})


def test_other_values_have_types():
    app = parse(
        "plan",
        ["grid=smoke", "grid.budgets=[1e9,2e9]", "grid.seeds=[0,1]", "model.seq_len=64",
         "model.ladder=[{n_layer:1,d_model:8,n_head:2}]", "recipe.lr=1e-3"],
        EVERYTHING,
    ).app  # fmt: skip
    assert app.grid.name == "smoke"
    assert app.grid.budgets == [1e9, 2e9]
    assert app.grid.seeds == [0, 1]
    assert [(s.n_layer, s.d_model, s.n_head) for s in app.model.ladder] == [(1, 8, 2)]
    assert app.recipe.lr == 1e-3


def test_what_was_named_is_kept():
    args = parse("plan", ["grid=smoke", "recipe.lr=1", "data.path=x"], EVERYTHING)
    assert set(args.named) == {"grid", "recipe.lr", "data.path"}
    assert args.groups_named("recipe", "data") == {"recipe.lr", "data.path"}


def test_a_config_depends_on_its_words_only():
    first = parse("plan", ["grid=smoke", "grid.window=2"], EVERYTHING).app
    parse("plan", ["grid=single_gpu"], EVERYTHING)
    assert parse("plan", ["grid=smoke", "grid.window=2"], EVERYTHING).app == first


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "grid=[0]",
            "a grid is chosen by its name; it may be cluster, demo, reference, single_gpu, smoke",
        ),
        ("recipe.learning_rate=1", r"recipe\.learning_rate is not a key"),
        ("grid.budget=1", r"grid\.budget is not a key; did you mean grid\.budgets"),
        ("gird=smoke", r"gird is not a key; did you mean grid\b"),
        (
            "grid=smoky",
            r"grid=smoky is not a grid; it may be cluster, demo, reference, single_gpu, smoke",
        ),
        ("model=huge", r"model=huge is not a model; it may be hf, large, micro, micro_fine, small"),
        ("grid.seeds=1", r"grid\.seeds"),
        ("grid.window=wide", r"grid\.window: .*'wide'"),
        ("grid.budgets=[1e9", r"."),
        ("recipe.batch_rows=1.5", r"recipe\.batch_rows: .*'?1\.5'?"),
        ("model.ladder=[{n_layer:1}]", r"d_model|ladder"),
        ("model.ladder=[{n_layer:1,d_model:8,n_head:1,depth:3}]", r"depth"),
        ("smoke", r"'smoke' is not key=value, such as grid=smoke"),
        ("=3", r"'=3' is not key=value"),
        ("--fast", r"'--fast' is not key=value"),
        ("+grid.extra=1", r"is not key=value"),
        ("~grid", r"is not key=value"),
        ("++recipe.lr=1", r"is not key=value"),
        ("hydra.run.dir=/tmp/x", r"hydra\.run\.dir is not a key"),
        ("grid.seeds=range(3)", r"."),
    ],
)
def test_a_word_that_says_nothing_is_refused_by_name(word, message):
    with pytest.raises(UsageError, match=message) as refused:
        parse("plan", [word], EVERYTHING)
    assert "\n" not in str(refused.value)


def test_an_error_that_is_its_own_cause_is_told_too(monkeypatch):
    monkeypatch.setenv("OC_CAUSE", "1")  # as under a debugger or a coverage tracer
    with pytest.raises(UsageError, match="depth"):
        parse("plan", ["model.ladder=[{n_layer:1,d_model:8,n_head:1,depth:3}]"], EVERYTHING)


@pytest.mark.parametrize("verb", VERBS)
def test_a_key_that_a_verb_does_not_read_is_refused(verb):
    reads = VERBS[verb].reads
    for key in ("cell=x", "points=x", "plan.format=json", "cluster.workers=1", "recipe.lr=1"):
        name, top = key.split("=")[0], key.split(".")[0]
        if name in reads or f"{top}.*" in reads:
            continue
        with pytest.raises(UsageError, match=f"is not read by isoflop {verb}"):
            parse(verb, [key], reads)


@given(
    st.lists(st.text("abc-", min_size=1, max_size=6), min_size=1, max_size=6, unique=True),
    st.data(),
)
def test_an_id_is_found_by_itself_and_by_a_beginning_that_is_its_own(ids, data):
    wanted = data.draw(st.sampled_from(ids))
    assert find_one(wanted, ids) == wanted
    for end in range(1, len(wanted)):
        asked = wanted[:end]
        hits = [i for i in ids if i.startswith(asked) or i.rsplit("-", 1)[-1].startswith(asked)]
        if len(hits) == 1:
            assert find_one(asked, ids) == wanted
        elif asked not in ids:
            with pytest.raises(UsageError, match=f"names {len(hits)} cells"):
                find_one(asked, ids)


def test_near_words_are_suggested():
    assert nearest("lunch", VERBS)[0] == "launch"
    assert nearest("zzzzzz", VERBS) == []
