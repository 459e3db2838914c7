"""data=hf: any dataset and any tokenizer to shards, by any number of processes, killed or not."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers_hf import END, make_tokenizer, some_documents, write_jsonl, write_parquet

from sweep import data_build, split
from sweep.data_build import BuildSpec, Stream, build
from sweep.data_documents import documents
from sweep.data_settings import TextSet
from sweep.data_tokenizer import byte_id, identify, load_encoder
from sweep.documents import DataError
from sweep.shards import open_tokens

REPO = Path(__file__).resolve().parents[1]


def quiet(_line: str) -> None:
    pass


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Return documents as they are in every file of these tests."""
    return some_documents(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory, texts):
    """Return a folder with a tokenizer."""
    return make_tokenizer(tmp_path_factory.mktemp("t") / "bpe", texts)


@pytest.fixture(scope="module")
def encoder(tokenizer, tmp_path_factory):
    """Load it once: transformers takes seconds to import."""
    return load_encoder(str(tokenizer), None, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def jsonl(texts, tmp_path_factory):
    """Return the documents as JSON lines."""
    return write_jsonl(tmp_path_factory.mktemp("j") / "a.jsonl", texts)


def spec_of(path: Path, encoder, held_out: float = 0.1, **text) -> BuildSpec:
    text_set = TextSet(name="books", path=str(path), **text)
    return BuildSpec("books", (Stream(text_set, held_out),), encoder.id.sha256)


# tokenizers


def test_a_tokenizer_is_told_from_its_files_as_transformers_tells_it(tokenizer, encoder, tmp_path):
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(tokenizer)
    found = identify(str(tokenizer), None, tmp_path)
    assert found == encoder.id
    assert (found.vocab_size, found.eod) == (len(theirs), theirs.eos_token_id) == (320, 0)
    assert found.name.startswith("bpe-")
    assert found.dtype == "uint16"


def test_identity_follows_the_files_and_not_the_folder(tokenizer, tmp_path):
    def copy(name: str, change: str = "") -> str:
        folder = tmp_path / name / "bpe"
        folder.mkdir(parents=True)
        for p in tokenizer.iterdir():
            (folder / p.name).write_text(p.read_text() + change)
        return str(folder)

    here = identify(str(tokenizer), None, tmp_path)
    assert identify(copy("same"), None, tmp_path) == here
    assert identify(copy("other", "\n"), None, tmp_path).name != here.name


def test_telling_a_tokenizer_imports_neither_torch_nor_transformers(tokenizer):
    code = (
        "import sys; from pathlib import Path; from sweep.data_tokenizer import identify\n"
        "identify(sys.argv[1], None, Path('/nowhere'))\n"
        "print(*sorted({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tokenizer], cwd=REPO, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.strip()) == (0, "")


def test_encoding_is_that_of_transformers(tokenizer, encoder, texts):
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(tokenizer)
    ours = encoder.encode([t.encode() for t in texts], count_bytes=True)
    expected = [i for t in texts for i in [*theirs(t, add_special_tokens=False)["input_ids"], 0]]
    assert ours.ids.tolist() == expected


def test_bytes_of_tokens_sum_to_each_text_and_ends_have_none(encoder, texts):
    odd = [*texts, "", " ", "\U0001f600" * 3, "a" * 5000, "\n\n naïve"]
    for text in odd:
        got = encoder.encode([text.encode()], count_bytes=True)
        assert got.n_bytes.sum() == len(text.encode())
        assert got.n_bytes[-1] == 0
        assert len(got.n_bytes) == len(got.ids)
        assert got.n_bytes.min() >= 0
    ascii_text = encoder.encode([b"the naive cat"], count_bytes=True)
    vocabulary = json.loads(encoder.pipeline)["model"]["vocab"]
    pieces = {i: piece for piece, i in vocabulary.items()}
    lengths = [len(pieces[i]) for i in ascii_text.ids[:-1].tolist()]
    assert ascii_text.n_bytes[:-1].tolist() == lengths  # byte-level: a character a byte


def test_bytes_that_are_no_utf8_are_counted_too(encoder):
    text = b"caf\xe9 and \xff\xff more"
    assert encoder.encode([text], count_bytes=True).n_bytes.sum() == len(text)


def test_dtype_is_the_narrowest_that_holds_every_id():
    one = byte_id("bytes256", tuple(range(256)))
    widths = {256: "uint8", 257: "uint16", 65_536: "uint16", 65_537: "uint32", 2**32: "uint32"}
    assert {n: replace(one, vocab_size=n).dtype for n in widths} == widths


@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        ("/no/such/folder", None, "is no folder: name one with a tokenizer.json"),
        ("EMPTY", None, r"no tokenizer\.json in"),
        ("TOKENIZER", "main", "tokenizer_revision is not read with a folder"),
        ("NO_EOS", None, "has no eos_token, which ends documents"),
        ("DAMAGED", None, "is damaged"),
    ],
)
def test_a_tokenizer_that_cannot_be_used_is_refused(name, revision, message, tokenizer, tmp_path):
    if name == "NO_EOS":
        make_tokenizer(tmp_path / name, ["some text"], eos=False)
    elif name == "DAMAGED":
        make_tokenizer(tmp_path / name, ["some text"])
        (tmp_path / name / "tokenizer.json").write_text("{")
    elif name == "EMPTY":
        (tmp_path / name).mkdir()
    place = {"TOKENIZER": tokenizer}.get(name, tmp_path / name if name.isupper() else name)
    with pytest.raises(DataError, match=message) as e:
        identify(str(place), revision, tmp_path)
    assert "\n" not in str(e.value)


