"""Sources, extra sets and their laws, from the command line to fits.json; and data that is wrong."""

import json
import math
import os
import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from helpers_cells import data_settings, tiny_cell, write_text
from helpers_cli import tiny_grid
from helpers_hf import make_tokenizer, some_documents, write_jsonl, write_parquet

from results.store import read_records
from sweep import data_cache
from sweep.arguments import parse
from sweep.batches import batch
from sweep.data import check_data, find_prepared, open_data, prepare_data
from sweep.data_columns import with_loss_of
from sweep.data_settings import DataSettings, SourceSettings, TextSet, mix_of
from sweep.errors import UsageError
from sweep.folder import SweepFolder, read_plan
from sweep.resolve import resolve
from sweep.shards import open_tokens
from sweep.verbs import VERBS


def quiet(_line: str) -> None:
    pass


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Make two sources, two extra sets and a tokenizer."""
    place = tmp_path_factory.mktemp("sets")
    one, two = (some_documents(place / f"t{i}", seed=i, size=120_000) for i in (1, 2))
    write_jsonl(place / "one.jsonl", one)
    write_parquet(place / "two.parquet", two, "body")
    write_text(place / "far", size=20_000, seed=7)
    make_tokenizer(place / "bpe", one + two)
    return place


def words_of(place, root, **changes) -> list[str]:
    """Words of a tiny sweep on a mixture, judged on two sets more."""
    sources = (
        f"[{{name:one,path:{place}/one.jsonl,weight:3}},"
        f"{{name:two,path:{place}/two.parquet,text_column:body,weight:1}}]"
    )
    sets = f"[{{name:far,path:{place}/far}},{{name:file,path:{place}/t1/one.txt}}]"
    words = tiny_grid(root, place, **changes)
    ours = {"data": "hf", "data.path": None, "data.tokenizer": place / "bpe"}
    kept = [w for w in words if w.partition("=")[0] not in ours]
    new = [f"{k}={v}" for k, v in ours.items() if v is not None]
    return [*kept, *new, f"data.sources={sources}", f"eval={sets}", "data.document_mask=true"]


def settings_of(place, root, *more: str) -> DataSettings:
    app = parse("plan", [*words_of(place, root), *more], VERBS["plan"].reads).app
    return resolve(app).data


@pytest.fixture(scope="module")
def prepared(place, tmp_path_factory):
    """Prepare them once; returns settings and the folder."""
    root = tmp_path_factory.mktemp("root")
    settings = settings_of(place, root)
    return settings, prepare_data(settings, root / ".data", quiet)


# opened data


def test_a_mixture_trains_on_its_shares_and_is_judged_on_each_source(prepared):
    settings, folder = prepared
    data = open_data(folder, settings, 32, verify=True)
    assert [h.name for h in data.validation] == ["one", "two"]
    assert [h.weight for h in data.validation] == [0.75, 0.25]
    assert [h.name for h in data.extra] == ["far", "file"]
    used = data.train.usage(0, 8000)
    assert sum(u.tokens for u in used) == 8000 * 32
    assert used[0].tokens / (8000 * 32) == pytest.approx(0.75, abs=0.01)
    rows = batch(data.train, 0, 5, 16)
    assert rows.shape == (16, 33)
    assert rows.max() < data.tokenizer.vocab_size == 320
    assert data.train.border == data.validation[0].rows.border == 0
    assert open_data(folder, replace(settings, document_mask=False), 32).train.border is None


def test_another_weight_needs_no_new_shards_and_is_another_cell(prepared, place, tmp_path):
    settings, folder = prepared
    heavier = (replace(settings.sources[0], weight=1.0), settings.sources[1])
    changed = replace(settings, sources=heavier)
    said = []
    assert prepare_data(changed, folder.parent, said.append) == folder
    assert said == []
    assert open_data(folder, changed, 32).sha256 == open_data(folder, settings, 32).sha256
    assert mix_of(settings) == "0.75 one@main + 0.25 two@main"
    assert mix_of(changed) == "0.5 one@main + 0.5 two@main"
    app = parse("plan", words_of(place, tmp_path), VERBS["plan"].reads).app
    ids = {c.id for c in resolve(app).grid.cells}
    app.data.sources[0].weight = 1.0
    assert ids.isdisjoint(c.id for c in resolve(app).grid.cells)


def test_settings_survive_the_frozen_plan(prepared, text_folder):
    settings, _ = prepared
    for s in (settings, data_settings(text_folder)):
        row = pd.DataFrame([s.to_columns()]).iloc[0].to_dict()
        assert DataSettings.from_columns(row) == s
        assert DataSettings.from_columns(s.to_columns()) == s
    old = {k: v for k, v in data_settings(text_folder).to_columns().items() if k[5:] in _OLD}
    assert DataSettings.from_columns(old) == data_settings(text_folder)


_OLD = (
    "source",
    "tokenizer",
    "path",
    "validation_share",
    "val_tokens",
    "eval_tokens",
    "max_epochs",
)


def test_one_source_is_as_the_same_text_alone(place, tmp_path):
    text = TextSet(name="one", path=str(place / "one.jsonl"))
    alone = replace(
        settings_of(place, tmp_path), sources=(SourceSettings(text=text),), evals=(),
        tokenizer="bytes256", document_mask=False,
    )  # fmt: skip
    data = open_data(prepare_data(alone, tmp_path, quiet), alone, 32)
    assert mix_of(alone) is None
    assert data.train.usage(0, 10)[0].name == "one"
    assert data.validation[0].weight == 1.0
    assert (data.tokenizer.name, data.tokenizer.vocab_size) == ("bytes256", 256)
    documents = (place / "one.jsonl").read_text()
    assert data.train.tokens[:50].tobytes().decode() in json.loads(documents.split("\n")[0])["text"]


def test_extra_sets_are_numbered_as_the_training_text(text_folder, tmp_path):
    """bytes128 has a table of its own for each text: an extra set must take the training text's."""
    extra = write_text(tmp_path / "extra", size=9000, seed=3)
    plain = data_settings(text_folder)
    asked = replace(plain, evals=(TextSet(name="extra", path=str(extra)),))
    folder = prepare_data(asked, tmp_path / "cache", quiet)
    data = open_data(folder, asked, 32, verify=True)
    alone = prepare_data(plain, tmp_path / "cache", quiet)
    base = open_tokens(alone)
    assert data.sha256 == base.sha256 == open_data(alone, plain, 32).sha256
    text = b"".join(p.read_bytes() + b"\0" for p in sorted(extra.iterdir()))
    table = np.array(base.manifest["token_of_byte"])
    tokens = data.extra[0].rows.tokens
    assert np.array_equal(tokens, table[np.frombuffer(text, np.uint8)])
    assert data.extra[0].bytes_of(np.array([0]), data.extra[0].rows.take(np.array([0]))) == [32]


