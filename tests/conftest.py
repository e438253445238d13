"""Tiny random checkpoints of every family, made here: no hub, no network."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from specdecodes.models.families import ModelSpec

TINY: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FAMILY_OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama3": ("Llama", {"rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": True, "head_dim": 32}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2-sliding": ("Qwen2", {"use_sliding_window": True, "sliding_window": 12, "max_window_layers": 1}),
    "qwen3": ("Qwen3", {"head_dim": 32}),
    "mistral": ("Mistral", {"sliding_window": 16}),
}


def pytest_collectstart() -> None:
    """Before the first module of tests is imported. The process that hands tests to workers imports none, and with all
    imports in here and in fixtures starts them at once."""
    import torch

    gc.disable()  # until all is imported: its passes over half a million new objects take seconds
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # helpers that import torch would wait for a core
    if not torch.cuda.is_available():  # kernels in Triton run under its interpreter, if it is told before its import
        os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long comes first, so that no worker is left alone with it at the end."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_collection_finish() -> None:
    """What is imported stays, and is not looked at again and again."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Tiny models run over 20 times faster on one thread than on two that meet at barriers."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def cache_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is read from or written to the user's own cache, but for what takes long to compile."""
    from specdecodes.folders import cache_folder

    users, folder = cache_folder(), tmp_path_factory.mktemp("cache")
    for name in ("kernels", "inductor"):
        (users / name).mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(users / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPECDECODES_CACHE", str(folder))
        yield


@pytest.fixture(autouse=True, scope="session")
def brief_timing() -> Iterator[None]:
    """Plans time each step once, not twenty times: no test asks how fast this machine is."""
    from specdecodes.methods.measured import step_times

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_times, "_REPEATS", 1)
        yield


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`tiny_checkpoint(family, dtype="fp32", seed=0, **config)`: the folder of a random checkpoint, made once a
    session."""
    made: dict[Any, Path] = {}

    def make(family: str = "llama", dtype: str = "fp32", seed: int = 0, **options: Any) -> Path:
        key = (family, dtype, seed, repr(options))
        if key not in made:
            made[key] = write_tiny(tmp_path_factory.mktemp(f"{family}-{dtype}"), family, dtype, seed, options)
        return made[key]

    return make


def tiny_config(family: str, options: dict[str, Any]) -> Any:
    import transformers

    name, extra = FAMILY_OPTIONS[family]
    return getattr(transformers, f"{name}Config")(**{**TINY, **extra, **options})


def tiny_spec(family: str = "llama", **options: Any) -> ModelSpec:
    """What the decoder would be told of such a checkpoint."""
    from specdecodes.models.families import spec_of

    return spec_of(tiny_config(family, options))


def write_tiny(folder: Path, family: str, dtype: str, seed: int, options: dict[str, Any]) -> Path:
    import torch
    import transformers

    shards = options.pop("max_shard_size", "1GB")
    config = tiny_config(family, options)
    torch.manual_seed(seed)
    model = getattr(transformers, f"{FAMILY_OPTIONS[family][0]}ForCausalLM")(config)
    with torch.no_grad():
        for parameter in model.parameters():  # Large enough that argmax has an opinion, biases and norms included.
            parameter.copy_(
                torch.randn_like(parameter) * 0.15 if parameter.ndim > 1 else 1 + 0.2 * torch.randn_like(parameter)
            )
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    model.to(dtypes[dtype]).save_pretrained(folder, max_shard_size=shards)
    write_tokenizer(folder, config.vocab_size)
    return folder


def write_tokenizer(folder: Path, vocab_size: int) -> None:
    """A word-level tokenizer: token i is the word `w<i>`, with a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, vocab_size)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fast.chat_template = (
        "{% for m in messages %}{{ '<s> ' if m['role'] == 'user' else '' }}{{ m['content'] }} {% endfor %}"
        "{% if add_generation_prompt %}w3 {% endif %}"
    )
    fast.save_pretrained(folder)


@pytest.fixture
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans without timing steps: what is compared does not depend on how long they take."""
    from specdecodes.methods.memory import placement
    from specdecodes.offload.planning.predict import Step, StepTimes

    step = Step(1e-4)
    monkeypatch.setattr(placement, "timed_steps", lambda *needs: StepTimes(step, step, step, 5e-5, 1e-4))
