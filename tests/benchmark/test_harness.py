"""A pipeline under the real lm-evaluation-harness, on tasks in local files: the same figures as the harness's own
Transformers model on the same checkpoint."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from specdecodes.benchmark import lm_eval as entry
from specdecodes.errors import ConfigError, ContextOverflowError

pytest.importorskip("lm_eval", reason=f"lm-evaluation-harness is an extra: {entry.INSTALL}")

COMMON = "dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {data}\ntest_split: test\n"
TASKS = {
    "choice": COMMON + "output_type: multiple_choice\ndoc_to_text: '{{{{text}}}}'\ndoc_to_choice: '{{{{choices}}}}'\n"
    "doc_to_target: answer\nmetric_list:\n- metric: acc\n  aggregation: mean\n  higher_is_better: true\n",
    "rolling": COMMON + "output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{{{text}}}}'\n"
    "metric_list:\n- metric: bits_per_byte\n  aggregation: bits_per_byte\n  higher_is_better: false\n",
    "answer": COMMON + "output_type: generate_until\ndoc_to_text: '{{{{text}}}}'\ndoc_to_target: '{{{{stop}}}}'\n"
    "generation_kwargs:\n  until: [w7]\n  max_gen_toks: 12\nmetric_list:\n- metric: exact_match\n"
    "  aggregation: mean\n  higher_is_better: true\n",
}
BEGINNING = " ".join(f"w{3 + 7 * i % 90}" for i in range(30))
DOCUMENTS = [
    {"text": f"{BEGINNING} w5", "choices": ["w9", "w10 w11", "w12"], "answer": 1, "stop": "w7"},
    {"text": f"{BEGINNING} w6 w8", "choices": ["w9", "w10 w11", "w12"], "answer": 0, "stop": "w7"},
    {"text": " ".join([BEGINNING] * 4), "choices": ["w4", "w5"], "answer": 0, "stop": "w7"},  # longer than the context
]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    data = folder / "documents.jsonl"
    data.write_text("\n".join(map(json.dumps, DOCUMENTS)))
    for name, text in TASKS.items():
        (folder / f"{name}.yaml").write_text(f"task: {name}\n" + text.format(data=data))
    return folder


@pytest.fixture(scope="module")
def pipeline(tiny_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pipeline") / "tiny.py"
    path.write_text(
        "from specdecodes.config import *\n"
        f"pipeline = Pipeline('subspec_sd', Target({str(tiny_checkpoint('llama'))!r}, device='cpu'), "
        "Draft(quant='hqq4:g32'), "
        "Tree(3, 4, 12), Memory('4GiB'), max_length=64, compile=False)\n"
    )
    return path


def evaluate(tasks: Path, model: str, arguments: dict[str, Any], **more: Any) -> Any:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("HF_HUB_OFFLINE", "1")
        patched.setenv("HF_DATASETS_OFFLINE", "1")
        patched.setenv("HF_DATASETS_CACHE", str(tasks / "cache"))
        from lm_eval import simple_evaluate
        from lm_eval.tasks import TaskManager

        importlib.import_module("specdecodes.benchmark.harness")  # registers the model
        manager = TaskManager(include_path=str(tasks), include_defaults=False)
        settings = {"task_manager": manager, "bootstrap_iters": 0, "device": "cpu", "log_samples": True}
        return simple_evaluate(model, arguments, list(TASKS), **settings, **more)


@pytest.fixture(scope="module")
def by_transformers(tasks: Path, tiny_checkpoint: Callable[..., Path]) -> Any:
    arguments = {"pretrained": str(tiny_checkpoint("llama")), "dtype": "float32", "max_length": 64}
    return evaluate(tasks, "hf", arguments)


def answers(results: Any, task: str) -> list[Any]:
    """What the model said, document by document, as the harness logged it."""
    samples = sorted(results["samples"][task], key=lambda sample: sample["doc_id"])
    return [response for sample in samples for response in sample["resps"]]


@pytest.mark.parametrize("batch_size", [1, "auto"])
def test_every_kind_of_request_equals_transformers(
    tasks: Path, pipeline: Path, by_transformers: Any, batch_size: int | str
) -> None:
    ours = evaluate(tasks, "specdecodes", {"pipeline": str(pipeline)}, batch_size=batch_size)
    choices, theirs = answers(ours, "choice"), answers(by_transformers, "choice")
    assert [likeliest for (_, likeliest), *_ in choices] == [likeliest for (_, likeliest), *_ in theirs]
    assert [nats for (nats, _), *_ in choices] == pytest.approx([nats for (nats, _), *_ in theirs], abs=1e-4)
    assert len(choices) == 8
    wholes = [nats for nats, *_ in answers(ours, "rolling")]
    assert wholes == pytest.approx([nats for nats, *_ in answers(by_transformers, "rolling")], abs=1e-3)
    assert answers(ours, "answer") == answers(by_transformers, "answer")
    texts = [text for text, *_ in answers(ours, "answer")]
    assert all(texts) and "w7" not in "".join(texts), "answers end before the stop string"


@pytest.fixture(scope="module")
def model(pipeline: Path) -> Any:
    from specdecodes.benchmark.harness import PipelineLM

    return PipelineLM(str(pipeline), batch_size="auto:4", max_batch_size=3, **{"tree.depth": 2})


def test_settings_reach_the_pipeline(model: Any, pipeline: Path) -> None:
    from specdecodes.benchmark.harness import PipelineLM

    assert (model.batch_size, model.max_length) == (3, 64)
    with pytest.raises(ConfigError, match="did you mean 'tree.depth'"):
        PipelineLM(str(pipeline), **{"tree.dept": 2})
    with pytest.raises(ConfigError, match="no CUDA device was found"):
        PipelineLM(str(pipeline), device="cuda:1")


def test_requests_that_begin_alike_reuse_the_cache(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.api.instance import Instance

    texts = [("", "w5")]  # nothing before it: the harness puts the prefix token there
    ((nats, _),) = model.loglikelihood([Instance("loglikelihood", {}, texts[0], 0)], disable_tqdm=True)
    assert nats < 0

    kept: list[int] = []
    generate = model._generator.generate

    def recorded(*arguments: Any, **options: Any) -> Any:
        generation = generate(*arguments, **options)
        kept.append(generation.cached_tokens)
        return generation

    monkeypatch.setattr(model._generator, "generate", recorded)
    asked = [(f"{BEGINNING} {end}", {"until": ["w7"], "max_gen_toks": 4}) for end in ("w5", "w6", "w5")]
    requests = [Instance("generate_until", {}, arguments, place) for place, arguments in enumerate(asked)]
    said = model.generate_until(requests, disable_tqdm=True)
    assert said[0] == said[2] and kept == [0, 30, 30]


def test_chat_templates_and_special_tokens(model: Any) -> None:
    assert model.apply_chat_template([{"role": "user", "content": "w5"}]) == "<s> w5 w3 "
    assert model.tok_encode("<s> w5") == [1, 5]
    assert model.prefix_token_id == 1 and model.eot_token_id == 2


def test_what_a_task_asks_for_is_done_or_refused(model: Any) -> None:
    from specdecodes.benchmark.harness import sampling_params

    params = sampling_params({"do_sample": True, "top_k": 5, "until": "a", "max_tokens": 3}, seed=9)
    assert (params.temperature, params.top_k, params.stop, params.max_tokens, params.seed) == (1.0, 5, ("a",), 3, 9)
    assert sampling_params({"temperature": 0.7, "do_sample": False}).greedy
    assert sampling_params({}).max_tokens == 256
    with pytest.raises(ConfigError, match="did you mean 'repetition_penalty'"):
        sampling_params({"repetiton_penalty": 1.2})
    with pytest.raises(ConfigError, match="beam search"):
        sampling_params({"num_beams": 4})
    with pytest.raises(ContextOverflowError, match="raise max_length"):
        model._loglikelihood_tokens([(None, [1], [5] * 65)])
    with pytest.raises(ConfigError, match="lower max_gen_toks"):
        model._question("w5", {"max_gen_toks": 64})


def test_every_argument_goes_to_the_harness_s_own_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lm_eval.api.registry import get_model

    monkeypatch.setattr(sys, "argv", ["lm_eval", "run", "--help"])
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert ended.value.code == 0 and "--num_fewshot" in capsys.readouterr().out
    assert get_model("specdecodes").__name__ == "PipelineLM"


def test_an_absent_harness_is_one_line_with_the_cure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert ended.value.code == 2 and 'pip install "lm_eval==0.4.13"' in capsys.readouterr().err
