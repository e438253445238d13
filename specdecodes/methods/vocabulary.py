"""Whether a draft model has the target's words, told before anything is loaded."""

from __future__ import annotations

import filecmp
from functools import cache
from pathlib import Path
from typing import Any

from specdecodes.errors import ConfigError
from specdecodes.methods.site import Site
from specdecodes.models.loading import load_tokenizer


def check_vocabulary(site: Site, draft: Site) -> None:
    """The same words under the same ids; what a release adds to them (`<|eom_id|>`) may have other names. Raises
    ConfigError."""
    _check(site.checkpoint.folder, draft.checkpoint.folder, site.pipeline.method)


@cache
def _check(ours: Path, theirs: Path, method: str) -> None:
    """Plans ask many times; a refusal is not kept, nor are equal files read."""
    our, their = (folder / "tokenizer.json" for folder in (ours, theirs))
    if our.is_file() and their.is_file() and filecmp.cmp(our, their, shallow=False):
        return
    if _words(load_tokenizer(ours)) != _words(load_tokenizer(theirs)):
        raise ConfigError(
            f"{theirs.name} and {ours.name} have different vocabularies; {method} needs a draft with the target's "
            "tokenizer."
        )


def _words(tokenizer: Any) -> dict[str, int]:
    added = tokenizer.get_added_vocab()
    return {word: index for word, index in tokenizer.get_vocab().items() if word not in added}
