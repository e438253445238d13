"""A stream in trouble: one clear error for whatever breaks, whoever interrupts, and then it goes on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from specdecodes.errors import CheckpointError, StreamError
from specdecodes.offload.storage.store import ALIGNMENT
from specdecodes.offload.streaming.stream import LayerStream
from tests.offload.conftest import MakeLayers
from tests.offload.streaming.streamed import BLOCK, check_pass, intercept, same


def test_an_io_error_names_the_file_and_the_next_call_works(
    make_layers: MakeLayers, monkeypatch: pytest.MonkeyPatch, disk: str
) -> None:
    layers, spans = make_layers()
    left = iter(range(7))

    def fail_once() -> None:
        if next(left, None) == 6:
            raise OSError(5, "Input/output error")

    intercept(monkeypatch, fail_once)
    with LayerStream(spans, block_bytes=BLOCK) as stream:
        with pytest.raises(StreamError, match=r"model.safetensors cannot be read: Input/output error"):
            for _ in range(9):
                check_pass(stream, layers)
        for _ in range(3):
            check_pass(stream, layers)


def test_a_file_cut_while_in_use_and_restored(make_layers: MakeLayers, disk: str) -> None:
    layers, spans = make_layers()
    path = spans[0]["q"].path
    content = path.read_bytes()
    with LayerStream(spans, block_bytes=BLOCK) as stream:
        check_pass(stream, layers)
        for kept in (len(content) // 2, len(content) // 2 // ALIGNMENT * ALIGNMENT, 0):
            os.truncate(path, kept)
            for _ in range(2):
                with pytest.raises(StreamError, match=r"model.safetensors was cut while in use: .* are missing"):
                    check_pass(stream, layers)
                    check_pass(stream, layers)
        path.write_bytes(content)
        check_pass(stream, layers)
        check_pass(stream, layers)


def test_a_vanished_file(make_layers: MakeLayers) -> None:
    layers, spans = make_layers()
    path = spans[0]["q"].path
    stream = LayerStream(spans, block_bytes=BLOCK)
    away = path.rename(path.with_suffix(".away"))
    with stream:
        for _ in range(2):
            with pytest.raises(StreamError, match=r"model.safetensors cannot be read: No such file"), stream.layer(0):
                pass
        away.rename(path)
        check_pass(stream, layers)
        path.unlink()  # the open file lives on
        check_pass(stream, layers)
    with pytest.raises(CheckpointError, match="No such file"):
        LayerStream(spans)


def test_a_dead_reader_is_told_and_replaced(
    make_layers: MakeLayers, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    layers, spans = make_layers()
    left = iter(range(4))

    def die_once() -> None:
        if next(left, None) == 3:
            raise MemoryError

    intercept(monkeypatch, die_once)
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)
    with LayerStream(spans, block_bytes=BLOCK) as stream:
        with pytest.raises(StreamError, match="a reader died"):
            check_pass(stream, layers)
            check_pass(stream, layers)
        check_pass(stream, layers)
        assert stream._alive == 2


def test_an_exception_inside_the_block_gives_the_slot_back(make_layers: MakeLayers) -> None:
    layers, spans = make_layers()
    with LayerStream(spans, block_bytes=BLOCK) as stream:
        for _ in range(4):
            with pytest.raises(KeyboardInterrupt), stream.layer(0):
                raise KeyboardInterrupt
        check_pass(stream, layers)


def test_interrupts_at_any_time_leave_the_stream_usable(make_layers: MakeLayers) -> None:
    layers, spans = make_layers(3, rows=60)
    dice = random.Random(2)

    def interrupt(signal_number: int, frame: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        with LayerStream(spans, block_bytes=ALIGNMENT) as stream:
            for _ in range(200):
                try:
                    signal.setitimer(signal.ITIMER_REAL, dice.uniform(1e-5, 4e-3))
                    while True:
                        check_pass(stream, layers)
                except KeyboardInterrupt:
                    pass
                check_pass(stream, layers)
            assert not [slot for slot in stream._slots if slot.state.name == "HELD"]
    finally:
        signal.signal(signal.SIGALRM, previous)


def test_closing(make_layers: MakeLayers, monkeypatch: pytest.MonkeyPatch) -> None:
    layers, spans = make_layers()
    before = threading.active_count()
    unused = LayerStream(spans)
    unused.close()
    intercept(monkeypatch, lambda: time.sleep(0.001))
    stream = LayerStream(spans, block_bytes=ALIGNMENT)
    with stream.layer(0) as tensors:
        stream.close()
        assert same(tensors, layers[0])
    stream.close()
    assert threading.active_count() == before
    assert not stream._files._open
    with pytest.raises(StreamError, match="closed"), stream.layer(1):
        pass


def test_closing_after_an_error(make_layers: MakeLayers, monkeypatch: pytest.MonkeyPatch) -> None:
    _, spans = make_layers()

    def fail() -> None:
        raise OSError(5, "Input/output error")

    intercept(monkeypatch, fail)
    with LayerStream(spans) as stream, pytest.raises(StreamError), stream.layer(0):
        pass
    assert not any(thread.is_alive() for thread in stream._threads)


def test_misuse(make_layers: MakeLayers) -> None:
    _, spans = make_layers(2)
    for bad in ({"slots": 1}, {"readers": 0}, {"block_bytes": 100}, {"block_bytes": 0}):
        with pytest.raises(ValueError, match="a stream needs"):
            LayerStream(spans, **bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a stream needs"):
        LayerStream([])
    with pytest.raises(ValueError, match="without bytes"):
        LayerStream([{}])
    with LayerStream(spans) as stream, pytest.raises(IndexError), stream.layer(2):
        pass


def test_a_forked_child_is_refused_and_the_parent_goes_on(make_layers: MakeLayers) -> None:
    layers, spans = make_layers()
    with LayerStream(spans, block_bytes=BLOCK) as stream:
        check_pass(stream, layers)
        child = os.fork()
        if not child:  # the child must leave without running the parent's clean-up
            try:
                with stream.layer(0):
                    os._exit(1)
            except StreamError:
                stream.close()
                os._exit(7)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        check_pass(stream, layers)


def test_a_stream_that_nobody_closed_ends_with_the_interpreter(make_layers: MakeLayers, tmp_path: Path) -> None:
    """A reader that was still at work would abort the process: exit handlers run last in, first out."""
    make_layers()
    script = """
import atexit, sys
from pathlib import Path
made = []
atexit.register(lambda: print("readers at work:", made[0]._alive))
from specdecodes.offload.storage.store import read_index
from specdecodes.offload.streaming.stream import LayerStream
spans = {name.split(".", 1)[1]: span for name, span in read_index(Path(sys.argv[1])).items() if name.startswith("0.")}
made.append(LayerStream([spans, spans]))
with made[0].layer(0):
    pass
"""
    ended = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (0, "readers at work: 0\n"), ended.stderr
