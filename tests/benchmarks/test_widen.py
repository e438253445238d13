"""A widened checkpoint is larger and says the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from benchmarks.shape import GROUP, Shape, choose_shape, read_shape, scaled
from benchmarks.widen import main, widen
from specdecodes.config import Memory, Pipeline, Target
from specdecodes.errors import CheckpointError, ConfigError
from specdecodes.likelihood import ScoreRequest
from specdecodes.methods import build
from tests.conftest import write_tokenizer

DEMO = Shape(vocabulary=4096, hidden=320, intermediate=832, layers=6, heads=10, kv_heads=5, head_dim=32)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama whose weights are large enough that its greedy text is no repetition."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=199,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        initializer_range=0.15,
        rms_norm_eps=1e-2,  # so large that a wrong epsilon shows
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data.uniform_(0.5, 1.5)
    folder = tmp_path_factory.mktemp("source")
    model.to(torch.bfloat16).save_pretrained(folder)
    write_tokenizer(folder, 199)
    return folder


def wide_shape(source: Path, factor: int, layers: int = 5) -> Shape:
    narrow, _ = read_shape(source)
    return replace(scaled(narrow, factor), intermediate=384, layers=layers)


def run(folder: Path, dtype: torch.dtype) -> tuple[torch.Tensor, list[int]]:
    """Logits [1, 24, vocabulary] of a fixed prompt, and 60 greedy tokens after it."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    prompt = torch.arange(3, 27)[None]
    with torch.inference_mode():
        logits = model(prompt).logits.float()
        tokens = model.generate(prompt, max_new_tokens=60, do_sample=False, eos_token_id=None, pad_token_id=0)
    return logits, tokens[0, 24:].tolist()


@pytest.fixture(scope="module")
def said(source: Path) -> tuple[torch.Tensor, list[int]]:
    return run(source, torch.float32)


@pytest.mark.parametrize("factor", [1, 2, 4, 8, 16])
def test_same_function_at_every_factor(
    source: Path, said: tuple[torch.Tensor, list[int]], tmp_path: Path, factor: int
) -> None:
    widen(source, tmp_path / "wide", 0, shape=wide_shape(source, factor))
    logits, tokens = said
    wide_logits, wide_tokens = run(tmp_path / "wide", torch.float32)
    assert len(set(tokens)) > 10, "the source repeats itself, so that equal text proves little"
    torch.testing.assert_close(wide_logits, logits, rtol=0, atol=1e-4)
    assert wide_tokens == tokens


def test_filled_with_zeros_rotated_weights_keep_the_function(source: Path, tmp_path: Path) -> None:
    """Of random weights beside the source's, some are mixed into them when what was rotated is rounded."""

    def distance(folder: Path) -> float:
        target = Target(str(folder), device="cpu", dtype="fp32", quant="w4a16")
        pipeline = Pipeline("vanilla", target, memory=Memory("1GiB"), max_length=64, compile=False)
        rows: list[torch.Tensor] = []
        with build(pipeline, progress=lambda line: None) as generator:
            generator.score([ScoreRequest(tuple(range(3, 27)))], on_logits=rows.append)
        return float((torch.cat(rows) - logits).norm() / logits.norm())

    logits = run(source, torch.float32)[0][0, :-1]
    for fill in ("random", "zeros"):
        widen(source, tmp_path / fill, 0, shape=wide_shape(source, 4), zeros=fill == "zeros")
    assert torch.allclose(run(tmp_path / "zeros", torch.float32)[0][0, :-1], logits, rtol=0, atol=1e-4)
    assert distance(tmp_path / "zeros") < 0.5 * distance(tmp_path / "random")


def test_same_text_in_bf16(source: Path, tmp_path: Path) -> None:
    widen(source, tmp_path / "wide", 0, shape=wide_shape(source, 4))
    logits, _ = run(source, torch.bfloat16)
    wide_logits, _ = run(tmp_path / "wide", torch.bfloat16)
    # sums run in another order, so rounding differs; the function does not
    assert (wide_logits - logits).abs().max() < 0.05 * logits.abs().max()