# end to end


@pytest.fixture(scope="module")
def sweep(place, tmp_path_factory):
    """Train a tiny sweep through the command line."""
    from helpers_cli import isoflop

    root = tmp_path_factory.mktemp("sweep")
    done = isoflop("launch", *words_of(place, root, budgets="[4e8,8e8]"), f"data.cache={root}/node")
    assert done.returncode == 0, done.stdout + done.stderr
    done = isoflop("collect", f"root={root}", "sweep=tiny")
    assert done.returncode == 0, done.stderr
    return SweepFolder(root, "tiny")


def test_the_record_has_the_loss_of_every_set_and_what_each_source_gave(sweep):
    records = read_records(sweep.collected)
    assert set(records["status"]) == {"finished"}
    for _, r in records.iterrows():
        sets, sources = json.loads(r["val_sets"]), json.loads(r["sources"])
        assert {k: v["kind"] for k, v in sets.items()} == {
            "one": "source", "two": "source", "far": "extra", "file": "extra",
        }  # fmt: skip
        assert r["val_loss"] == 0.75 * sets["one"]["loss"] + 0.25 * sets["two"]["loss"]
        assert r["val_tokens"] == sets["one"]["tokens"] + sets["two"]["tokens"]
        assert all(0 < v["loss"] < math.log(320) + 1 and v["bpb"] > 0 for v in sets.values())
        assert sum(s["tokens"] for s in sources.values()) == r["tokens"]
        assert sum(s["unique_tokens"] for s in sources.values()) == r["unique_tokens"]
        assert sources["one"]["weight"] == 0.75
        assert r["data_mix"] == "0.75 one@main + 0.25 two@main"
        assert r["document_mask"]
        assert r["tokenizer"].startswith("bpe-")
        assert r["tokenizer_sha256"].startswith(r["tokenizer"].split("-")[1])


