"""What an unknown name is answered with, and what a disk that refuses is."""

from __future__ import annotations

import errno
import os

import pytest

from specdecodes.errors import LISTED, DiskError, suggest


def test_few_names_are_all_listed_with_the_nearest():
    assert suggest("colour", "gren", ["red", "green"]) == (
        "unknown colour 'gren'; did you mean 'green'? Known: green, red."
    )


def test_of_many_names_only_the_nearest_are_told():
    many = [f"setting.{number:03}" for number in range(3 * LISTED)] + ["tree.depth"]
    assert suggest("setting", "tree.dept", many) == "unknown setting 'tree.dept'; did you mean 'tree.depth'?"
    far = suggest("setting", "qqq", many)
    assert "did you mean" not in far and far.endswith(f"and {2 * LISTED + 1} more.")


@pytest.mark.parametrize(
    ("number", "cure"), [(errno.ENOSPC, "free some space"), (errno.EROFS, "change who may write there")]
)
def test_a_disk_that_refuses_is_named_with_the_cure(number: int, cure: str):
    text = str(DiskError(OSError(number, os.strerror(number), "/some/file")))
    assert text.startswith("/some/file: ") and cure in text and "SPECDECODES_CACHE" in text
