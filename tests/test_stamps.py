"""Checksums once a node: what is trusted, what is read again."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from sweep import stamps
from sweep.stamps import file_sha256, read_sha256, stamp_folder

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture
def node(tmp_path, monkeypatch):
    """Give the test a node of its own, and count what is read there."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    reads = []
    plain = stamps.read_sha256
    monkeypatch.setattr(stamps, "read_sha256", lambda path: reads.append(path) or plain(path))
    return reads


def old_file(path: Path, content: bytes, age: float = 100.0) -> Path:
    path.write_bytes(content)
    when = time.time() - age
    os.utime(path, (when, when))
    return path


def test_an_unchanged_file_is_read_once(tmp_path, node):
    path = old_file(tmp_path / "shard", b"tokens")
    digests = {file_sha256(path) for _ in range(3)}
    assert digests == {read_sha256(path)}
    assert len(node) == 1


def test_a_changed_file_is_read_again(tmp_path, node):
    path = old_file(tmp_path / "shard", b"tokens")
    before = file_sha256(path)
    old_file(path, b"tokenz", age=50)
    assert file_sha256(path) != before
    os.truncate(path, 3)
    assert file_sha256(path) == read_sha256(path)
    assert len(node) == 3


def test_a_replaced_file_of_the_same_size_and_time_is_read_again(tmp_path, node):
    path = old_file(tmp_path / "shard", b"tokens")
    before, status = file_sha256(path), path.stat()
    other = tmp_path / "other"
    other.write_bytes(b"tokenz")
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)
    assert file_sha256(path) != before


def test_a_file_just_written_is_not_trusted_to_stay(tmp_path, node):
    path = tmp_path / "shard"
    path.write_bytes(b"tokens")
    file_sha256(path)
    file_sha256(path)
    assert len(node) == 2


def test_a_stamp_cut_short_is_written_anew(tmp_path, node):
    path = old_file(tmp_path / "shard", b"tokens")
    digest = file_sha256(path)
    (stamp,) = stamp_folder().iterdir()
    stamp.write_text(digest[:10])
    assert file_sha256(path) == digest
    assert stamp.read_text() == digest


def test_a_folder_that_others_can_write_is_refused(tmp_path, node):
    stamp_folder().chmod(0o777)
    with pytest.raises(PermissionError, match="not this user's alone"):
        file_sha256(old_file(tmp_path / "shard", b"tokens"))


def test_processes_of_a_node_that_ask_at_once_agree(tmp_path):
    path = old_file(tmp_path / "shard", b"t" * 20_000_000)
    code = (
        "import sys; from pathlib import Path; from sweep.stamps import file_sha256\n"
        "print(file_sha256(Path(sys.argv[1])))"
    )
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    asked = [
        subprocess.Popen(
            [sys.executable, "-c", code, path], cwd=REPO, env=env, stdout=subprocess.PIPE
        )
        for _ in range(3)
    ]
    said = {process.communicate()[0].decode().strip() for process in asked}
    assert said == {read_sha256(path)}
