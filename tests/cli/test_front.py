"""What a user sees of a wrong command, option or name: one line, the cure, exit code 2; and help at once."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer import Context
from typer.core import TyperCommand

from run.main import run
from specdecodes import pipelines
from specdecodes.cli import main, run_cache
from specdecodes.cli.app import app
from tests.commands import exit_code

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ("run-test", "run-chat", "run-benchmark", "run-plan", "run-compress", "run-verify", "run-doctor")
DEMO = "run.exp_offloading.subspec_sd_demo"


def outcome(call, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code, captured = exit_code(call, arguments), capsys.readouterr()
    return code, captured.out, captured.err


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]):
    code, out, _ = outcome(main, ["--help"], capsys)
    assert code == 0
    assert all(command in out for command in COMMANDS)


def test_help_in_a_clone_lists_pipelines_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = outcome(run, ["--help"], capsys)
    assert code == 0
    assert DEMO in out and "  run.exp_offloading.\n" in out
    assert {name.rpartition(".")[2] for name in pipelines.shipped()} <= set(out.split())
    assert max(map(len, out.splitlines())) <= 80
    assert all(command in out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_the_common_options(command: str, capsys: pytest.CaptureFixture[str]):
    code, out, _ = outcome(run, [DEMO, command, "--help"], capsys)
    assert code == 0
    options = (
        "--model --draft-model --dtype --device-memory --host-memory --exact --no-exact --seed --temp --set --eager"
    )
    assert all(option in out for option in f"{options} --max-tokens".split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            [DEMO, "run-plan", "--set", "draft.quant=hqq5"],
            ("unknown quantization scheme 'hqq5'", "did you mean 'hqq8'"),
        ),
        ([DEMO, "run-plan", "--set", "draft.quant=hqq4:g48"], ("groups of 48", "groups that divide it: 64, 32, 16, 8")),
        ([DEMO, "run-plan", "--set", "draft.quant=hqq4+dwn_proj=none"], ("unknown linear", "did you mean 'down_proj'")),
        ([DEMO, "run-plan", "--set", "draft.quant=hqq4@gemlit"], ("unknown kernel", "did you mean 'gemlite'")),
        (["run.exp_offloading.subspec_sd_dem", "run-test"], ("unknown pipeline", f"did you mean '{DEMO}'")),
        (["run-test"], ("'run-test' stands where a pipeline belongs", f"{DEMO} run-test", "--model FOLDER")),
        (["run-plan", "--model", "./nowhere"], ("there is no folder ./nowhere",)),
        (["my/own.py", "run-plan"], ("there is no file my/own.py",)),
        (["run-plan", "--model", "assets/demo-eagle"], ("assets/demo-eagle", "an EAGLE head", "method=eagle_sd")),
        ([DEMO, "run-plan", "--set", "tree.dpth=4"], ("unknown setting", "did you mean 'tree.depth'")),
        ([DEMO, "run-plan", "--dtype", "float16"], ("target.dtype", "did you mean 'fp16'")),
        ([DEMO, "run-plan", "--device-memory", "8GX"], ("'8GX' is not a size", "8GiB")),
        ([DEMO, "run-plan", "--draft-model", "some/model"], ("method subspec_sd has no second model",)),
        ([DEMO, "run-benchmark", "--benchmarks", "mt-bnch"], ("unknown benchmark", "did you mean 'mt-bench'")),
        ([DEMO.replace("subspec_sd", "vanilla"), "run-verify"], ("plain decoding itself",)),
    ],
)
def test_an_error_is_one_line_with_its_cure(
    arguments: list[str], words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
):
    code, out, err = outcome(run, arguments, capsys)
    assert code == 2
    assert out == ""
    assert err.startswith("error: ") and err.count("\n") == 1
    assert all(word in err for word in words), err


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([DEMO, "run-tets"], "run-test"),
        ([DEMO, "run-plan", "--modle", "x"], "--model"),
        ([DEMO, "run-plan", "--seed", "x"], "--seed"),
    ],
)
def test_a_mistyped_command_or_option_names_the_near_ones(
    arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]
):
    code, _, err = outcome(run, arguments, capsys)
    assert code == 2
    assert word in err


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_refuses_is_one_line(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def refuse(path: Path) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(run_cache, "kept", refuse)
    code, out, err = outcome(main, ["run-cache"], capsys)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1 and os.strerror(number) in err


def test_other_errors_of_the_system_are_not_hidden(monkeypatch: pytest.MonkeyPatch):
    def fail(path: Path) -> None:
        raise OSError(errno.EINVAL, "a mistake of ours")

    monkeypatch.setattr(run_cache, "kept", fail)
    with pytest.raises(OSError, match="a mistake of ours"):
        main(["run-cache"])


@pytest.mark.parametrize("command", [command.name or command.callback.__name__ for command in app.registered_commands])
def test_ctrl_c_ends_every_command_with_one_line_and_130(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(TyperCommand, "make_context", lambda self, *given, **more: Context(self))
    monkeypatch.setattr(TyperCommand, "invoke", stop)
    assert outcome(main, [command.replace("_", "-")], capsys) == (130, "", "interrupted\n")


def test_ctrl_c_in_the_midst_of_a_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def stop(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run_cache, "kept", stop)
    assert outcome(main, ["run-cache"], capsys) == (130, "", "interrupted\n")


def test_ctrl_c_that_a_library_takes_for_a_missing_module(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def stop(path: Path) -> None:
        raise ModuleNotFoundError("Could not import module 'LlamaConfig'") from KeyboardInterrupt()

    monkeypatch.setattr(run_cache, "kept", stop)
    assert outcome(main, ["run-cache"], capsys) == (130, "", "interrupted\n")


def test_nobody_reads_any_more(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """`--help | head`."""
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr("sys.stdout", os.fdopen(writer, "w"))
    assert exit_code(run, ["--help"]) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_the_doctor_needs_no_pipeline(capsys: pytest.CaptureFixture[str]):
    code, _, err = outcome(run, ["run-doctor", "--folder", "/no/such"], capsys)
    assert code == 2 and err.startswith("error: /no/such is not a folder")


def test_outside_a_clone_a_pipeline_s_name_leads_to_the_clone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(pipelines, "clone_root", lambda: None)
    monkeypatch.chdir(tmp_path)
    code, _, err = outcome(main, ["run-test", "--pipeline", DEMO], capsys)
    assert code == 2 and "pipelines come with a clone" in err and "--model" in err


def test_help_loads_no_torch():
    program = "import sys; sys.argv = ['specdecodes', 'run-chat', '--help']\n"
    program += "from specdecodes.cli import main\ntry: main()\nexcept SystemExit: pass\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.endswith("False\n")


def test_the_clone_s_front_end_runs_from_any_folder(tmp_path: Path):
    command = [sys.executable, "-m", "run.main", DEMO, "--help"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, check=True
    )
    assert "run-benchmark" in done.stdout
