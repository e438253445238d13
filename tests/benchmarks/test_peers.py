"""The table of peers: its arithmetic, what it says of arms that cannot run, and the scripts that need nothing extra."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import peer_table, peers
from benchmarks.arms import ours, with_transformers
from benchmarks.arms.job import Job
from benchmarks.capped import NAME, Cap, has_module

PROMPT = (1, 5, 9, 11, 5, 9)


def answer(tokens: list[int], first: float, *steps: tuple[float, int]) -> dict:
    """The first token came after `first` seconds, then `count` more, `seconds` later each."""
    stamps = [(first, 1)]
    for seconds, count in steps:
        stamps.append((stamps[-1][0] + seconds, count))
    return {"tokens": tokens, "stamps": stamps}


RUNS = [
    {"arm": "vanilla", "round": 0, "peak_bytes": 2**20, "answers": [answer([1, 2, 3], 1.0, (2.0, 1), (2.0, 1))]},
    {"arm": "vanilla", "round": 1, "peak_bytes": 2**20, "answers": [answer([1, 2, 3], 1.0, (1.0, 1), (1.0, 1))]},
    {"arm": "subspec", "round": 0, "peak_bytes": None, "answers": [answer([1, 2, 3, 4, 5], 3.0, (1.0, 4))]},
    {"arm": "subspec", "round": 1, "peak_bytes": None, "answers": [answer([1, 2, 9, 4, 5], 3.0, (1.0, 4))]},
    {"arm": "llama-q4", "round": 0, "peak_bytes": None, "answers": [], "error": "out of memory", "note": "tried twice"},
]


def test_speed_is_of_what_came_behind_the_first_token_and_ratios_are_within_a_round() -> None:
    found = peer_table.summary(RUNS)
    assert found["vanilla"]["tokens_per_second"] == pytest.approx(0.75)
    assert (found["vanilla"]["times_plain"], found["vanilla"]["tokens_per_pass"]) == (1.0, 1.0)
    assert found["subspec"]["times_plain"] == pytest.approx((4 / 0.5 + 4 / 1.0) / 2)
    assert (found["subspec"]["tokens_per_pass"], found["subspec"]["first_token_s"]) == (4.0, 3.0)
    assert (found["subspec"]["alike"], found["subspec"]["comparable"]) == (3 + 2, 6)


def test_the_table_has_every_arm_and_every_reason() -> None:
    text = peer_table.markdown(RUNS, {"accelerate-cpu": "it needs a GPU"}, ["no cap"])
    lines = text.splitlines()
    assert "| vanilla | 0.75 | 1.00 | 1.0 | 1.0 s | 1 MiB | 6/6 |" in lines
    assert "| subspec | 4.00 | 6.00 | 4.0 | 3.0 s |  | 5/6 |" in lines
    assert any(line.startswith("| llama-q4 | failed: out of memory |") for line in lines)
    assert "- llama-q4: tried twice" in lines
    assert "- accelerate-cpu: left out, it needs a GPU" in lines and "- no cap" in lines
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


def arguments_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *more: str):
    model = Path(__file__).resolve().parents[2] / "assets/demo"
    options = ["--model", str(model), "--cap", "1GB", "--out", str(tmp_path / "new/receipt.json")]
    monkeypatch.setattr(sys, "argv", ["peers.py", *options, *more])
    return peers._arguments()


def test_what_cannot_run_is_said_with_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = arguments_of(monkeypatch, tmp_path)
    assert peer_table.obstacle("vanilla", given) == ""
    assert "--draft-model" in peer_table.obstacle("classic", given)
    monkeypatch.setattr(peer_table, "has_module", lambda python, name: name != "llama_cpp")
    assert "pip install llama-cpp-python" in peer_table.obstacle("llama-bf16", given)
    monkeypatch.setattr(peer_table, "has_module", lambda python, name: True)
    assert "to_gguf.py" in peer_table.obstacle("llama-q4", given)
    if not torch.cuda.is_available():
        assert "GPU" in peer_table.obstacle("accelerate-cpu-lookup", given)
    assert has_module(sys.executable, "torch") and not has_module(sys.executable, "no_such_module")
    assert not has_module(str(tmp_path / "no-python"), "torch")


def test_an_unknown_arm_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments_of(monkeypatch, tmp_path, "--arms", "vanilla,subspek")
    assert peers.main() == 2
    assert "subspek; there are vanilla-blocking, vanilla" in capsys.readouterr().err


def test_ctrl_c_keeps_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second round is cut short; an arm that failed is in the exit code of a whole run."""
    told = iter([RUNS[0], RUNS[2], KeyboardInterrupt()])

    def run_arm(*_: object) -> dict:
        run = next(told)
        if isinstance(run, BaseException):
            raise run
        return {"answers": run["answers"], "seconds": 1.0, "peak_bytes": None}

    monkeypatch.setattr(peers, "run_arm", run_arm)
    monkeypatch.setattr(peers, "measure_read", lambda *_, **__: 1.0)
    monkeypatch.setattr(peers, "drop_caches", lambda: True)
    arguments_of(monkeypatch, tmp_path, "--arms", "vanilla,subspec", "--rounds", "2", "--prompts", "1")
    assert peers.main() == 130
    kept = json.loads((tmp_path / "new/receipt.json").read_text())
    assert [run["arm"] for run in kept["runs"]] == ["vanilla", "subspec"]
    assert kept["arms"]["subspec"]["times_plain"] == pytest.approx(8.0)
    assert "| subspec | 4.00 |" in (tmp_path / "new/receipt.md").read_text()


