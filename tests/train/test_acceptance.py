"""N-gram chains are counted where the target agrees with what came before."""

from __future__ import annotations

import pytest
import torch

from specdecodes.train.acceptance import ngram_acceptance
from specdecodes.train.data_gen.shards import Stored


def test_chains_of_a_text_that_repeats_itself():
    tokens = torch.tensor([1, 2, 3, 4] * 3)
    mask = torch.arange(12) >= 4  # the first round is the prompt's
    # The target's choice behind a token is the token that follows in the text, all but once.
    last = torch.zeros(12, 5).scatter_(1, (tokens % 4 + 1)[:, None], 1.0)
    last[8] = torch.tensor([9.0, 0, 0, 0, 0])  # behind the third 1 it would say 0
    rates = ngram_acceptance([Stored(tokens, mask, last, last)], [0], torch.eye(5), 2)
    # Rows 2 to 9 stand for tokens 3 to 10. Token 3 has no precedent: its row fails. Row 7 stands for token 8, whose
    # next the target does not want; row 6 drafts well once and then meets it.
    assert rates == pytest.approx([6 / 8, 4 / 7])
