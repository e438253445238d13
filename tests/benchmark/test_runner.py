"""The runner: same questions in the same order, every answer kept at once, an interrupted run goes on."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from specdecodes.benchmark import runner
from specdecodes.benchmark.progress import Progress
from specdecodes.benchmark.questions.samples import Benchmark, Sample, Score
from specdecodes.benchmark.results.reading import find_results
from specdecodes.benchmark.results.records import ResultsError
from specdecodes.benchmark.runner import finished, run

QUESTIONS = Benchmark(
    "tiny", "made by the test", tuple(Sample(str(n), "math", (f"q{n}", f"and {n}?")) for n in range(6))
)


def trip(value):
    return json.loads(json.dumps(value))


def lines(folder):
    return (folder / "tiny" / "samples.jsonl").read_text().splitlines()


def answers(folder):
    """The samples without what every run measures anew."""
    return [{**json.loads(line), "finished": "", "peak_device_bytes": 0} for line in lines(folder)]


def test_every_method_is_asked_the_same_samples_in_the_same_order(fake, pipeline, tmp_path):
    asked = []
    for method in ("vanilla", "subspec_sd"):
        generator = fake(method=method)
        run(generator, QUESTIONS, replace(pipeline, method=method, seed=3), tmp_path / method, max_samples=4)
        asked.append(generator.asked)
    assert asked[0] == asked[1]
    assert QUESTIONS.select(0) != QUESTIONS.samples
    assert QUESTIONS.select(3, 4) == QUESTIONS.select(3, 6)[:4]


def test_the_second_turn_sees_the_first_answer_and_keeps_its_cache(fake, pipeline, tmp_path):
    generator = fake()
    run(generator, QUESTIONS, pipeline, tmp_path, max_samples=1)
    first, second = generator.asked
    number = first[0][0].removeprefix("user: q")
    assert first == ([f"user: q{number}"], False)
    assert second == ([f"user: q{number}", "assistant: 4 tokens", f"user: and {number}?"], True)


def test_a_run_stopped_by_ctrl_c_goes_on_where_it_stopped(fake, pipeline, tmp_path):
    for interrupt in (True, False):
        out, stopping, resuming = tmp_path / str(interrupt), fake(stop_at=5, interrupt=interrupt), fake()
        with pytest.raises(KeyboardInterrupt):
            run(stopping, QUESTIONS, pipeline, out)
        assert len(lines(out)) == 2  # the third was in its second turn
        summary = run(resuming, QUESTIONS, pipeline, out)
        assert len(resuming.asked) == 8
        assert summary["samples"] == 6
        assert len({json.loads(line)["id"] for line in lines(out)}) == 6


def test_a_last_line_cut_by_a_kill_is_dropped_and_run_again(fake, pipeline, tmp_path):
    said: list[str] = []
    run(fake(), QUESTIONS, pipeline, tmp_path)
    path = tmp_path / "tiny" / "samples.jsonl"
    whole = answers(tmp_path)
    path.write_bytes(path.read_bytes()[:-30])
    generator = fake()
    run(generator, QUESTIONS, pipeline, tmp_path, notify=said.append)
    assert len(generator.asked) == 2
    assert any("cut short" in line for line in said)
    assert answers(tmp_path) == whole


def test_a_damaged_line_in_the_middle_is_refused_by_its_number(fake, pipeline, tmp_path):
    run(fake(), QUESTIONS, pipeline, tmp_path)
    path = tmp_path / "tiny" / "samples.jsonl"
    kept = path.read_text().splitlines(keepends=True)
    path.write_text("".join([kept[0], "oops\n", *kept[2:]]))
    with pytest.raises(ResultsError, match="line 2"):
        run(fake(), QUESTIONS, pipeline, tmp_path)


def test_changed_settings_are_refused_by_name_and_more_samples_are_not(fake, pipeline, tmp_path):
    run(fake(), QUESTIONS, pipeline, tmp_path, max_samples=2)
    deeper = replace(pipeline, tree=replace(pipeline.tree, depth=8))
    with pytest.raises(ResultsError, match=r"pipeline\.tree\.depth was 16 and is 8"):
        run(fake(), QUESTIONS, deeper, tmp_path, max_samples=2)
    others = replace(QUESTIONS, samples=QUESTIONS.samples[1:])
    with pytest.raises(ResultsError, match=r"benchmark\.sha256"):
        run(fake(), others, pipeline, tmp_path)
    generator = fake()
    assert run(generator, QUESTIONS, pipeline, tmp_path, max_samples=3)["samples"] == 3
    assert len(generator.asked) == 2


def test_a_failed_sample_is_recorded_and_tried_again_by_the_next_run(fake, pipeline, tmp_path):
    summary = run(fake(fails="and 4?"), QUESTIONS, pipeline, tmp_path)
    assert summary["samples"] == 5
    assert summary["failed"] == {"4": "ContextOverflowError: the prompt does not fit."}
    mended = fake()
    summary = run(mended, QUESTIONS, pipeline, tmp_path)
    assert (summary["samples"], summary["failed"], len(mended.asked)) == (6, {}, 2)


def test_a_run_in_which_all_fail_still_says_so(fake, pipeline, tmp_path):
    summary = run(fake(fails="q"), QUESTIONS, pipeline, tmp_path)
    assert summary["samples"] == 0
    assert len(summary["failed"]) == 6


def test_what_is_finished_is_known_without_a_model(fake, pipeline, tmp_path):
    assert finished(QUESTIONS, pipeline, tmp_path) is None
    summary = run(fake(), QUESTIONS, pipeline, tmp_path, max_samples=3)
    assert trip(finished(QUESTIONS, pipeline, tmp_path, max_samples=3)) == trip(summary)
    assert finished(QUESTIONS, pipeline, tmp_path, max_samples=4) is None
    assert finished(QUESTIONS, pipeline, tmp_path, max_samples=2)["samples"] == 2
    with pytest.raises(ResultsError, match="seed"):
        finished(QUESTIONS, replace(pipeline, seed=5), tmp_path)


def test_the_warm_up_is_not_counted(fake, pipeline, tmp_path):
    generator = fake()
    seen = []
    summary = run(generator, QUESTIONS, replace(pipeline, warmup=2), tmp_path, max_samples=1, watch=seen.append)
    assert [str(one) for one in seen[:2]] == ["warm-up [1/2], turn 1", "warm-up [2/2], turn 1"]
    assert len(generator.asked) == 4
    assert summary["requests"] == 2
    long, short = (words for (words,), _ in generator.asked[:2])
    assert len(long) > 4 * len(short), "prompts of many chunks are run in steps of their own"


def test_progress_tells_sample_speed_tau_and_time_left(fake, pipeline, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "PROGRESS_SECONDS", -1.0)
    seen: list[Progress] = []
    run(fake(), QUESTIONS, pipeline, tmp_path, max_samples=1)
    run(fake(), QUESTIONS, pipeline, tmp_path, max_samples=3, watch=seen.append)
    assert [(p.event, p.turn, p.new_tokens) for p in seen[:6]] == [
        ("asking", 1, 0),
        ("asking", 1, 1),
        ("asking", 1, 4),
        ("asking", 2, 5),
        ("asking", 2, 8),
        ("done", 2, 8),
    ]
    assert [(p.number, p.total) for p in seen] == [(2, 3)] * 6 + [(3, 3)] * 6
    assert seen[5].tau == 2.0 and seen[5].tokens_per_second > 0
    assert [p.seconds_left is None for p in seen] == [True] * 5 + [False] * 7
    assert seen[5].seconds_left > 0 and seen[-1].seconds_left == 0
    assert str(seen[5]).startswith(f"tiny [2/3] math {seen[5].sample}: 8 tokens, ")


def test_a_failed_sample_is_seen_failing(fake, pipeline, tmp_path):
    seen: list[Progress] = []
    run(fake(fails="and"), QUESTIONS, pipeline, tmp_path, max_samples=1, watch=seen.append)
    assert seen[-1].event == "failed"
    assert str(seen[-1]).endswith("FAILED, ContextOverflowError: the prompt does not fit.")


def test_memory_that_runs_out_fails_one_sample(fake, pipeline, tmp_path):
    class Short(fake):
        def stream(self, prompt, params, *, reuse_cache=False):
            if not self.asked:
                self.asked.append(([], False))
                raise torch.OutOfMemoryError("out of memory")
            yield from super().stream(prompt, params, reuse_cache=reuse_cache)

    summary = run(Short(), QUESTIONS, pipeline, tmp_path)
    assert summary["samples"] == 5
    assert list(summary["failed"].values()) == ["OutOfMemoryError: out of memory"]


def test_a_resumed_run_sums_up_like_one_that_was_never_stopped(fake, pipeline, tmp_path):
    whole = run(fake(), QUESTIONS, pipeline, tmp_path / "whole")
    for stop in (1, 5, 7):
        with pytest.raises(KeyboardInterrupt):
            run(fake(stop_at=stop), QUESTIONS, pipeline, tmp_path / "parts")
        (tmp_path / "parts").rename(tmp_path / f"stopped-{stop}")
        parts = run(fake(), QUESTIONS, pipeline, tmp_path / f"stopped-{stop}")
        assert without_memory(parts) == without_memory(whole)


def without_memory(summary):
    return {name: value for name, value in summary.items() if name != "peak_device_bytes"}


def test_a_resumed_run_that_is_placed_otherwise_says_so(fake, pipeline, tmp_path):
    said: list[str] = []
    first = fake()
    run(first, QUESTIONS, pipeline, tmp_path, max_samples=1)
    assert run(fake(), QUESTIONS, pipeline, tmp_path, max_samples=2)["earlier_plans"] == []
    moved = replace(first.placement, resident=(0, 1), streamed=())
    summary = run(fake(placement=moved), QUESTIONS, pipeline, tmp_path, notify=said.append)
    assert summary["earlier_plans"] == [first.placement.summary()]
    assert any(first.placement.summary() in line for line in said)


def test_an_interrupted_folder_can_be_read(fake, pipeline, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(fake(stop_at=5), QUESTIONS, pipeline, tmp_path, command="a command")
    path = tmp_path / "tiny" / "samples.jsonl"
    path.write_bytes(path.read_bytes() + b'{"id": "cut')
    results = find_results(tmp_path)["tiny"]
    assert not (tmp_path / "tiny" / "summary.json").exists()
    assert len(results.done) == results.summary["samples"] == 2
    assert (results.method, results.summary["model"], results.summary["command"]) == ("vanilla", "fake", "a command")
    assert results.facts["plan_rows"] and results.facts["environment"]["revision"]
    assert results.settings["pipeline"]["tree"]["depth"] == 16
    assert path.read_bytes().endswith(b"cut")
    with pytest.raises(ResultsError, match="holds no results"):
        find_results(tmp_path / "nowhere")


def test_answers_of_an_earlier_run_are_scored_without_asking_again(fake, pipeline, tmp_path):
    scored = replace(QUESTIONS, score=lambda sample, text: Score(sample.id != "3", text, "4 tokens", "a note"))
    run(fake(), scored, pipeline, tmp_path, max_samples=2)
    assert json.loads(lines(tmp_path)[0])["score"] is None
    run(fake(), scored, pipeline, tmp_path, max_samples=5, score=True)
    summary = finished(scored, pipeline, tmp_path, max_samples=5, score=True)
    assert summary["scored"] == 5
    generator = fake()
    summary = run(generator, scored, pipeline, tmp_path, score=True)
    assert (summary["score"], summary["scored"], len(generator.asked)) == (pytest.approx(5 / 6), 6, 2)
    low, high = summary["score_interval"]
    assert 0 < low < 5 / 6 < high == 1
    assert json.loads(lines(tmp_path)[-1])["scoring"] == {
        "extracted": "4 tokens",
        "expected": "4 tokens",
        "note": "a note",
    }


def test_the_summary_holds_ratios_of_sums(fake, pipeline, tmp_path):
    summary = run(fake(), QUESTIONS, pipeline, tmp_path, max_samples=3, command="a command")
    stored = json.loads((tmp_path / "tiny" / "summary.json").read_text())
    assert stored == trip(summary)
    assert stored["new_tokens"] == 6 * 4
    assert stored["tokens_per_second"] == pytest.approx(24 / 12)
    assert stored["decode_tokens_per_second"] == pytest.approx(6 * 3 / (6 * 1.5))
    assert (stored["tau"], stored["tokens_per_round"], stored["rounds"]) == (2, 3, 6)
    assert stored["bytes_streamed"] == 6 * (1000 + 500)
    assert stored["link_gbps"] == pytest.approx(1500 / 0.5 / 1e9)
    assert stored["link_utilization"] == pytest.approx(0.5 / 2)
    assert stored["bound_tokens_per_second"] == pytest.approx(3 / 1000 * 3000)
    assert stored["predicted_tokens_per_second"] == stored["plan"]["predicted"]["tokens_per_second"] > 0
    assert stored["time_to_first_token_s"] == pytest.approx(0.5)
    assert (stored["command"], stored["source"]) == ("a command", "made by the test")
