"""What follows a failure: the table, over texts that torch, NCCL and the system really say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweep.bad_devices import bad_gpus, bad_nodes, note_failure
from sweep.folder import SweepFolder
from sweep.retry import Action, Failure, Past, classify, next_step, rows_after

SAID = {
    "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB": Failure.MEMORY,
    "RuntimeError: [enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory:"
    " you tried to allocate 4000000000000000 bytes.": Failure.MEMORY,
    "DoesNotFit: L2-d16-h1 ran out of memory with one sequence of 128 tokens at a time": Failure.MEMORY,
    "AcceleratorError: CUDA error: an illegal memory access was encountered": Failure.DEVICE,
    "RuntimeError: CUDA error: uncorrectable ECC error encountered": Failure.DEVICE,
    "RuntimeError: cuDNN error: CUDNN_STATUS_EXECUTION_FAILED": Failure.DEVICE,
    "DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:2251, remote process exited": Failure.NETWORK,
    "RuntimeError: [/pytorch/third_party/gloo/transport/tcp/pair.cc:547] Connection closed by peer"
    " [127.0.0.1]:40242": Failure.NETWORK,
    "OSError: [Errno 116] Stale file handle": Failure.FILES,
    "OSError: [Errno 5] Input/output error": Failure.FILES,
    "OSError: [Errno 28] No space left on device": Failure.DISK_FULL,
    "OSError: [Errno 122] Disk quota exceeded": Failure.DISK_FULL,
    "RuntimeError: [enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0": Failure.DISK_FULL,
    "UsageError: hardware.device=cuda, but torch sees no GPU here": Failure.CONFIG,
    "ValueError: checkpoint of a, not of b": Failure.CONFIG,
    "AssertionError: Torch not compiled with CUDA enabled": Failure.CONFIG,
    "RuntimeError: something that nobody has seen": Failure.UNKNOWN,
}


@pytest.mark.parametrize(("reason", "kind"), SAID.items())
def test_failures_are_told_apart_by_what_they_say(reason, kind):
    assert classify(reason) is kind


def said(kind: Failure) -> str:
    return next(reason for reason, k in SAID.items() if k is kind)


@pytest.mark.parametrize("kind", list(Failure))
def test_what_may_pass_is_tried_again_and_the_rest_is_not(kind):
    step = next_step([Past(said(kind), 8)], retries=2)
    retried = {Failure.DEVICE, Failure.NETWORK, Failure.FILES}
    halved = {Failure.MEMORY}
    wanted = Action.RETRY if kind in retried else Action.HALVE if kind in halved else Action.GIVE_UP
    assert step.action is wanted
    assert step.why


@given(st.integers(1, 4096))
def test_memory_halves_the_micro_batch_down_to_one_and_then_gives_up(rows):
    past, seen = [], []
    while True:
        past.append(Past(said(Failure.MEMORY), rows))
        step = next_step(past, retries=0)
        if step.action is Action.GIVE_UP:
            break
        assert step.micro_rows == rows // 2 == rows_after(past, None)
        rows = step.micro_rows
        seen.append(rows)
    assert rows == 1
    assert seen == sorted(seen, reverse=True)


@given(st.lists(st.sampled_from(list(Failure)), min_size=1, max_size=30), st.integers(0, 5))
def test_no_history_is_retried_for_ever(kinds, retries):
    passing = {Failure.DEVICE, Failure.NETWORK, Failure.FILES}
    step = next_step([Past(said(k), 1) for k in kinds], retries)
    if sum(k in passing for k in kinds) > retries or kinds[-1] not in passing:
        assert step.action is Action.GIVE_UP


def test_the_micro_batch_is_the_least_that_was_asked_or_learned():
    past = [
        Past(said(Failure.MEMORY), 32),
        Past(said(Failure.DEVICE), 4),
        Past(said(Failure.MEMORY), 16),
    ]
    assert rows_after(past, None) == 8
    assert rows_after(past, 6) == 6
    assert rows_after([], None) is None
    assert rows_after([], 5) == 5


def test_a_gpu_is_left_out_after_its_second_failure(tmp_path, monkeypatch):
    folder = SweepFolder(tmp_path, "s")
    monkeypatch.setenv("SLURMD_NODENAME", "n3")
    for gpu, times in (("0", 1), ("1", 2), ("../../x y", 2)):
        monkeypatch.setenv("SLURM_STEP_GPUS", gpu)
        for _ in range(times):
            note_failure(folder, "CUDA error")
    assert bad_gpus(folder) == [("n3", "../../x y"), ("n3", "1")]
    assert bad_nodes(folder) == ["n3"]
    (folder.path / "device_failures" / "cut.json").write_text('{"node": "n4"')
    assert bad_nodes(folder) == ["n3"]
    assert {p.parent for p in tmp_path.rglob("*.json")} == {folder.path / "device_failures"}
