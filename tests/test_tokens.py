"""Any folder of files to shards: what is read, how it is split, what survives kills and damage."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweep import split
from sweep.tokens import DataError, DataSpec, open_tokens, prepare, revision_of, vocabulary

REPO = Path(__file__).resolve().parents[1]
LETTERS = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz    \n.", np.uint8)


def random_text(size: int, seed: int) -> bytes:
    """Text in which no 64 bytes occur twice."""
    return np.random.default_rng(seed).choice(LETTERS, size).tobytes()


def write_folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def folder_spec(folder: Path, tokenizer: str = "bytes256", share: float = 0.06) -> DataSpec:
    path = str(folder)
    return DataSpec("text_folder", revision_of("text_folder", path), tokenizer, path, share)


def quiet(_line: str) -> None:
    pass


def stretches_of(shard: np.ndarray, eod: int = 0) -> list[bytes]:
    assert shard[-1] == eod
    return shard.tobytes()[:-1].split(bytes([eod]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Write a few text files of unlike sizes, some in a folder within."""
    sizes = {"a.txt": 90_000, "b.md": 700, "in/c.txt": 40_000, "in/d.py": 5000, "e": 60_000}
    files = {name: random_text(size, seed) for seed, (name, size) in enumerate(sizes.items())}
    return write_folder(tmp_path_factory.mktemp("text"), files)


# what is read


def test_tokens_are_the_bytes_of_the_files_and_nothing_else(folder, tmp_path):
    tokens = open_tokens(prepare(folder_spec(folder), tmp_path, quiet), verify=True)
    files = {p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    held = stretches_of(tokens.validation)
    for stretch in stretches_of(tokens.train) + held:
        assert sum(stretch in text for text in files) == 1
    total = sum(map(len, files))
    gaps = 2 * len(held) * (split.GAP_BYTES + split.REACH_BYTES)
    assert total - gaps <= sum(map(len, stretches_of(tokens.train) + held)) <= total
    assert (tokens.vocab_size, tokens.eod) == (256, 0)
    assert tokens.manifest["source"]["counts"]["documents"] == len(files)


def test_bytes128_is_a_relabelling_of_bytes256(folder, tmp_path):
    plain = open_tokens(prepare(folder_spec(folder), tmp_path, quiet))
    mapped = open_tokens(prepare(folder_spec(folder, "bytes128"), tmp_path, quiet))
    table = np.array(mapped.manifest["token_of_byte"])
    assert np.array_equal(mapped.train, table[plain.train])
    assert np.array_equal(mapped.validation, table[plain.validation])
    assert (mapped.vocab_size, mapped.eod) == (128, 127)
    assert mapped.bytes_of(mapped.validation) == plain.bytes_of(plain.validation)
    assert mapped.bytes_of(mapped.validation) == mapped.manifest["shards"]["validation"]["bytes"]
    assert mapped.sha256 != plain.sha256


@given(st.lists(st.integers(0, 5), min_size=256, max_size=256))
def test_bytes128_keeps_the_commonest_bytes(counts):
    table = vocabulary("bytes128", np.array(counts))
    ranked = sorted(range(1, 256), key=lambda byte: (-counts[byte], byte))
    assert table[ranked].tolist() == [*range(126), *[126] * 129]
    assert table[0] == 127


def test_the_share_of_other_bytes_is_stated(tmp_path):
    rare = "".join(map(chr, range(0x100, 0x180))) * 20  # 128 characters of 2 bytes: 66 byte values
    text = bytes(range(1, 128)) * 300 + random_text(40_000, 9)
    folder = write_folder(tmp_path / "f", {"a": text, "b": rare.encode()})
    plain = open_tokens(prepare(folder_spec(folder, share=0.3), tmp_path, quiet))
    mapped = open_tokens(prepare(folder_spec(folder, "bytes128", 0.3), tmp_path, quiet))
    for name, shard in (("train", mapped.train), ("validation", mapped.validation)):
        facts = mapped.manifest["shards"][name]
        assert facts["other_share"] == np.count_nonzero(shard == 126) / facts["bytes"]
    assert mapped.manifest["shards"]["train"]["other_share"] > 0
    assert mapped.bytes_of(mapped.train) == plain.bytes_of(plain.train)


def test_hidden_linked_binary_empty_and_repeated_files_are_left_out_and_counted(tmp_path, folder):
    text = (folder / "a.txt").read_bytes()
    messy = write_folder(
        tmp_path / "messy",
        {
            "a.txt": text,
            ".hidden": random_text(50_000, 50),
            ".git/config": random_text(50_000, 51),
            "copy.txt": text,
            "empty": b"",
            "nul.bin": text[:500] + b"\0" + text[:500],
            "latin.bin": bytes(range(128, 256)) * 100,
        },
    )
    (messy / "link.txt").symlink_to(folder / "e")
    (messy / "linked").symlink_to(folder / "in", target_is_directory=True)
    said = []
    tokens = open_tokens(prepare(folder_spec(messy), tmp_path, said.append))
    alone = write_folder(tmp_path / "alone", {"a.txt": text})
    only = open_tokens(prepare(folder_spec(alone), tmp_path, quiet))
    assert set(stretches_of(tokens.train)) <= {text[i:j] for i, j in _found(tokens.train, text)}
    assert len(tokens.train) + len(tokens.validation) > 0.9 * len(only.train)
    assert tokens.manifest["source"]["counts"] == {
        "documents": 1, "hidden": 2, "links": 2, "empty": 1, "duplicate": 1, "binary": 2,
    }  # fmt: skip
    assert "files left out: 2 hidden, 2 links, 1 duplicate, 1 empty, 2 binary" in said[-1]


def _found(shard: np.ndarray, text: bytes) -> list[tuple[int, int]]:
    return [(i := text.find(s), i + len(s)) for s in stretches_of(shard)]


def test_a_few_bytes_that_are_not_utf8_do_not_make_a_file_binary(tmp_path):
    text = random_text(60_000, 1).replace(b"q", "\xe9".encode("latin-1"))
    folder = write_folder(tmp_path / "f", {"a": text})
    tokens = open_tokens(prepare(folder_spec(folder), tmp_path, quiet))
    assert np.count_nonzero(tokens.train == 0xE9) > 1000


@pytest.mark.parametrize(
    "name", ["with space", "a=b", "~tilde", "a,b", "(1) x.d", "quote'\"", "ünï", "[x]", "-v"]
)
def test_a_folder_may_have_any_name(tmp_path, name):
    folder = write_folder(tmp_path / name, {f"{name}/{name}.txt": random_text(60_000, 1)})
    tokens = open_tokens(prepare(folder_spec(folder), tmp_path / f"cache {name}", quiet))
    assert len(tokens.train) > 50_000


def test_home_is_understood(tmp_path, monkeypatch):
    write_folder(tmp_path / "books", {"a": random_text(60_000, 1)})
    monkeypatch.setenv("HOME", str(tmp_path))
    spec = folder_spec(Path("~/books"))
    assert spec.revision == revision_of("text_folder", str(tmp_path / "books"))
    prepare(spec, tmp_path / "cache", quiet)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no files"),
        ({".hidden/a": b"x"}, "has no files .left out: 1 hidden"),
        ({"a": b""}, "has no text: its files are empty"),
        ({"a.bin": b"x\0y", "b.bin": b"\xff" * 9}, "has no text: binary .*'a.bin', 'b.bin'"),
        ({"a": b"short"}, "too little to cut in training and validation"),
    ],
)
def test_a_folder_without_enough_text_is_refused(tmp_path, files, message):
    folder = write_folder(tmp_path / "f", files)
    folder.mkdir(exist_ok=True)
    with pytest.raises(DataError, match=message) as e:
        prepare(folder_spec(folder), tmp_path / "cache", quiet)
    assert "\n" not in str(e.value)
    assert not list((tmp_path / "cache").glob("text_folder-*"))