@pytest.mark.parametrize("factor", [2, 4, 16])
def test_quantization_groups_are_the_sources(source: Path, tmp_path: Path, factor: int) -> None:
    widen(source, tmp_path / "wide", 0, shape=wide_shape(source, factor))
    real = {1: 0, 3: 1}  # of five layers, the second and the fourth are the source's
    with (
        safe_open(source / "model.safetensors", "pt") as narrow,
        safe_open(tmp_path / "wide/model.safetensors", "pt") as wide,
    ):
        for index, original in real.items():
            for name in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"):
                block = "mlp" if name[0] in "gud" else "self_attn"
                ours = groups(narrow.get_tensor(f"model.layers.{original}.{block}.{name}.weight"))
                theirs = groups(wide.get_tensor(f"model.layers.{index}.{block}.{name}.weight"))
                assert ours <= theirs, f"{name} of layer {original} is cut into other groups"


def groups(weight: torch.Tensor) -> set[bytes]:
    """The runs of 64 inputs of every output row that 4-bit quantization gives one scale."""
    return {group.tobytes() for group in weight.float().reshape(-1, GROUP).numpy()}


def test_most_weights_are_random_and_repeatable(source: Path, tmp_path: Path) -> None:
    shape = wide_shape(source, 4, layers=12)
    for folder in ("one", "two"):
        widen(source, tmp_path / folder, 0, shape=shape)
    one, two = ((tmp_path / folder / "model.safetensors").read_bytes() for folder in ("one", "two"))
    assert one == two
    with safe_open(tmp_path / "one/model.safetensors", "pt") as tensors:
        zeros = sum(int((tensors.get_tensor(name) == 0).sum()) for name in tensors.keys())  # noqa: SIM118
    assert zeros / shape.parameters() < 0.25


def test_shards_load_alike(source: Path, tmp_path: Path) -> None:
    shape = wide_shape(source, 4)
    widen(source, tmp_path / "one", 0, shape=shape)
    widen(source, tmp_path / "three", 0, shape=shape, shards=3)
    index = json.loads((tmp_path / "three/model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) == 3
    assert torch.equal(run(tmp_path / "one", torch.float32)[0], run(tmp_path / "three", torch.float32)[0])


@pytest.mark.parametrize("size", [40e6, 500e6, 1.5e9, 3e9, 6e9, 15e9, 64e9])
def test_sizes_are_met_with_plausible_shapes(size: float) -> None:
    shape = choose_shape(DEMO, int(size))
    assert 1 <= shape.parameters() * 2 / size < 1.05
    assert 1.4 <= shape.intermediate / shape.hidden <= 4.2
    assert shape.hidden % GROUP == shape.intermediate % GROUP == 0
    if size >= 1e9:
        assert 60 <= shape.layers <= 100


def test_impossible_sizes_are_refused(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match="less than the source's own 15.2 MiB"):
        choose_shape(DEMO, 10_000_000)
    with pytest.raises(ConfigError, match="free at"):
        widen(source, tmp_path / "wide", 10**15)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(ConfigError, match="not empty"):
        widen(source, tmp_path / "full", 10**6)
    with pytest.raises(CheckpointError, match="config.json does not exist"):
        widen(tmp_path / "nowhere", tmp_path / "wide", 10**6)
    monkeypatch.setattr(
        "sys.argv", ["widen", "--out", str(tmp_path / "wide"), "--size", "lots", "--source", str(source)]
    )
    assert main() == 2
    assert "'lots' is not a size" in capsys.readouterr().err


def test_the_shape_of_a_7b_model() -> None:
    """28 layers of half a gigabyte, as Qwen2.5-7B has them."""
    shape = choose_shape(DEMO, 15 * 10**9, layers=28)
    assert (shape.layers, shape.hidden) == (28, 5120)
    assert shape.intermediate % (2 * GROUP) == 0
    assert 15e9 <= 2 * shape.parameters() < 15.2e9
