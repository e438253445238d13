"""A request from prompt to text: where it ends, what it streams, what survives an error."""

from __future__ import annotations

import gc
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from specdecodes.errors import ConfigError, ContextOverflowError, NumericsError, StreamError
from specdecodes.methods import build
from specdecodes.sampling import SamplingParams
from tests.test_lossless import GREEDY, PROMPTS, pipeline_for


@pytest.fixture(scope="module")
def folder(tiny_checkpoint):
    return tiny_checkpoint("llama")


@pytest.fixture(scope="module")
def generator(folder):
    with build(pipeline_for("subspec_sd", folder, None, exact=True), progress=lambda text: None) as made:
        yield made


def test_chunks_add_up_to_the_answer(generator):
    chunks = list(generator.stream("w5 w9 w11", GREEDY))
    answer = chunks[-1].generation
    assert "".join(chunk.text for chunk in chunks) == answer.text
    assert sum((chunk.tokens for chunk in chunks), ()) == answer.tokens
    assert answer.finish_reason == "length" and len(answer.tokens) == 60
    assert answer.prompt_tokens == 3


def test_phases_add_up_to_the_wall_clock(generator):
    answer = generator.generate(PROMPTS[0], GREEDY)
    assert sum(answer.phase_seconds.values()) == pytest.approx(answer.total_seconds, rel=0.02)
    assert answer.time_to_first_token_s < answer.total_seconds


@pytest.mark.parametrize("method", ["vanilla", "subspec_sd"])
def test_answers_end_where_they_should(method, folder):
    """The same place for every method: an end token, a stop string, the last token allowed, a full context."""
    with build(pipeline_for(method, folder, None, exact=True), progress=lambda text: None) as made:
        free = made.generate(PROMPTS[0], GREEDY)
        middle = free.tokens[31]
        first = free.tokens.index(middle)
        made.eos_ids = frozenset({middle})
        ended = made.generate(PROMPTS[0], replace(GREEDY, ignore_eos=False))
        assert (ended.finish_reason, ended.tokens) == ("stop", free.tokens[: first + 1])
        word = made.tokenizer.decode([middle])
        stopped = made.generate(PROMPTS[0], replace(GREEDY, stop=("nothing", word)))
        assert stopped.finish_reason == "stop_string"
        assert free.text.startswith(stopped.text) and word not in stopped.text
        assert len(stopped.tokens) <= first + 1
        one = made.generate(PROMPTS[0], replace(GREEDY, max_tokens=1))
        assert (one.tokens, one.rounds, one.finish_reason) == (free.tokens[:1], (), "length")
        full = made.generate(PROMPTS[1], replace(GREEDY, max_tokens=1000))
        assert full.finish_reason == "context" and full.prompt_tokens + len(full.tokens) == made.context_length


def test_a_stop_string_is_never_shown(generator):
    free = generator.generate(PROMPTS[0], GREEDY).text
    stop = free[20:27]
    shown = ""
    for chunk in generator.stream(PROMPTS[0], replace(GREEDY, stop=(stop,))):
        shown += chunk.text
        assert stop not in shown
    assert shown == free[: free.index(stop)]


def test_prompts(generator):
    assert generator.encode("w5 w9") == [5, 9] == generator.encode([5, 9])
    assert generator.encode([{"role": "user", "content": "w5"}]) == [1, 5, 3]
    assert generator.encode("") == [1]
    with pytest.raises(ContextOverflowError, match="256.*shorten it or raise max_length"):
        generator.encode(list(range(3, 90)) * 3)
    template, generator.tokenizer.chat_template = generator.tokenizer.chat_template, None
    with pytest.raises(ConfigError, match="no chat template.*--raw"):
        generator.encode([{"role": "user", "content": "w5"}])
    generator.tokenizer.chat_template = template


@pytest.mark.parametrize("prompt", ["w5 \udcff", [{"role": "user", "content": "w5 \udcff"}]])
def test_bytes_that_are_no_text_are_refused(prompt, generator):
    """So a line of a Latin-1 file arrives from standard input."""
    with pytest.raises(ConfigError, match="not UTF-8"):
        generator.encode(prompt)


@pytest.mark.parametrize("template", ["{{ raise_exception('no system messages') }}", "{% for m in messages %}{{ m"])
def test_a_template_that_refuses_is_told(template, generator, monkeypatch):
    monkeypatch.setattr(generator.tokenizer, "chat_template", template)
    with pytest.raises(ConfigError, match="refuses these messages: (no system messages|unexpected end).*--raw"):
        generator.encode([{"role": "system", "content": "w5"}])


def test_an_abandoned_answer_leaves_no_trace(generator):
    wanted = generator.generate(PROMPTS[0], GREEDY).tokens
    stream = generator.stream(PROMPTS[1], GREEDY)
    for _ in range(3):
        next(stream)
    stream.close()
    assert generator.generate(PROMPTS[0], GREEDY).tokens == wanted
    partial = generator.stream(PROMPTS[0], GREEDY)
    told = [next(partial).tokens for _ in range(3)]
    partial.close()
    again = generator.generate(PROMPTS[0] + sum(told, ()), GREEDY, reuse_cache=True)
    assert again.cached_tokens == len(PROMPTS[0] + sum(told, ())) - 1


def test_a_kept_cache_is_compared_token_by_token(generator):
    told = list(PROMPTS[0]) + list(generator.generate(PROMPTS[0], GREEDY).tokens)
    changed = len(PROMPTS[0]) + 2
    told[changed] = 5 if told[changed] != 5 else 6
    again = generator.generate(told, GREEDY, reuse_cache=True)
    assert again.cached_tokens == changed
    assert again.tokens == generator.generate(told, GREEDY).tokens