def test_a_tokenizer_that_transformers_reads_otherwise_is_refused(tmp_path):
    folder = make_tokenizer(tmp_path / "t", ["some text"])
    whole = json.loads((folder / "tokenizer.json").read_text())
    whole["added_tokens"] = []  # transformers adds the eos_token anew, with an id of its own
    del whole["model"]["vocab"][END]
    whole["model"]["vocab"]["end"] = 0
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "new"})
    )
    (folder / "config.json").write_text(json.dumps({"eos_token_id": 0}))
    with pytest.raises(DataError, match=r"its files say .* transformers says .*save_pretrained"):
        load_encoder(str(folder), None, tmp_path)


def test_the_end_of_document_is_found_where_gpt2_has_it(tmp_path):
    folder = make_tokenizer(tmp_path / "gpt2", ["some text"], eos=False)
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 1024}')
    (folder / "config.json").write_text('{"model_type": "gpt2", "eos_token_id": 0}')
    assert load_encoder(str(folder), None, tmp_path).id.eod == 0


# documents


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "folder of parquet", "text folder", "file"])
def test_documents_are_read_from_any_local_files(kind, texts, tmp_path):
    if kind == "jsonl":
        text = TextSet(name="a", path=str(write_jsonl(tmp_path / "x.jsonl", texts)))
    elif kind == "parquet":
        path = write_parquet(tmp_path / "x.parquet", texts, "body")
        text = TextSet(name="a", path=str(path), text_column="body")
    elif kind == "folder of parquet":
        write_parquet(tmp_path / "d" / "1.parquet", texts[:10])
        write_parquet(tmp_path / "d" / "2.parquet", texts[10:])
        (tmp_path / "d" / "README.md").write_text("not data")
        text = TextSet(name="a", path=str(tmp_path / "d"))
    elif kind == "text folder":
        (tmp_path / "d").mkdir()
        for i, t in enumerate(texts):
            (tmp_path / "d" / f"{i:04}.txt").write_bytes(t.encode())
        text = TextSet(name="a", path=str(tmp_path / "d"))
    else:
        (tmp_path / "one.txt").write_bytes(texts[0].encode())
        text, texts = TextSet(name="a", path=str(tmp_path / "one.txt")), texts[:1]
    expected = [t.encode() for t in texts]
    assert list(documents(text, "main")) == expected
    assert list(documents(text, "main", skip=1)) == expected[1:]


