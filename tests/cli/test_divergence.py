"""Where two runs part, and by how many bits their logits differ."""

from __future__ import annotations

import pytest
import torch

from specdecodes.cli.divergence import Divergence, Trace, compare, differing_bits
from specdecodes.cli.run_verify import describe

ROWS = torch.tensor([[0.0, 3.0, 1.0], [5.0, 1.0, 4.5], [0.5, 0.0, 2.0]])


def test_equal_runs_have_no_divergence_and_no_differing_bit():
    found = compare(Trace((1, 0, 2), ROWS), Trace((1, 0, 2), ROWS.clone()))
    assert (found.tokens, found.rows, found.differing_rows, found.differing_bits) == (3, 3, 0, 0)
    assert found.divergence is None


def test_the_first_other_token_is_found_with_the_margin_of_the_plain_run():
    other = ROWS.clone()
    other[2] += 1
    found = compare(Trace((1, 0, 2), ROWS), Trace((1, 2, 0), other))
    assert found.divergence == Divergence(1, 0, 2, 0.5)
    assert found.rows == 2, "rows after the divergence follow other tokens and are not compared"
    assert found.differing_rows == 0


def test_a_run_that_ends_early_diverges_where_it_ends():
    found = compare(Trace((1, 0, 2), ROWS), Trace((1, 0), ROWS[:2]))
    assert found.divergence == Divergence(2, 2, None, 1.5)
    assert (found.tokens, found.rows) == (2, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_bits_are_counted_in_every_dtype(dtype: torch.dtype):
    left = torch.tensor([[1.0, 2.0], [0.0, 4.0], [1.0, 1.0]], dtype=dtype)
    right = left.clone()
    right[0, 1] = -2.0  # the sign bit
    right[1, 0] = -0.0  # equal numbers, other bits
    right.view(torch.int16 if dtype.itemsize == 2 else torch.int32)[0, 0] ^= 0b111
    assert differing_bits(left, right).tolist() == [4, 1, 0]


def test_rows_of_other_bits_are_counted_even_when_tokens_agree():
    other = ROWS.clone()
    other[1, 1] = torch.nextafter(other[1, 1], torch.tensor(2.0))
    found = compare(Trace((1, 0, 2), ROWS), Trace((1, 0, 2), other))
    assert found.divergence is None
    assert (found.differing_rows, found.differing_bits) == (1, 1)


def test_a_divergence_is_told_in_one_line():
    line = describe(Divergence(12, 5, None, 0.015625), lambda tokens: f"<{tokens[0]}>")
    assert line == (
        "first divergence at new token 12: plain 5 '<5>', speculative the end; "
        "the plain run's two best logits are 0.01562 apart"
    )