def test_shards_were_read_from_the_node_s_own_copy(sweep):
    copies = {p.name.split("-")[0] for p in (sweep.root / "node").iterdir() if p.is_dir()}
    assert copies == {"one", "two", "far", "file"}
    assert not [p for p in (sweep.root / "node").iterdir() if p.name.startswith(".copy")]


@pytest.mark.slow
def test_a_law_of_one_set_is_the_law_of_its_losses(sweep, command, tmp_path):
    """fit.loss=far equals a fit of a plain table that has those losses."""
    where = (f"root={sweep.root}", "sweep=tiny")
    assert command("fit", *where, "fit.loss=far", "fit.draws=50")[0] == 0
    ours = json.loads((sweep.path / "loss_far" / "fits.json").read_text())
    records = with_loss_of(read_records(sweep.collected), "far")
    table = pd.DataFrame({
        "N": records["N_flops"], "D": records["tokens"], "C": records["flops"],
        "budget": records["budget"], "size_id": records["size_id"], "loss": records["loss_far"],
    })  # fmt: skip
    table.to_csv(tmp_path / "far.csv", index=False)
    assert command("fit", f"points={tmp_path}/far.csv", f"out={tmp_path}", "fit.draws=50")[0] == 0
    theirs = json.loads((tmp_path / "fits.json").read_text())
    for name in ("E", "A", "B", "alpha", "beta", "objective"):
        assert ours["approach3"][name] == pytest.approx(theirs["approach3"][name], rel=1e-6)
    assert not sweep.fits.exists()  # the law of all sources has a file of its own
    assert command("fit", *where, "fit.draws=50")[0] == 0
    assert json.loads(sweep.fits.read_text())["approach3"]["E"] != ours["approach3"]["E"]
    code, out, _ = command("report", *where, "fit.loss=far")
    assert code == 0
    assert str(sweep.path / "loss_far" / "report" / "report.html") in out
    assert "on far" in (sweep.path / "loss_far" / "report" / "report.md").read_text()


def test_a_rerun_gives_the_recorded_losses_of_every_set(sweep, place, command, tmp_path):
    records = read_records(sweep.collected)
    cell = records["cell_id"][0]
    words = words_of(place, sweep.root, budgets="[4e8,8e8]")
    code, out, err = command("run", *words, f"cell={cell}")
    assert code == 0, err
    assert "equal to the bit" in out
    assert re.search(r"far: \d\.\d{6} ± \S+ nats/token, \d\.\d{4} ± \S+ bits/byte on 4,096", out)
    again = read_records(sweep.records)
    both = again.loc[again["cell_id"] == cell, "val_sets"].tolist()
    assert len(both) == 2
    assert both[0] == both[1]


# what is wrong is said


def test_a_set_that_was_not_trained_with_is_named(sweep, command):
    code, _, err = command("fit", f"root={sweep.root}", "sweep=tiny", "fit.loss=fra")
    assert code == 2
    assert "fit.loss=fra: no record has a set of that name; it may be far, file, one, two" in err
    code, _, err = command("report", f"root={sweep.root}", "sweep=tiny", "fit.loss=two")
    assert code == 2
    assert f"first: isoflop fit root={sweep.root} sweep=tiny fit.loss=two" in err