def test_a_dataset_of_the_hub_is_read_by_split(texts, tmp_path):
    """A folder laid out as a hub dataset is, which `datasets` opens by the same call."""
    write_jsonl(tmp_path / "data" / "train.jsonl", texts[:5])
    write_jsonl(tmp_path / "data" / "test.jsonl", texts[5:7])
    text = TextSet(name="a", dataset=str(tmp_path), split="test")
    assert list(documents(text, "main")) == [t.encode() for t in texts[5:7]]
    with pytest.raises(DataError, match="a: datasets can't open it"):
        list(documents(replace(text, split="tset"), "main"))


@pytest.mark.parametrize("packed", [".gz", ".bz2", ".xz"])
def test_packed_json_lines_are_read(packed, texts, tmp_path):
    import bz2
    import gzip
    import lzma

    pack = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}[packed]
    plain = write_jsonl(tmp_path / "plain.jsonl", texts[:5]).read_bytes()
    path = tmp_path / f"a.jsonl{packed}"
    path.write_bytes(pack(plain))
    expected = [t.encode() for t in texts[:5]]
    assert list(documents(TextSet(name="a", path=str(path)), "main")) == expected


@pytest.mark.parametrize(
    ("content", "column", "message"),
    [
        ('{"text": "a"}\n', "body", "has no column 'body' .it has text"),
        ('{"text": 5}\n', "text", "row 0 has int in column 'text', not text"),
        ('{"text": "a"}\n{"text": \n', "text", "can't read row"),
    ],
)
def test_a_row_without_text_is_named(content, column, message, tmp_path):
    (tmp_path / "a.jsonl").write_text(content)
    text = TextSet(name="books", path=str(tmp_path / "a.jsonl"), text_column=column)
    with pytest.raises(DataError, match=f"books.*{message}") as e:
        list(documents(text, "main"))
    assert "\n" not in str(e.value)


def test_a_folder_of_two_formats_is_refused(tmp_path, texts):
    write_parquet(tmp_path / "a.parquet", texts)
    write_jsonl(tmp_path / "b.jsonl", texts)
    with pytest.raises(DataError, match="holds json and parquet: name one"):
        list(documents(TextSet(name="a", path=str(tmp_path)), "main"))


# shards


def test_shards_hold_the_documents_and_say_where_they_are_from(jsonl, encoder, texts, tmp_path):
    spec = spec_of(jsonl, encoder)
    tokens = open_tokens(build(spec, lambda: encoder, tmp_path, quiet), verify=True)
    assert tokens.train.dtype == tokens.validation.dtype == np.uint16
    assert tokens.manifest["tokenizer"]["sha256"] == encoder.id.sha256
    assert tokens.manifest["counts"]["documents"] == len(texts)
    assert tokens.largest_id < tokens.vocab_size == 320
    whole = encoder.encode([t.encode() for t in texts], count_bytes=False).ids
    held_share = len(tokens.validation) / (len(tokens.train) + len(tokens.validation))
    assert 0.02 < held_share < 0.25
    gaps = tokens.manifest["shards"]["train"]["stretches"] * (2 * split.GAP_BYTES)
    assert len(whole) - gaps <= len(tokens.train) + len(tokens.validation) <= len(whole) * 1.1
    assert tokens.validation_bytes.sum() == tokens.manifest["shards"]["validation"]["bytes"]
    assert np.all(tokens.validation_bytes[tokens.validation == tokens.eod] == 0)


def test_the_split_keeps_equal_documents_on_one_side(encoder, texts, tmp_path):
    once = [t.encode() for t in texts]
    for document in once:
        parts = [split.hold_out(document, 0.3) for _ in range(2)]
        assert parts[0] == parts[1]
    held = sum(s.end - s.start for t in once for s in split.hold_out(t, 0.3) if s.validation)
    assert 0.1 < held / sum(map(len, once)) < 0.5
    assert all(s.validation for t in once for s in split.hold_out(t, 1.0))
    assert not any(s.validation for t in once for s in split.hold_out(t, 0.0))


