"""Examples in docstrings run."""

from __future__ import annotations

import doctest

from nec.codec import embedding_codec


def test_docstring_examples() -> None:
    result = doctest.testmod(embedding_codec)
    assert result.attempted > 5
    assert result.failed == 0