def test_many_binary_files_are_not_all_named(tmp_path):
    folder = write_folder(tmp_path / "f", {f"{i:02}.bin": b"\0" for i in range(30)})
    with pytest.raises(DataError, match=r"'04\.bin' and 25 more$"):
        prepare(folder_spec(folder), tmp_path / "cache", quiet)


def test_a_missing_folder_and_a_file_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"data\.path=.*gone does not exist"):
        revision_of("text_folder", str(tmp_path / "gone"))
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="is a file, not a folder"):
        revision_of("text_folder", str(tmp_path / "file"))


def test_what_is_no_plain_file_is_not_waited_for(tmp_path):
    folder = write_folder(tmp_path / "f", {"a": b"x"})
    before = folder_spec(folder).revision
    os.mkfifo(folder / "pipe")
    assert folder_spec(folder).revision == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_an_unreadable_file_is_named(tmp_path):
    folder = write_folder(tmp_path / "f", {"a": b"x"})
    (folder / "a").chmod(0)
    with pytest.raises(DataError, match=r"can't read .*/a \(Permission denied\)"):
        folder_spec(folder)


# revision and spec


def test_revision_follows_names_and_contents_only(tmp_path):
    one = write_folder(tmp_path / "1", {"a": b"x", "b/c": b"y"})
    same = write_folder(tmp_path / "2", {"b/c": b"y", "a": b"x", ".new": b"z"})
    others = [{"a": b"x", "b/c": b"z"}, {"a": b"x", "b/d": b"y"}, {"a": b"x"}, {"a": b"xy"}]
    revision = revision_of("text_folder", str(one))
    assert revision == revision_of("text_folder", str(same))
    for i, files in enumerate(others):
        other = write_folder(tmp_path / f"other{i}", files)
        assert revision != revision_of("text_folder", str(other))