def test_an_arm_that_fails_or_takes_too_long_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = arguments_of(monkeypatch, tmp_path, "--limit-minutes", "0.002")
    given.out.parent.mkdir()
    job = peers.job_of("vanilla", given, (PROMPT,))
    monkeypatch.setattr(peers, "drop_caches", lambda: True)
    for script, error in (("echo '{\"tokens\": []}'; sleep 9", "stopped after 0.002"), ("echo no >&2; exit 3", "no")):
        monkeypatch.setattr(peers, "python_of", lambda name, arguments, script=script: "bash")
        monkeypatch.setattr(peers, "HERE", tmp_path)
        (tmp_path / "arms").mkdir(exist_ok=True)
        (tmp_path / "arms/ours.py").write_text(script)
        result = peers.run_arm("vanilla", job, given, None)
        assert result["error"].startswith(error)
    assert not [path for path in given.out.parent.iterdir() if path.is_dir()], "scratch folders are removed"


def test_every_arm_runs_in_a_control_group_of_the_cap_and_finds_no_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder stands for the group: its limit is written first, and the arm's process enters it before it starts."""
    given = arguments_of(monkeypatch, tmp_path)
    given.out.parent.mkdir()
    (tmp_path / "arms").mkdir()
    (tmp_path / "arms/ours.py").write_text(
        "echo '{\"tokens\": [], \"group\": '$(cat $GROUP/cgroup.procs)', \"mine\": '$$'}'"
    )
    emptied: list[int] = []
    monkeypatch.setattr(peers, "drop_caches", lambda: emptied.append(1) or True)
    monkeypatch.setattr(peers, "python_of", lambda name, arguments: "bash")
    monkeypatch.setattr(peers, "HERE", tmp_path)
    monkeypatch.setenv("GROUP", str(tmp_path / "group"))
    cap = Cap(tmp_path / "group", "memory.max", "memory.peak")
    (answer,) = peers.run_arm("vanilla", peers.job_of("vanilla", given, (PROMPT,)), given, cap)["answers"]
    assert answer["group"] == answer["mine"] and emptied == [1]
    assert (tmp_path / "group/memory.max").read_text() == str(10**9)


def test_llama_cpp_gets_a_second_chance_without_repacked_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def run_arm(name: str, job: Job, *_: object) -> dict:
        asked.append(job.options.get("repack", True))
        return {"answers": []} if len(asked) == 2 else {"answers": [], "error": "signal 11", "killed": True}

    monkeypatch.setattr(peers, "run_arm", run_arm)
    given = Job("m", (PROMPT,), 4, 2, 1.0, None, 64, 1, "")
    assert "signal 11" in peers.run_safely("llama-q4", given, None, None)["note"]
    assert asked == [True, False]


def test_a_control_group_of_either_version_is_found(tmp_path: Path) -> None:
    assert Cap.find(tmp_path) is None
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory/memory.limit_in_bytes").write_text("")
    assert Cap.find(tmp_path) is None, "without files of its own it is a folder like any other"
    (tmp_path / "memory" / NAME / "memory.limit_in_bytes").write_text("")
    found = Cap.find(tmp_path)
    assert found is not None and found.limit == "memory.limit_in_bytes"
    (tmp_path / "cgroup.controllers").write_text("cpu memory")
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "memory.max").write_text("")
    newer = Cap.find(tmp_path)
    assert newer is not None and newer.limit == "memory.max"
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+memory"


def job(folder: Path, **options: object) -> Job:
    fields = {"tokens": 6, "warmup": 2, "penalty": 1.0, "budget": None, "max_length": 64, "threads": 1}
    return Job(str(folder), (PROMPT,), scratch="", draft_model=str(folder), options=options, **fields)


def answers(capsys: pytest.CaptureFixture[str]) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]


def test_arms_of_both_sides_give_the_same_tokens(
    tiny_checkpoint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ours with a stream that does not prefetch and with none, and Transformers' three ways."""
    folder, told = tiny_checkpoint("llama"), []
    small = {"exact": False, "compile": False, "tree.width": 2, "tree.depth": 2, "tree.nodes": 4}
    for options in ({"method": "vanilla", "blocking": True, "resident_layers": False}, {"method": "ngram_sd"}):
        ours.answer(job(folder, **small, **options))
        told += answers(capsys)
    assert told[0]["bytes_per_round"] > 0 and told[1]["bytes_per_round"] == 0
    for draft in ("", "lookup", "assistant"):
        monkeypatch.setattr(sys, "argv", ["arm", job(folder, offload="", draft=draft).written()])
        with torch.no_grad():
            with_transformers.main()
        told += answers(capsys)
    assert len(told) == 5
    assert {tuple(one["tokens"]) for one in told} == {tuple(told[0]["tokens"])}
    for one in told:
        assert sum(count for _, count in one["stamps"]) == len(one["tokens"]) == 6


def test_the_published_settings() -> None:
    options = peer_table.ARMS["subspec-published"].options
    assert options["resident_layers"] is False and options["tree.adaptive"] is False
    assert (options["tree.depth"], options["tree.width"], options["draft.temperature"]) == (48, 6, 0.2)
    assert options["tree.nodes"] == 48 * 6 + 1
    assert options["draft.quant"] == "hqq4"  # the least budget that works would choose fewer bits