def test_any_number_of_processes_makes_the_same_bytes(jsonl, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(data_build, "_CHUNK_BYTES", 4096)
    spec = spec_of(jsonl, encoder)
    manifests = [
        open_tokens(build(spec, lambda: encoder, tmp_path / str(n), quiet, workers=n)).manifest
        for n in (1, 3)
    ]
    assert manifests[0] == manifests[1]


def test_a_build_goes_on_where_it_was_stopped(jsonl, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(data_build, "_CHUNK_BYTES", 2048)
    monkeypatch.setattr(data_build, "_NOTE_SECONDS", 0.0)
    spec, said = spec_of(jsonl, encoder), []
    whole = open_tokens(build(spec, lambda: encoder, tmp_path / "whole", quiet)).manifest
    plain, calls = data_build._write, []

    def stops(*args):
        calls.append(1)
        if len(calls) in (3, 9):
            args[0]["train"].write(b"half a chunk")
            raise KeyboardInterrupt
        plain(*args)

    monkeypatch.setattr(data_build, "_write", stops)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            build(spec, lambda: encoder, tmp_path, said.append)
        assert not (tmp_path / spec.folder_name).exists()
    found = open_tokens(build(spec, lambda: encoder, tmp_path, said.append), verify=True)
    assert found.manifest == whole
    assert sum("going on with books" in line for line in said) == 2
    assert not list(tmp_path.glob(".part-*"))


@pytest.mark.parametrize("stops_at", [2, 9, 16])
def test_a_validation_split_of_its_own_is_judged_on_whole(
    stops_at, encoder, texts, tmp_path, monkeypatch
):
    monkeypatch.setattr(data_build, "_CHUNK_BYTES", 2048)
    monkeypatch.setattr(data_build, "_NOTE_SECONDS", 0.0)
    train = TextSet(name="a", path=str(write_jsonl(tmp_path / "train.jsonl", texts[:-20])))
    held = TextSet(name="a", path=str(write_jsonl(tmp_path / "test.jsonl", texts[-20:])))
    spec = BuildSpec("a", (Stream(train, 0.0), Stream(held, 1.0)), encoder.id.sha256)
    plain, calls = data_build._write, []

    def stops(*args):
        calls.append(1)
        if len(calls) == stops_at:
            raise KeyboardInterrupt
        plain(*args)

    monkeypatch.setattr(data_build, "_write", stops)
    with pytest.raises(KeyboardInterrupt):
        build(spec, lambda: encoder, tmp_path, quiet, workers=1)
    tokens = open_tokens(build(spec, lambda: encoder, tmp_path, quiet), verify=True)
    for shard, part in ((tokens.train, texts[:-20]), (tokens.validation, texts[-20:])):
        expected = encoder.encode([t.encode() for t in part], count_bytes=False).ids
        assert np.array_equal(shard, expected)


_CHILD = (
    "import sys; from pathlib import Path\n"
    "from sweep import data_build; from sweep.data_build import BuildSpec, Stream, build\n"
    "from sweep.data_settings import TextSet; from sweep.data_tokenizer import load_encoder\n"
    "data_build._CHUNK_BYTES, data_build._NOTE_SECONDS = 16_384, 0.05\n"
    "cache = Path(sys.argv[2]); encoder = load_encoder('bytes256', None, cache)\n"
    "text = TextSet(name='books', path=sys.argv[1])\n"
    "spec = BuildSpec('books', (Stream(text, .1),), encoder.id.sha256)\n"
    "print('start', flush=True); build(spec, lambda: encoder, cache, print); print('end', flush=True)"
)


def start_build(path: Path, cache: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", _CHILD, str(path), str(cache)]
    return subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def large(texts, tmp_path_factory):
    """Return enough text for a build that can be caught in the middle."""
    return write_jsonl(tmp_path_factory.mktemp("l") / "a.jsonl", texts * 60)


def test_killed_at_any_moment_leaves_nothing_wrong(large, tmp_path):
    encoder = load_encoder("bytes256", None, tmp_path)
    spec, cache = spec_of(large, encoder), tmp_path / "cache"
    began = time.monotonic()
    whole = open_tokens(build(spec, lambda: encoder, tmp_path / "undisturbed", quiet)).manifest
    seconds = time.monotonic() - began
    killed = 0
    for moment in (0.3, 0.5, 0.7):
        with start_build(large, cache) as child:
            child.stdout.readline()
            time.sleep(0.5 + moment * seconds)
            child.send_signal(signal.SIGKILL)
        killed += child.returncode == -signal.SIGKILL
        if (cache / spec.folder_name).exists():
            assert open_tokens(cache / spec.folder_name, verify=True).manifest == whole
    assert killed
    assert open_tokens(build(spec, lambda: encoder, cache, quiet), verify=True).manifest == whole


def test_two_at_once_build_once(large, tmp_path):
    children = [start_build(large, tmp_path) for _ in range(2)]
    said = [child.communicate()[0] for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert sum("prepared books" in text for text in said) == 1
    assert sum("waiting for another prepare" in text for text in said) <= 1


@pytest.mark.parametrize("name", ["train.bin", "validation.bin", "validation_bytes.bin"])
def test_a_flipped_byte_is_found_and_mended(jsonl, encoder, tmp_path, name):
    spec, said = spec_of(jsonl, encoder), []
    path = build(spec, lambda: encoder, tmp_path, quiet)
    before = open_tokens(path, verify=True).manifest
    raw = bytearray((path / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (path / name).write_bytes(raw)
    with pytest.raises(DataError, match=f"shard {name} does not match its checksum: rebuild it"):
        open_tokens(path, verify=True)
    build(spec, lambda: encoder, tmp_path, said.append)
    assert "building again" in said[0]
    assert open_tokens(path, verify=True).manifest == before


def test_a_shard_cut_short_is_found_without_reading_it(jsonl, encoder, tmp_path):
    path = build(spec_of(jsonl, encoder), lambda: encoder, tmp_path, quiet)
    os.truncate(path / "train.bin", (path / "train.bin").stat().st_size - 1)
    with pytest.raises(DataError, match=r"shard train\.bin is cut short: rebuild it"):
        open_tokens(path)


def test_changed_files_are_other_data(encoder, texts, tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", texts)
    before = spec_of(path, encoder).folder_name
    assert spec_of(path, encoder).folder_name == before
    assert spec_of(path, encoder, held_out=0.2).folder_name != before
    write_jsonl(path, texts[1:])
    assert spec_of(path, encoder).folder_name != before


def test_empty_and_binary_documents_are_left_out_and_counted(encoder, texts, tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [*texts, "", "a\0b", ""])
    said = []
    tokens = open_tokens(build(spec_of(path, encoder), lambda: encoder, tmp_path, said.append))
    assert tokens.manifest["counts"] == {"documents": len(texts), "empty": 2, "binary": 1}
    assert "2 empty left out, 1 binary left out" in said[-1]


def test_too_little_text_is_refused_and_nothing_is_left(encoder, tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", ["one short text"])
    with pytest.raises(DataError, match="too little for what is asked of it: give it more text"):
        build(spec_of(path, encoder), lambda: encoder, tmp_path, quiet)
    assert [p.name for p in tmp_path.glob("*books*") if p.is_dir()] == []


def test_a_corpus_is_never_all_in_memory(encoder, texts, tmp_path, monkeypatch):
    """Documents that are read and not yet written never exceed the bounded queue."""
    monkeypatch.setattr(data_build, "_CHUNK_BYTES", 2048)
    path = write_jsonl(tmp_path / "a.jsonl", texts[:-1] * 8)  # without the long one
    held = {"now": 0, "most": 0}
    plain_documents, plain_write = data_build.documents, data_build._write

    def counted(*args, **kwargs):
        for text in plain_documents(*args, **kwargs):
            held["now"] += len(text)
            held["most"] = max(held["most"], held["now"])
            yield text

    def written(files, dtype, progress, chunk, got):
        held["now"] -= chunk.n_bytes
        plain_write(files, dtype, progress, chunk, got)

    monkeypatch.setattr(data_build, "documents", counted)
    monkeypatch.setattr(data_build, "_write", written)
    build(spec_of(path, encoder), lambda: encoder, tmp_path, quiet, workers=2)
    longest = max(len(t.encode()) for t in texts[:-1])
    assert held["most"] < 9 * (2048 + longest) < path.stat().st_size / 3
    assert math.isclose(held["now"], 0)