def test_records_that_lack_a_set_are_not_left_out_silently(sweep):
    records = read_records(sweep.collected)
    records.loc[0, "val_sets"] = None
    with pytest.raises(UsageError, match=f"1 finished cells lack the set .{records['cell_id'][0]}"):
        with_loss_of(records, "far")


def _sources(text: str) -> list[str]:
    return ["plan", "data=hf", "grid=smoke", "data.tokenizer=bytes256", f"data.sources={text}"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plan", "data=hf", "data.tokenizer=bytes256"], r"data=hf needs data\.path=FILE_OR_FOLDER"),
        (["plan", "data=hf", "data.path=x"], r"data\.tokenizer=bytes128 counts the bytes"),
        (["plan", "data=hf", "data.tokenizer=bytes256", "data.path=/no/file"], "does not exist"),
        (["plan", "data=hf", "data.tokenizer=bytes256", "data.path=x", "data.dataset=y"],
         r"needs one of path=FILE_OR_FOLDER and dataset=HUB_NAME"),
        (["plan", "data=hf", "data.tokenizer=bytes256", "data.path=x", "data.split=train"],
         r"data: hf: split is not read with path"),
        (["plan", "data=hf", "data.tokenizer=bytes256", "data.dataset=a/b"],
         r"dataset=a/b needs split=, such as train"),
        (["plan", "data=hf", "data.tokenizer=/no/folder", "data.path=x"],
         r"data\.tokenizer=/no/folder is no folder"),
        (["plan", "data=hf", "data.tokenizer=bytes256", "data.path=x",
          "data.tokenizer_revision=main"], r"data\.tokenizer_revision is not read with"),
        (["plan", "data.dataset=a/b"], r"data\.dataset is not read by data=english: add data=hf"),
        (["plan", "data.document_mask=maybe"], r"data\.document_mask"),
        (["plan", "data.workers=0"], r"data\.workers=0 must lie between 1 and 1024"),
        (_sources("[{name:a,path:x,weight:-1}]"), r"data\.sources\[0\]: a: weight=-1 must be positive"),
        (_sources("[{name:a,path:x},{name:a,path:y}]"), r"a names two of data\.sources and eval"),
        (_sources("[{name:'a b',path:x}]"), r"data\.sources\[0\]: name='a b' must be letters"),
        (_sources("[{name:a}]"), r"data\.sources\[0\]: a needs one of path"),
        ([*_sources("[{name:a,path:x}]"), "data.path=y"], r"data\.path is not read with data\.sources"),
        (["plan", "eval=[{name:a,path:x,dataset:y}]"], r"eval\[0\]: a needs one of path"),
        (["plan", "eval=[{name:a,path:/no/file}]"], r"/no/file does not exist"),
        (["fit", "points=x.csv", "out=o", "fit.loss=a"], r"fit\.loss chooses a set of a sweep"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_a_wrong_key_is_refused_in_one_line(command, words, message, tmp_path):
    code, out, err = command(*words)
    assert code == 2, (out, err)
    assert err.count("\n") == 1
    assert re.search(message, err)
    assert not list(tmp_path.iterdir())


def test_a_hub_that_cannot_be_reached_is_said_in_one_line(place, tmp_path):
    from helpers_cli import isoflop

    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    words = ["grid=smoke", "data=hf", f"root={tmp_path}/root"]
    done = isoflop("plan", *words, "data.path=x", "data.tokenizer=nobody/nothing", **offline)
    assert done.returncode == 2
    assert "data.tokenizer=nobody/nothing can't be had from the hub (" in done.stderr
    assert done.stderr.count("\n") == 1
    words += ["data.dataset=nobody/nothing", "data.split=train", "data.tokenizer=bytes256"]
    done = isoflop("prepare", *words, **offline)
    assert done.returncode == 2
    assert "dataset=nobody/nothing at revision main can't be had from the hub (" in done.stderr
    assert done.stderr.count("\n") == 1


def test_cells_of_another_tokenizer_or_a_smaller_vocabulary_are_refused(prepared):
    settings, folder = prepared
    data = open_data(folder, settings, 32)
    cell = tiny_cell()
    with pytest.raises(UsageError, match=r"is of tokenizer bytes128, and the shards are of bpe-"):
        check_data([cell], data, 1e9)
    ours = replace(cell, data=replace(cell.data, tokenizer=data.tokenizer.name))
    with pytest.raises(UsageError, match=r"has a vocabulary of 128 tokens, .* ids up to 319"):
        check_data([ours], data, 1e9)
    fits = replace(ours, model=replace(ours.model, vocab_size=320))
    check_data([fits], data, 1e9)
    with pytest.raises(UsageError, match=r"epochs of the [\d,]+ in data=one; .*max_epochs=0\.0001"):
        check_data([replace(fits, steps=4000)], data, 1e-4)


def test_shards_of_another_tokenizer_in_an_index_are_refused(prepared, place, tmp_path):
    settings, folder = prepared
    shutil.copytree(folder.parent, tmp_path / "cache")
    other = make_tokenizer(tmp_path / "other", ["quite another text"], vocab_size=300)
    changed = replace(settings, tokenizer=str(other))
    theirs = prepare_data(changed, tmp_path / "cache", quiet)
    index = json.loads((theirs / "manifest.json").read_text())
    ours = json.loads((folder / "manifest.json").read_text())
    for name in ("manifest.json", "train.bin", "validation.bin", "validation_bytes.bin"):
        source = tmp_path / "cache" / index["sources"]["two"] / name
        shutil.copy(source, tmp_path / "cache" / ours["sources"]["two"] / name)
    with pytest.raises(UsageError, match=r"two has shards of tokenizer other-.*one of bpe-"):
        open_data(tmp_path / "cache" / folder.name, settings, 32)


def test_a_row_longer_than_a_set_is_refused_by_its_name(prepared):
    settings, folder = prepared
    with pytest.raises(
        UsageError, match=r"data=one has [\d,]+ validation tokens, less than one row"
    ):
        open_data(folder, settings, 20_000)


def test_find_prepared_finds_what_prepare_made_and_builds_nothing(prepared, place, tmp_path):
    settings, folder = prepared
    assert find_prepared(settings, folder.parent) == folder
    assert find_prepared(settings, tmp_path) is None
    assert not list(tmp_path.iterdir())


# a node's own copy


def test_a_node_s_copy_is_whole_and_mended(prepared, tmp_path):
    settings, folder = prepared
    node = tmp_path / "node"
    plain = open_data(folder, settings, 32)
    data = open_data(folder, settings, 32, verify=True, node_cache=node)
    assert data.sha256 == plain.sha256
    assert str(node) in data.validation[0].rows.tokens.filename.as_posix()
    (copy,) = node.glob("two-*")
    written = (copy / "train.bin").stat().st_mtime_ns
    open_data(folder, settings, 32, node_cache=node)
    assert (copy / "train.bin").stat().st_mtime_ns == written  # not copied again
    raw = bytearray((copy / "train.bin").read_bytes())
    raw[100] ^= 1
    (copy / "train.bin").write_bytes(raw)
    again = open_data(folder, settings, 32, verify=True, node_cache=node)
    assert np.array_equal(again.train.parts[1].tokens, plain.train.parts[1].tokens)


def test_a_full_disk_leaves_no_half_copy(prepared, tmp_path, monkeypatch):
    settings, folder = prepared

    def full(source, target):
        os.makedirs(target)
        (target / "train.bin").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(data_cache.shutil, "copytree", full)
    with pytest.raises(
        UsageError, match=r"data\.cache=.*No space left on device.*with room for it"
    ):
        open_data(folder, settings, 32, node_cache=tmp_path / "node")
    assert [p.name for p in (tmp_path / "node").iterdir() if not p.name.endswith(".lock")] == []


def test_the_frozen_plan_keeps_sources_and_sets(sweep, prepared, place):
    for planned in read_plan(sweep):
        assert planned.data.sources == prepared[0].sources
        assert planned.data.evals == prepared[0].evals
        assert planned.cell.data.document_mask
        assert planned.cell.data.mix == "0.75 one@main + 0.25 two@main"