def test_a_folder_that_changed_since_it_was_planned_is_refused(tmp_path):
    folder = write_folder(tmp_path / "f", {"a": random_text(60_000, 1)})
    spec = folder_spec(folder)
    (folder / "a").write_bytes(random_text(60_000, 2))
    with pytest.raises(DataError, match=f"changed since its revision {spec.revision}"):
        prepare(spec, tmp_path / "cache", quiet)


def test_the_same_text_elsewhere_is_the_same_data(folder, tmp_path):
    files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    moved = write_folder(tmp_path / "moved", files)
    here, there = folder_spec(folder), folder_spec(moved)
    assert here.folder_name == there.folder_name
    one = open_tokens(prepare(here, tmp_path / "1", quiet))
    other = open_tokens(prepare(there, tmp_path / "2", quiet))
    assert one.sha256 == other.sha256
    assert here.folder_name != folder_spec(folder, share=0.07).folder_name
    assert here.folder_name != folder_spec(folder, "bytes128").folder_name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "englsh"}, "data.name=englsh: one of english, text_folder"),
        ({"tokenizer": "bpe"}, "data.tokenizer=bpe: one of bytes256, bytes128"),
        ({"validation_share": 0.0}, "data.validation_share=0.0: between 0 and 1"),
        ({"validation_share": 1.0}, "between 0 and 1"),
        ({"validation_share": float("nan")}, "between 0 and 1"),
        ({"path": "x"}, "goes with data=text_folder"),
        ({"name": "text_folder"}, "goes with data=text_folder"),
    ],
)
def test_a_wrong_spec_is_refused(changes, message):
    with pytest.raises(DataError, match=message):
        DataSpec(**{"name": "english", "revision": "r", "tokenizer": "bytes256", **changes})


# split


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 999), share=st.floats(0.05, 0.5), files=st.integers(1, 5))
def test_no_training_text_is_in_validation(tmp_path_factory, seed, share, files):
    """Looked for byte by byte in the shards themselves, in text that does not repeat itself."""
    root = tmp_path_factory.mktemp("split")
    texts = {f"{i}.txt": random_text(30_000, 10 * seed + i) for i in range(files)}
    spec = folder_spec(write_folder(root / "text", texts), share=share)
    tokens = open_tokens(prepare(spec, root / "cache", quiet))
    windows = windows_of(tokens.validation.tobytes())
    assert windows
    assert windows.isdisjoint(windows_of(tokens.train.tobytes()))
    assert tokens.manifest["validation_windows_in_training"] == 0
    for text in texts.values():
        held = [s for s in _found(tokens.validation, text) if s[0] >= 0]
        kept = [s for s in _found(tokens.train, text) if s[0] >= 0]
        for start, end in held:
            assert all(e <= start - split.GAP_BYTES or s >= end + split.GAP_BYTES for s, e in kept)


def windows_of(shard: bytes, width: int = 64) -> set[bytes]:
    found = (shard[i : i + width] for i in range(len(shard) - width + 1))
    return {w for w in found if b"\0" not in w}


def test_text_in_both_parts_is_said(tmp_path):
    page = random_text(3000, 1)
    folder = write_folder(tmp_path / "f", {"a": page * 30})
    said = []
    tokens = open_tokens(prepare(folder_spec(folder), tmp_path, said.append))
    assert tokens.manifest["validation_windows_in_training"] == 1.0
    assert "100.00% of validation's 64-byte windows are in training too" in said[-1]


# damage, kills, company


def test_preparing_again_does_nothing(folder, tmp_path):
    said = []
    one = prepare(folder_spec(folder), tmp_path, said.append)
    written = [(p, p.stat().st_mtime_ns) for p in sorted(one.iterdir())]
    lines = len(said)
    assert prepare(folder_spec(folder), tmp_path, said.append) == one
    assert [(p, p.stat().st_mtime_ns) for p in sorted(one.iterdir())] == written
    assert len(said) == lines
    assert [p.name for p, _ in written] == ["manifest.json", "train.bin", "validation.bin"]


