"""Models in processes of their own: what kills one of them stays its own."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from backends.backoff import FIRST, FORGIVEN, MOST, Backoff
from backends.card import read_card
from backends.errors import EngineFailure, LoadError, Unavailable
from backends.frames import Ended, receive, send
from backends.isolated import ChildSettings, Isolated
from backends.providers import EngineSettings
from backends.strict_yaml import ConfigError
from backends.tensors import Array
from tests.backends.conftest import Loader
from tests.backends.models import adder, gatherer, put
from tests.backends.test_server import slow

ONE = {"x": np.array([1])}


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Isolated]:
    entry = put(tmp_path, "table", "1", gatherer()) / "model.onnx"
    isolated = Isolated.open("table:1", [ChildSettings(entry, EngineSettings("cpu"))])
    yield isolated
    isolated.close()


def test_it_answers_and_fails_as_the_session_would(table: Isolated) -> None:
    assert table.run(ONE)["y"].tolist() == [20]
    with pytest.raises(EngineFailure, match=r"^the model failed on this request$"):
        table.run({"x": np.array([7])})
    assert table.run({"x": np.array([0, 1])})["y"].tolist() == [10, 20]
    assert str(table.signature) == "(x INT64 [n]) -> (y FP32 [n])"


@pytest.mark.parametrize(
    "tensor",
    [
        pytest.param(np.array(["é", ""], dtype=np.object_), id="text"),
        pytest.param(np.array([True, False]), id="bool"),
        pytest.param(np.array([0.5, np.nan], dtype=np.float16), id="fp16"),
        pytest.param(np.array([2**64 - 1], dtype=np.uint64), id="uint64"),
        pytest.param(np.float32(1.5).reshape(()), id="scalar"),
        pytest.param(np.zeros((0, 3), dtype=np.int8), id="empty"),
        pytest.param(np.arange(12.0).reshape(3, 4).T, id="not contiguous"),
        pytest.param(np.zeros(500_000, dtype=np.float64), id="more than a socket holds"),
    ],
)
def test_tensors_pass_between_processes_as_they_are(tensor: Array) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender = threading.Thread(target=send, args=(ours, {"said": 1}, {"x": tensor, "again": tensor}))
        sender.start()
        head, tensors = receive(theirs)
        sender.join()
    assert head == {"said": 1}
    for back in tensors.values():
        assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
        assert np.array_equal(back, tensor, equal_nan=tensor.dtype.kind == "f")


def test_a_frame_whose_sender_is_gone_has_ended() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        ours.sendall(b"\x04\x00")
        ours.close()
        with pytest.raises(Ended):
            receive(theirs)


def test_a_process_that_dies_idle_is_replaced_before_anybody_notices(table: Isolated) -> None:
    restarts: list[int] = []
    table.tell(lambda: restarts.append(1))
    (pid,) = table.pids
    os.kill(pid, signal.SIGKILL)
    _wait_until_dead(pid)
    assert table.run(ONE)["y"].tolist() == [20]
    assert table.pids != [pid]
    assert restarts == [1]


def test_a_process_that_dies_on_a_call_fails_that_call_and_the_next_one_has_a_new_one(tmp_path: Path) -> None:
    entry = put(tmp_path, "slow", "1", slow()) / "model.onnx"
    isolated = Isolated.open("slow", [ChildSettings(entry, EngineSettings("cpu"))])
    try:
        (pid,) = isolated.pids
        killer = threading.Timer(0.1, os.kill, (pid, signal.SIGKILL))
        killer.start()
        with pytest.raises(EngineFailure, match="died on this request"):
            isolated.run({"x": np.zeros(1, dtype=np.float32)})
        killer.join()
        assert isolated.run({"x": np.zeros(1, dtype=np.float32)})["y"].tolist() == [0.0]
    finally:
        isolated.close()


def test_a_call_beyond_its_timeout_ends_the_process(tmp_path: Path) -> None:
    entry = put(tmp_path, "slow", "1", slow()) / "model.onnx"
    isolated = Isolated.open("slow", [ChildSettings(entry, EngineSettings("cpu"), call_timeout=0.02)])
    try:
        with pytest.raises(EngineFailure, match="call_timeout"):
            isolated.run({"x": np.zeros(1, dtype=np.float32)})
        assert isolated.pids == []
    finally:
        isolated.close()


def test_a_process_that_keeps_dying_backs_off_instead_of_spinning(table: Isolated) -> None:
    child = table._children[0]
    for _ in range(5):
        child.backoff.crashed(time.monotonic())
    child.stop()
    with pytest.raises(Unavailable, match="keeps crashing"):
        table.run(ONE)


def test_a_model_that_cannot_be_opened_is_a_load_error_with_the_reason(tmp_path: Path) -> None:
    entry = put(tmp_path, "noise", "1", b"no model at all") / "model.onnx"
    with pytest.raises(LoadError, match=r"noise/1/model\.onnx"):
        Isolated.open("noise", [ChildSettings(entry, EngineSettings("cpu"))])


def test_memory_is_limited_by_the_kernel_for_this_process_alone(tmp_path: Path) -> None:
    entry = put(tmp_path, "sum", "1", adder()) / "model.onnx"
    isolated = Isolated.open("sum", [ChildSettings(entry, EngineSettings("cpu"), memory=400 << 20)])
    try:
        many = np.zeros((30_000_000, 2), dtype=np.float32)  # 240 MB each, and as much for the answer
        with pytest.raises(EngineFailure):
            isolated.run({"left": many, "right": many})
        few = np.ones((1, 2), dtype=np.float32)
        assert isolated.run({"left": few, "right": few})["sum"].tolist() == [[2.0, 2.0]]
    finally:
        isolated.close()


async def test_a_killed_model_leaves_the_others_alone(load: Loader, tmp_path: Path) -> None:
    put(tmp_path, "alone", "1", gatherer(), {"isolation": "process", "instances": 2, "nice": 5})
    put(tmp_path, "shared", "1", gatherer())
    catalogue = load(tmp_path)
    alone, shared = catalogue.find("alone"), catalogue.find("shared")
    assert isinstance(alone.engine, Isolated)
    pids = alone.engine.pids
    assert len(pids) == 2
    yields = min(os.getpriority(os.PRIO_PROCESS, 0) + 5, 19)
    assert [os.getpriority(os.PRIO_PROCESS, pid) for pid in pids] == [yields, yields]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        _wait_until_dead(pid)
    answers = await asyncio.gather(*(one.batcher.submit(ONE, 1) for one in (shared, alone, shared)))
    assert [answer["y"].tolist() for answer in answers] == [[20], [20], [20]]


def test_the_first_crash_is_forgiven_and_further_ones_wait_twice_as_long() -> None:
    backoff = Backoff()
    backoff.started(100.0)
    waits = []
    for _ in range(12):
        backoff.crashed(100.0)
        waits.append(round(backoff.until - 100.0, 9))
    assert waits[:4] == [0.0, FIRST, 2 * FIRST, 4 * FIRST]
    assert waits[-1] == MOST
    backoff.started(100.0)
    backoff.crashed(100.0 + FORGIVEN)
    assert (backoff.crashes, backoff.until) == (1, 100.0 + FORGIVEN)


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"isolation": "process", "execution": "inline"}, "cannot run inline"),
        ({"memory": "1GiB"}, "memory and call_timeout need isolation"),
        ({"nice": 20}, "nice is 0..19"),
        ({"instances": 0}, "instances is at least 1"),
    ],
)
def test_a_card_that_asks_for_what_cannot_be_is_refused(
    tmp_path: Path, card: dict[str, object], message: str
) -> None:
    put(tmp_path, "sum", "1", adder(), card)
    with pytest.raises(ConfigError, match=message):
        read_card(tmp_path / "sum", "1")


def _wait_until_dead(pid: int) -> None:
    """Wait until it can be buried: a killed leader of living threads is a zombie that cannot be yet."""
    ends = time.monotonic() + 10
    while time.monotonic() < ends:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None:
            return
        time.sleep(0.001)
    raise AssertionError("it lives on")
