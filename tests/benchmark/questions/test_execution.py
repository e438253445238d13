"""Code that a model wrote: what it may not do, and that nothing of it outlives its time."""

from __future__ import annotations

import time

import pytest

from specdecodes.benchmark.questions import execution
from specdecodes.benchmark.questions.execution import isolates_network, run_program, warning

CONNECT = "import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)"


@pytest.fixture(params=["namespace", "blocked"])
def fence(request, monkeypatch) -> str:
    if request.param == "namespace" and not isolates_network():
        pytest.skip("this system gives no network namespaces to its users")
    if request.param == "blocked":
        monkeypatch.setattr(execution, "isolates_network", lambda: False)
    return request.param


def test_a_program_that_ends_well_has_no_failure(fence):
    assert run_program("print('x' * 100_000)\nassert __name__ == '__main__'") == ""


def test_there_is_no_network_not_even_this_machine_s(fence):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        assert run_program(CONNECT.format(port=server.getsockname()[1]))
        with pytest.raises(TimeoutError):
            server.accept()


def test_time_is_limited_for_what_it_started_too(tmp_path):
    if not isolates_network():
        pytest.skip("this system gives no process namespaces to its users")
    late = tmp_path / "late"
    spawn = f"import subprocess\nsubprocess.Popen('sleep 0.8; echo > {late}', shell=True, start_new_session=True)\n"
    assert run_program(spawn + "import time\ntime.sleep(9)", seconds=0.5) == "not done after 0.5 s"
    time.sleep(0.6)
    assert not late.exists()


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("x = ' ' * (2 << 30)", "MemoryError"),
        ("open('f', 'wb').write(b'x' * (20 << 20))", "too large"),
        ("1 +", "SyntaxError"),
        ("assert 1 == 2, 'no'", "AssertionError: no"),
        ("import sys\nsys.exit(0)", "ended early"),
        ("import os\nos._exit(0)", "ended early"),
    ],
)
def test_what_went_wrong_is_said(program, said):
    assert said in run_program(program)


def test_the_warning_says_what_is_kept_away_and_what_is_not(fence):
    said = warning()
    assert ("network namespace" in said) is (fence == "namespace")
    assert "sockets" in said or fence == "namespace"
    assert "can still read and write your files" in said
    assert "10 s" in said and "1024 MiB" in said
