"""Which language a browser asks for."""

from __future__ import annotations

import pytest

from bots.web.person import preferred


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("en-GB,en;q=0.9", "en"),
        ("fr-FR,zh;q=0.4,en;q=0.7", "en"),
        ("ZH-Hant", "zh"),
        ("fr", None),
        ("", None),
        ("zh;q=many, en", "en"),
    ],
)
def test_the_language_liked_best_is_chosen(header: str, language: str | None) -> None:
    assert preferred(header) == language
