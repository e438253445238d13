"""The dice, the filters, and that sampled frequencies are the model's."""

from __future__ import annotations

import pytest
import torch

from specdecodes.errors import ConfigError
from specdecodes.sampling import PositionNoise, Sampler, SamplingParams, process
from specdecodes.tree import TokenTree


def test_noise_is_a_function_of_seed_and_position_alone():
    noise, other = PositionNoise(3, 50), PositionNoise(4, 50)
    rows = noise.rows(torch.tensor([5, 9, 5]))
    assert rows[0].equal(rows[2])
    assert rows[1].equal(noise.rows(torch.tensor([9]))[0])
    assert not rows[0].equal(rows[1])
    assert not rows[0].equal(other.rows(torch.tensor([5]))[0])


def test_rows_of_one_position_have_one_noise_in_any_order():
    noise, positions = PositionNoise(7, 97), torch.tensor([9, 4, 9, 9, 2, 4])
    rows = noise.rows(positions)
    for row, position in zip(rows, positions, strict=True):
        assert row.equal(noise.rows(position[None])[0])
    assert not rows[0].equal(rows[1])


def test_noise_is_standard_gumbel():
    sample = PositionNoise(0, 1000).rows(torch.arange(500)).double()
    assert abs(sample.mean().item() - 0.5772) < 0.01
    assert abs(sample.var().item() - 1.6449) < 0.02
    assert sample.isfinite().all()


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
def test_sampled_frequencies_are_the_models(temperature):
    """Chi-square over 200 seeds and 100 positions, 12 tokens: 11 degrees of freedom, 0.001 quantile 31.26."""
    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(0)) * 1.5
    rows, positions = logits.expand(100, -1), torch.arange(17, 117)
    counts = torch.zeros(12)
    for seed in range(200):
        sampler = Sampler(SamplingParams(temperature=temperature, seed=seed), 12)
        counts += torch.bincount(sampler.scores(rows, positions).argmax(-1), minlength=12)
    expected = (logits[0] / temperature).softmax(-1) * 20_000
    assert float(((counts - expected) ** 2 / expected).sum()) < 31.26


def test_a_bias_of_one_percent_would_show():
    """Chi-square over 400,000 positions, 4 tokens: 3 degrees of freedom, 0.001 quantile 16.27."""
    shares = torch.tensor([0.4, 0.3, 0.2, 0.1])
    tokens = (shares.log() + PositionNoise(5, 4).rows(torch.arange(400_000))).argmax(-1)
    counts = torch.bincount(tokens, minlength=4).double()

    def distance(expected: torch.Tensor) -> float:
        return float(((counts - expected * 400_000) ** 2 / (expected * 400_000)).sum())

    assert distance(shares) < 16.27
    assert distance(shares + torch.tensor([0.01, -0.01, 0.0, 0.0])) > 16.27


def test_positions_are_independent():
    """Pairs of neighbouring positions under one seed: 9 cells, 8 degrees of freedom, 0.001 quantile 26.12."""
    logits = torch.tensor([[0.3, -0.2, 0.9]])
    share = logits[0].softmax(-1)
    scores = logits + PositionNoise(11, 3).rows(torch.arange(40_000))
    tokens = scores.argmax(-1).view(-1, 2)
    counts = torch.bincount(tokens[:, 0] * 3 + tokens[:, 1], minlength=9)
    expected = torch.outer(share, share).flatten() * 20_000
    assert float(((counts - expected) ** 2 / expected).sum()) < 26.12


LOGITS = torch.tensor([[3.0, 2.0, 1.0, 0.0, -1.0]])


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"top_k": 2}, [0, 1]),
        ({"top_k": 9}, [0, 1, 2, 3, 4]),
        ({"top_p": 0.6}, [0]),  # the first alone has 0.636
        ({"top_p": 0.7}, [0, 1]),
        ({"top_p": 1e-9}, [0]),
        ({"min_p": 0.3}, [0, 1]),  # e^-1 = 0.37 of the best
        ({"top_k": 3, "min_p": 0.1}, [0, 1, 2]),
    ],
)
def test_filters(options, kept):
    scores = process(LOGITS, SamplingParams(temperature=1.0, **options))
    assert scores.isfinite()[0].nonzero().flatten().tolist() == kept


def test_a_row_does_not_depend_on_its_neighbours():
    params = SamplingParams(temperature=0.8, top_k=7, top_p=0.9, min_p=0.01)
    logits = torch.randn(33, 50, generator=torch.Generator().manual_seed(2))
    alone = torch.cat([process(row[None], params) for row in logits])
    assert process(logits, params).equal(alone)


def test_repetition_penalty_sees_history_and_path():
    sampler = Sampler(SamplingParams(repetition_penalty=2.0), 6)
    sampler.observe([0])
    tree = TokenTree.rooted(torch.tensor(0), 3)
    tree.extend(torch.tensor([0, 0]), torch.tensor([1, 2]), torch.tensor([-1.0, -1.0]))
    logits = torch.tensor([[4.0, 4.0, -4.0, 4.0, 4.0, 4.0]]).expand(3, -1)
    scores = sampler.node_scores(logits, tree, slice(0, 3), 10)
    assert scores[0].tolist() == [2.0, 4.0, -4.0, 4.0, 4.0, 4.0]
    assert scores[1].tolist() == [2.0, 2.0, -4.0, 4.0, 4.0, 4.0]
    assert scores[2].tolist() == [2.0, 4.0, -8.0, 4.0, 4.0, 4.0]


def test_a_forgetful_sampler_is_a_new_one():
    used, fresh = (Sampler(SamplingParams(repetition_penalty=2.0, temperature=1.0, seed=3), 6) for _ in range(2))
    used.observe([1, 4])
    used.forget()
    for sampler in (used, fresh):
        sampler.observe([2])
    logits, positions = torch.randn(3, 6), torch.tensor([4, 5, 6])
    assert used.scores(logits, positions).equal(fresh.scores(logits, positions))


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1},
        {"temperature": float("inf")},
        {"temperature": float("nan")},
        {"top_p": 0},
        {"top_p": 1.1},
        {"min_p": 1},
        {"top_k": -1},
        {"repetition_penalty": 0},
        {"seed": 1 << 63},
        {"max_tokens": 0},
        {"stop": ("",)},
    ],
)
def test_settings_that_cannot_hold_are_refused(options):
    ((name, value),) = options.items()
    with pytest.raises(ConfigError) as refused:
        SamplingParams(**options)
    said = str(refused.value)
    assert said.startswith(f"{name} must be ") and said.endswith(f", not {value}.")


@pytest.mark.parametrize("size", [1, 5, 7])
def test_tokens_chosen_some_rows_at_a_time_are_those_chosen_at_once(size, monkeypatch):
    tree = TokenTree.rooted(torch.tensor(3), 8)
    for node in range(size - 1):
        tree.extend(torch.tensor([node // 2]), torch.tensor([node % 4]), torch.tensor([-1.0]))
    params = SamplingParams(temperature=0.9, top_p=0.9, repetition_penalty=1.2, seed=5)
    sampler, logits = Sampler(params, 11), torch.randn(8, 11, generator=torch.Generator().manual_seed(1))
    sampler.observe([2, 3])
    wanted = sampler.node_scores(logits, tree, slice(0, tree.capacity), 10).argmax(-1)[:size]
    assert sampler.choices(logits, tree, 10).equal(wanted)
    monkeypatch.setattr("specdecodes.sampling.at_once", lambda device, rows: 2)
    assert sampler.choices(logits, tree, 10).equal(wanted)
