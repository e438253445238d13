"""Arms are measured against plain decoding of their own target's precision, and the receipt says what limits them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import resident
from benchmarks.resident import Contestant, arms_of, terms


def test_every_arm_brings_its_own_plain_decoding() -> None:
    arms = arms_of("subspec_sd,share_sd/none/int4,qspec/w4a16:g128")
    names = ["vanilla", "subspec_sd", "share_sd/none/int4", "vanilla/w4a16:g128", "qspec/w4a16:g128"]
    assert [arm.name for arm in arms] == names
    assert arms[4].plain == arms[3] and arms[3].plain == arms[3] and arms[2].plain == Contestant("vanilla")


def test_terms_say_what_a_round_costs_in_plain_steps() -> None:
    def row(target_s: float) -> dict[str, dict[str, float]]:
        drafted = {"tokens_per_round": 5.0, "levels_per_round": 6.0, "draft_step_s": 0.02, "target_s": 0.06}
        return {"vanilla": {"target_s": target_s}, "subspec_sd": drafted}

    found = terms([row(0.03), row(0.04), row(0.05)], Contestant("subspec_sd"))
    assert found["draft_step_in_plain_steps"] == pytest.approx(0.5)
    assert found["pass_in_plain_steps"] == pytest.approx(1.5)
    assert found["ratio_of_these"] == pytest.approx(5 / 4.5)
    assert found["ratio_if_drafts_were_free"] == pytest.approx(5 / 1.5)
    assert found["ratio_if_a_pass_were_a_plain_step"] == pytest.approx(5 / 4)
    assert found["limit"] == "drafting, 67% of a round"


@pytest.mark.usefixtures("untimed")
def test_a_receipt_of_two_precisions(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, out = tiny_checkpoint("llama", "bf16"), tmp_path / "receipt.json"
    words = f"--model {model} --arms share_sd/none/int4:g32,qspec/w4a16:g32 --rounds 1 --tokens 6 --no-peers"
    options = f"--no-compile --no-adaptive --depth 3 --nodes 4 --out {out}"
    monkeypatch.setattr("sys.argv", ["resident.py", *words.split(), *options.split()])
    resident.main()
    receipt = json.loads(out.read_text())
    drafted = {"share_sd/none/int4:g32": "vanilla", "qspec/w4a16:g32": "vanilla/w4a16:g32"}
    assert set(receipt["medians"]) == {*drafted, *drafted.values()}
    assert set(receipt["terms"]) == set(drafted)
    for name, plain in drafted.items():
        ratio = receipt["medians"][name] / receipt["medians"][plain]
        assert receipt["ratios_to_plain"][name] == pytest.approx(ratio)
        assert receipt["same_tokens"][name] == 1
        assert receipt["terms"][name]["levels_per_round"] == 3


@pytest.mark.usefixtures("untimed")
def test_what_was_measured_is_kept_when_it_is_stopped(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill in the third prompt, of which nothing counts; the first one warmed up."""
    out, answered = tmp_path / "receipt.json", []

    def stopped(generator: object) -> Callable[[list[int], int], dict[str, object]]:
        def answer(prompt: list[int], tokens: int) -> dict[str, object]:
            answered.append(tokens)
            if len(answered) == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            return {"tokens_per_second": 2.0, "tokens": [tokens]}

        return answer

    monkeypatch.setattr(resident, "ours", stopped)
    words = f"--model {tiny_checkpoint('llama')} --arms vanilla --rounds 4 --no-peers --no-compile --out {out}"
    monkeypatch.setattr("sys.argv", ["resident.py", *words.split()])
    resident.main()
    receipt = json.loads(out.read_text())
    assert receipt["medians"] == {"vanilla": 2.0} and len(receipt["rounds"]) == 1


def test_an_unknown_scheme_is_one_line(
    tiny_checkpoint: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = f"--model {tiny_checkpoint('llama')} --arms qspec/w4a17 --no-peers --out {tmp_path / 'none.json'}"
    monkeypatch.setattr("sys.argv", ["resident.py", *words.split()])
    with pytest.raises(SystemExit, match="2"):
        resident.main()
    assert "did you mean 'w4a16'" in capsys.readouterr().err
