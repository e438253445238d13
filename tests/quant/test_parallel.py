from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from specdecodes.quant.parallel import workers
from specdecodes.quant.solvers.hqq import solve


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_pieces_run_at_once_and_come_back_in_order() -> None:
    meeting = threading.Barrier(2, timeout=30)

    def piece(item: int) -> tuple[int, int]:
        meeting.wait()  # passes only when two pieces are under way together
        return item * item, torch.get_num_threads()

    with workers() as pool:
        assert torch.get_num_threads() == 1
        assert pool.map(piece, range(4)) == [(0, 1), (1, 1), (4, 1), (9, 1)]
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_the_setting_is_put_back_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), workers() as pool:
        pool.map(lambda item: 1 // item, [1, 0])
    assert torch.get_num_threads() == 2
    seen = []
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert seen == [2]


def test_threads_do_not_change_the_solution(two_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specdecodes.quant.solvers.hqq.CHUNK_WEIGHTS", 4096)
    monkeypatch.setattr("specdecodes.quant.codes.BLOCK_WEIGHTS", 8192)
    weight = torch.randn(300, 128) * 0.02
    together = solve(weight)
    torch.set_num_threads(1)
    alone = solve(weight)
    assert torch.equal(together.packed, alone.packed)
    assert torch.equal(together.zero, alone.zero)


@pytest.mark.usefixtures("two_threads")
def test_workers_share_the_callers_inference_mode() -> None:
    weight = torch.randn(64, 128)
    with torch.inference_mode():
        inside = solve(weight)
    assert inside.zero.is_inference()
    assert torch.equal(inside.packed, solve(weight).packed)
