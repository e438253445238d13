"""Weights side by side in huge pages."""

from __future__ import annotations

import torch

from specdecodes.offload.storage.pages import side_by_side


def test_values_shapes_and_types_stay_and_places_are_of_one_block():
    given = {
        "weight": torch.randn(3, 5).bfloat16(),
        "codes": torch.arange(70, dtype=torch.uint8),
        "whole": torch.tensor(7),
    }
    moved = side_by_side(given)
    assert list(moved) == list(given)
    for name, tensor in given.items():
        assert moved[name].equal(tensor) and moved[name].dtype == tensor.dtype and moved[name].shape == tensor.shape
        assert moved[name].data_ptr() != tensor.data_ptr()
        assert moved[name].data_ptr() % 64 == 0
    assert len({tensor.untyped_storage().data_ptr() for tensor in moved.values()}) == 1
    moved["weight"].zero_()
    assert moved["codes"].equal(given["codes"])


def test_a_tensor_of_two_names_is_held_once():
    table = torch.randn(4, 4)
    moved = side_by_side({"embedding": table, "head": table})
    assert moved["embedding"].data_ptr() == moved["head"].data_ptr() and moved["head"].equal(table)


def test_what_does_not_lie_contiguous_here_stays():
    given = {"turned": torch.randn(3, 4).T, "elsewhere": torch.empty(3, device="meta"), "nothing": torch.empty(0)}
    assert all(side_by_side(given)[name] is tensor for name, tensor in given.items())
