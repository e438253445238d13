"""Our own form of quantized checkpoints: the same weights, the same bytes every time, and they stream."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from specdecodes.config import Draft, Memory, Middle, Tree
from specdecodes.errors import BudgetError, CheckpointError
from specdecodes.methods import build, plan_for
from specdecodes.methods.weights import conversion
from specdecodes.methods.weights.conversion import convert_checkpoint
from specdecodes.models.loading import load_linear, open_checkpoint
from tests.quantized_linears import awq, ct_packed, ct_plain, gptq, qoq, qqq, write_checkpoint
from tests.test_lossless import GREEDY, SAMPLED, pipeline_for

FORMATS = {
    "gptq": gptq(symmetric=False, act_order=True),
    "gptq-8": gptq(8),
    "awq": awq(),
    "ct-w4a16": ct_packed(group=0),
    "ct-w8a8": ct_plain(dynamic=False),
    "ct-fp8": ct_plain("float"),
    "qqq-8": qqq(128),
    "qoq-8": qoq(),
}
WIDE = {"hidden_size": 128, "intermediate_size": 128, "num_attention_heads": 4}
PROMPT = tuple(3 + 7 * i % 90 for i in range(40))


def quiet(text):
    pass


@pytest.fixture(scope="module")
def source(tiny_checkpoint, tmp_path_factory):
    """`source(form)`: a tiny checkpoint of that format in three shards, made once."""
    made = {}

    def make(form):
        if form not in made:
            folder = tmp_path_factory.mktemp(form) / "source"
            plain = tiny_checkpoint("llama", **(WIDE if form.startswith("q") else {}))
            made[form] = write_checkpoint(plain, folder, *FORMATS[form], shards=3)
        return made[form]

    return make


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(("form", "device"), [*((form, "cpu") for form in FORMATS), ("gptq", "cuda"), ("awq", "cuda")])
def test_converted_weights_are_the_same_to_the_last_bit(form, device, source, tmp_path):
    made = source(form)
    done = convert_checkpoint(str(made.folder), tmp_path / "out", device, quiet)
    assert done.kernel == ("w4a16" if device == "cuda" else "reference" if "8" in form[2:] else "w4a32")
    before, after = open_checkpoint(str(made.folder)), open_checkpoint(str(tmp_path / "out"))
    for name, weight in made.weights.items():
        index, path = int(name.split(".")[2]), ".".join(name.split(".")[3:5])
        codes = load_linear(after, index, path).codes
        assert torch.equal(codes.weight(), weight)
        step = load_linear(before, index, path).codes.step
        assert step is None or torch.equal(codes.step, step)
    assert after.outer().keys() == before.outer().keys()


def test_shards_are_kept_and_a_second_run_gives_the_same_bytes(source, tmp_path):
    folder = source("gptq").folder
    first = convert_checkpoint(str(folder), tmp_path / "one", "cpu", quiet)
    convert_checkpoint(str(folder), tmp_path / "two", "cpu", quiet)
    content = bytes_of(tmp_path / "one")
    assert (first.written, first.kept) == (3, 0)
    assert content == bytes_of(tmp_path / "two")
    assert content.keys() == bytes_of(folder).keys()
    # A linear is where its first tensor was, whole.
    for shard in folder.glob("*.safetensors"):
        stems = {name.rpartition(".")[0] for name in load_file(tmp_path / "one" / shard.name)}
        assert stems <= {name.rpartition(".")[0] for name in load_file(shard)}


def test_a_checkpoint_as_qserve_publishes_it(source, tmp_path):
    """One file that torch.save wrote, beside the index of what was quantized, and a config that says nothing of it."""
    made, folder = source("qoq-8").folder, tmp_path / "published"
    shutil.copytree(made, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(
        {name: tensor for shard in made.glob("*.safetensors") for name, tensor in load_file(shard).items()},
        folder / "pytorch_model.bin",
    )
    config = json.loads((made / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))
    found, wanted = open_checkpoint(str(folder)), open_checkpoint(str(made))
    assert (found.layout, found.rules) == (wanted.layout, wanted.rules)
    assert convert_checkpoint(str(folder), tmp_path / "out", "cpu", quiet).written == 1
    convert_checkpoint(str(made), tmp_path / "wanted", "cpu", quiet)
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    shards = [load_file(shard) for shard in (tmp_path / "wanted").glob("*.safetensors")]
    assert tensors.keys() == set().union(*shards)
    assert all(torch.equal(tensors[name], tensor) for shard in shards for name, tensor in shard.items())
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        path.name for path in folder.iterdir() if "index" not in path.name and path.suffix != ".bin"
    } | {"model.safetensors"}


def test_a_stopped_conversion_goes_on_where_it_was(source, tmp_path):
    folder, out = source("gptq").folder, tmp_path / "out"
    convert_checkpoint(str(folder), out, "cpu", quiet)
    content = bytes_of(out)
    shards = sorted(out.glob("*.safetensors"))
    shards[1].unlink()
    shards[2].write_bytes(shards[2].read_bytes()[:100])
    (out / "config.json").unlink()
    done = convert_checkpoint(str(folder), out, "cpu", quiet)
    assert (done.written, done.kept) == (2, 1)
    assert bytes_of(out) == content


def killed_in_the_second_shard(folder, out):
    """In a process of its own: convert until half of the second shard is written."""
    save = conversion.save_file

    def save_half(tensors, path, about):
        save(tensors, path, about)
        if "00002" in path.name:
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    conversion.save_file = save_half
    convert_checkpoint(str(folder), out, "cpu", quiet)


def test_a_killed_conversion_is_no_checkpoint_and_goes_on(source, tmp_path):
    folder, out = source("gptq").folder, tmp_path / "out"
    process = multiprocessing.get_context("fork").Process(target=killed_in_the_second_shard, args=(folder, out))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        open_checkpoint(str(out))
    done = convert_checkpoint(str(folder), out, "cpu", quiet)
    assert (done.written, done.kept) == (2, 1)
    convert_checkpoint(str(folder), tmp_path / "straight", "cpu", quiet)
    assert bytes_of(out) == bytes_of(tmp_path / "straight"), "nothing of the first try is left"


def test_what_cannot_be_converted_is_refused(source, tiny_checkpoint, tmp_path):
    with pytest.raises(CheckpointError, match="is not quantized"):
        convert_checkpoint(str(tiny_checkpoint("llama")), tmp_path / "out", "cpu", quiet)
    folder = source("awq").folder
    with pytest.raises(CheckpointError, match="the checkpoint itself"):
        convert_checkpoint(str(folder), folder, "cpu", quiet)
    convert_checkpoint(str(folder), tmp_path / "out", "cpu", quiet)
    with pytest.raises(CheckpointError, match="in our own form already"):
        convert_checkpoint(str(tmp_path / "out"), tmp_path / "again", "cpu", quiet)


def answers(pipeline):
    """Tokens, greedy and sampled, and accepted tokens a round."""
    with build(pipeline, progress=quiet) as generator:
        made = [generator.generate(PROMPT, replace(params, max_tokens=16)) for params in (GREEDY, SAMPLED)]
        return [one.tokens for one in made], max(one.tau for one in made), generator.exact


def streaming(pipeline):
    """`pipeline` on the least memory that its plan streams in."""
    resident = plan_for(replace(pipeline, memory=Memory("1GiB")))
    memory = sum(resident.device_bytes.values())
    for share in (0.95, 0.9, 0.85, 0.8, 0.75):
        tight = replace(pipeline, memory=Memory(int(memory * share), compress="off"))
        with contextlib.suppress(BudgetError):
            if plan_for(tight).streamed:
                return tight
    raise AssertionError(f"nothing streams below {memory} bytes")


@pytest.fixture(scope="module")
def converted(tiny_checkpoint, tmp_path_factory):
    """`converted(form)`: plain decoding of a converted target, and what it says, streamed too; made once."""
    made = {}

    def make(form):
        if form not in made:
            sizes = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 4}
            folder = tmp_path_factory.mktemp(f"converted-{form}")
            source = write_checkpoint(
                tiny_checkpoint("llama", num_hidden_layers=8, **sizes), folder / "source", *FORMATS[form]
            )
            convert_checkpoint(str(source.folder), folder / "out", "cpu", quiet)
            plain = replace(pipeline_for("vanilla", folder / "out", None, exact=True), max_length=96)
            wanted = answers(replace(plain, memory=Memory("1GiB")))[0]
            assert answers(streaming(plain))[0] == wanted
            made[form] = plain, wanted
        return made[form]

    return make


@pytest.mark.usefixtures("untimed")
@pytest.mark.parametrize(
    ("form", "draft"), [("gptq", "hqq2:g128"), ("gptq", "higgs2:g128"), ("gptq", "middle"), ("ct-fp8", "hqq3")]
)
def test_a_converted_target_streams_and_its_own_weights_in_fewer_bits_draft(form, draft, converted):
    """Or a middle model does, which is resident, and drafted by the text."""
    plain, wanted = converted(form)
    drafted = replace(plain, method="subspec_sd", draft=Draft(quant="auto" if draft == "middle" else draft))
    if draft == "middle":
        drafted = replace(plain, method="hierspec_sd", middle=Middle(plain.target.model, tree=Tree(3, 4, 10)))
    tokens, tau, exact = answers(streaming(drafted))
    assert tokens == wanted and exact
    assert tau > 0


@pytest.mark.usefixtures("untimed")
def test_a_plan_says_what_keeps_a_quantized_target_from_streaming(source, tmp_path):
    folder = source("awq").folder
    plain = pipeline_for("vanilla", folder, None, exact=True)
    least = sum(plan_for(plain).device_bytes.values())
    with pytest.raises(BudgetError, match="convert it once with run-convert-checkpoint"):
        plan_for(replace(plain, memory=Memory(least // 2)))
    convert_checkpoint(str(folder), tmp_path / "cuda", "cuda", quiet)
    converted = replace(plain, target=replace(plain.target, model=str(tmp_path / "cuda")))
    with pytest.raises(BudgetError, match="converted for the w4a16 kernel"):
        plan_for(replace(converted, memory=Memory(least // 2)))
    assert answers(converted)[0] == answers(plain)[0], "resident it runs on any kernel"