@pytest.mark.parametrize("name", ["train.bin", "validation.bin"])
def test_a_flipped_byte_is_found_and_mended(folder, tmp_path, name):
    spec, said = folder_spec(folder), []
    path = prepare(spec, tmp_path, quiet)
    before = open_tokens(path, verify=True).sha256
    shard = np.memmap(path / name, dtype=np.uint8, mode="r+")
    shard[len(shard) // 2] ^= 1
    shard.flush()
    with pytest.raises(DataError, match=f"shard {name} does not match its checksum: rebuild it"):
        open_tokens(path, verify=True)
    prepare(spec, tmp_path, said.append)
    assert "building again" in said[0]
    assert open_tokens(path, verify=True).sha256 == before
    prepare(folder_spec(folder, share=0.1), tmp_path, quiet)  # clears what was damaged away
    assert not list(tmp_path.glob(".build-*"))


def _cut_short(path):
    os.truncate(path / "train.bin", 1000)


def _remove_shard(path):
    (path / "validation.bin").unlink()


def _cut_manifest(path):
    os.truncate(path / "manifest.json", 100)


def _empty_manifest(path):
    (path / "manifest.json").write_text("[]")


def _edit_manifest(path):
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["eod"] = 1
    (path / "manifest.json").write_text(json.dumps(manifest))


def _older_schema(path):
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "schema": 0}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_cut_short, "shard train.bin is cut short"),
        (_remove_shard, "shard validation.bin is cut short"),
        (_cut_manifest, "is damaged"),
        (_empty_manifest, "schema None"),
        (_edit_manifest, "was changed since it was written"),
        (_older_schema, "has schema 0, this code reads 1"),
    ],
)
def test_damage_is_named_without_reading_every_byte(folder, tmp_path, damage, message):
    path = prepare(folder_spec(folder), tmp_path, quiet)
    before = open_tokens(path).sha256
    damage(path)
    with pytest.raises(DataError, match=f"{message}.*: rebuild it with isoflop prepare"):
        open_tokens(path)
    assert open_tokens(prepare(folder_spec(folder), tmp_path, quiet)).sha256 == before


def test_what_was_never_prepared_says_what_to_type(tmp_path):
    with pytest.raises(DataError, match="no prepared data: type isoflop prepare first"):
        open_tokens(tmp_path / "gone")


def test_a_cache_that_cannot_be_written_is_named(folder, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"can't write prepared data: .*file"):
        prepare(folder_spec(folder), tmp_path / "file", quiet)
    with pytest.raises(DataError, match=r"can't write prepared data: .*file"):
        prepare(folder_spec(folder), tmp_path / "file" / "cache", quiet)


def start_prepare(folder: Path, cache: Path) -> subprocess.Popen:
    code = (
        "import sys; from pathlib import Path; from sweep.tokens import *\n"
        "path, cache = sys.argv[1], Path(sys.argv[2])\n"
        "spec = DataSpec('text_folder', revision_of('text_folder', path), 'bytes128', path)\n"
        "print('start', flush=True); prepare(spec, cache); print('end', flush=True)"
    )
    command = [sys.executable, "-c", code, str(folder), str(cache)]
    return subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_killed_at_any_moment_leaves_nothing_wrong(tmp_path):
    files = {f"{i}.txt": random_text(400_000, i) for i in range(8)}
    folder, cache = write_folder(tmp_path / "f", files), tmp_path / "cache"
    spec = folder_spec(folder, "bytes128")
    whole = open_tokens(prepare(spec, tmp_path / "undisturbed", quiet)).sha256
    with start_prepare(folder, tmp_path / "timed") as child:
        child.stdout.readline()
        began = time.monotonic()
        child.communicate()
    seconds = time.monotonic() - began
    killed = 0
    for i, moment in enumerate(np.tile(np.linspace(0.05, 0.95, 10), 3)):
        with start_prepare(folder, cache) as child:
            child.stdout.readline()
            time.sleep(moment * seconds)
            child.send_signal(signal.SIGKILL)
        if child.returncode == -signal.SIGKILL:
            killed += 1
        else:
            seconds *= 0.8  # the machine was busier when it was timed
        if (cache / spec.folder_name).exists():
            assert open_tokens(cache / spec.folder_name, verify=True).sha256 == whole
            (cache / spec.folder_name).rename(cache / f"whole-{i}")
        if killed == 9:
            break
    assert killed >= 5
    assert open_tokens(prepare(spec, cache, quiet), verify=True).sha256 == whole
    assert not list(cache.glob(".build-*"))


def test_two_at_once_build_once(tmp_path):
    files = {f"{i}.txt": random_text(400_000, i) for i in range(8)}
    folder, cache = write_folder(tmp_path / "f", files), tmp_path / "cache"
    children = [start_prepare(folder, cache) for _ in range(3)]
    said = [child.communicate()[0] for child in children]
    assert [child.returncode for child in children] == [0, 0, 0]
    assert sum("prepared 8 documents" in text for text in said) == 1
    open_tokens(cache / folder_spec(folder, "bytes128").folder_name, verify=True)