@pytest.mark.parametrize("method", ["vanilla", "subspec_sd", "classic_sd"])
def test_ctrl_c_in_a_pass(method, folder, monkeypatch):
    """Interrupted inside a streamed pass, at several layers; the next answer is the right one."""
    pipeline = pipeline_for(method, folder, folder, exact=True, streamed=True)
    with build(pipeline, progress=lambda text: None) as made:
        wanted = made.generate(PROMPTS[0], GREEDY).tokens
        step = made._target.steps.layer
        for after in (3, 10, 23):
            calls = iter(range(after + 1))

            def interrupted(*arguments, calls=calls):
                if next(calls, None) is None:
                    raise KeyboardInterrupt
                return step(*arguments)

            object.__setattr__(made._target.steps, "layer", interrupted)
            with pytest.raises(KeyboardInterrupt):
                made.generate(PROMPTS[1], GREEDY)
            object.__setattr__(made._target.steps, "layer", step)
            assert made.generate(PROMPTS[0], GREEDY).tokens == wanted


def test_nan_weights_are_named_and_the_engine_stays_usable(folder):
    with build(pipeline_for("subspec_sd", folder, None, exact=True), progress=lambda text: None) as made:
        wanted = made.generate(PROMPTS[0], GREEDY).tokens
        weight = made._target.decoder.stack[1].mlp.up_proj.weight
        kept = weight.clone()
        weight[5, 7] = float("nan")
        with pytest.raises(NumericsError, match="NaN or infinite.*checkpoint's weights are broken"):
            made.generate(PROMPTS[0], GREEDY)
        weight.copy_(kept)
        assert made.generate(PROMPTS[0], GREEDY).tokens == wanted


def test_a_file_that_vanishes_ends_the_request_only(folder, tmp_path):
    copy = tmp_path / "model"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    weights = copy / "model.safetensors"
    with build(pipeline_for("vanilla", copy, None, exact=True, streamed=True), progress=lambda text: None) as made:
        wanted = made.generate(PROMPTS[0], GREEDY).tokens
        whole = weights.read_bytes()
        with weights.open("r+b") as file:
            file.truncate(len(whole) // 2)
        with pytest.raises(StreamError, match=r"model\.safetensors"):
            made.generate(PROMPTS[0], GREEDY)
        with weights.open("r+b") as file:
            file.write(whole)
        assert made.generate(PROMPTS[0], GREEDY).tokens == wanted


BUDGET_SCRIPT = """
import resource, sys, torch
torch.set_num_threads(1)
from specdecodes.config import Memory, Pipeline, Target, Tree
from specdecodes.methods import build
from specdecodes.methods.measured import step_times
from specdecodes.sampling import SamplingParams
step_times._REPEATS = 1

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def answer(folder, method, budget):
    pipeline = Pipeline(method, Target(folder, device="cpu"), tree=Tree(2, 4, 8, adaptive=False), memory=Memory(budget),
                        max_length=128, compile=False)
    with build(pipeline, progress=lambda text: None) as made:
        made.generate([5, 9, 11], SamplingParams(max_tokens=12, ignore_eos=True))
        return made.placement

answer(sys.argv[1], sys.argv[3], "1GiB")  # a small one first: what Python, torch and its threads take
before = peak()
placement = answer(sys.argv[2], sys.argv[3], sys.argv[4])
print(len(placement.streamed), peak() - before)
"""


@pytest.mark.long
@pytest.mark.parametrize("method", ["vanilla", "subspec_sd"])
def test_budgets_are_obeyed(method, folder, tiny_checkpoint):
    """Peak memory of a process that runs a 67 MB model under 48 MB grows by the budget at most."""
    large = tiny_checkpoint("llama", dtype="bf16", hidden_size=512, intermediate_size=2048, num_hidden_layers=8)
    gc.collect()
    command = [sys.executable, "-c", BUDGET_SCRIPT, str(folder), str(large), method, "48MB"]
    streamed, grown = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert streamed > 0
    assert sum(span.stat().st_size for span in large.glob("*.safetensors")) > 60e6
    assert grown < 48e6


def test_from_pretrained(folder):
    from specdecodes.generator import Generator

    fields = {"draft__quant": "hqq4:g32", "tree__depth": 3, "max_length": 128, "compile": False}
    with Generator.from_pretrained(str(folder), memory="1GiB", **fields) as made:
        assert (made.method, made.context_length) == ("subspec_sd", 128)
        assert len(made.generate("w5 w9", SamplingParams(max_tokens=7, ignore_eos=True)).tokens) == 7
    with pytest.raises(ConfigError, match="tree.deptth.*tree.depth"):
        Generator.from_pretrained(str(folder), tree__deptth=3)


def test_two_generators_at_once(folder):
    """Interleaved requests of a streamed and a resident generator do not touch each other."""
    one = pipeline_for("subspec_sd", folder, None, exact=True)
    two = pipeline_for("vanilla", folder, None, exact=True, streamed=True)
    with build(one, progress=lambda text: None) as a, build(two, progress=lambda text: None) as b:
        wanted = a.generate(PROMPTS[0], GREEDY).tokens
        streams = [a.stream(PROMPTS[0], GREEDY), b.stream(PROMPTS[0], GREEDY)]
        tokens = [(), ()]
        alive = {0, 1}
        while alive:
            for i in sorted(alive):
                chunk = next(streams[i])
                tokens[i] += chunk.tokens
                if chunk.generation:
                    alive.discard(i)
    assert tokens == [wanted, wanted]
    assert torch.is_grad_enabled()
