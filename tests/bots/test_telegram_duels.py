"""Two answers to compare come whole, however long they are and whatever Telegram says of styles."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bots.markup import utf16_length
from bots.telegram.show import LIMIT
from core.duels import Duel
from core.messages import Outcome, Reply
from tests.bots.desks import ANSWER
from tests.bots.telegram_fake import FakeTelegram
from tests.bots.telegram_world import CONVERSATION, opened, person


@pytest.fixture
async def fake() -> AsyncIterator[FakeTelegram]:
    async with FakeTelegram().serving() as server:
        yield server


def duel(*texts: str) -> Duel:
    one, other = (
        Reply(letter * 32, CONVERSATION, text, Outcome.ANSWERED, "en")
        for letter, text in zip("ab", texts, strict=True)
    )
    return Duel("d" * 32, one.id, person(), one, other)


async def test_two_long_answers_are_compared_in_several_messages(
    tmp_path: Path, fake: FakeTelegram
) -> None:
    long = " ".join([ANSWER] * 60)
    async with opened(tmp_path, fake) as world:
        await world.telegram.comparisons.show(duel(long, f"{long} Dry them."))
    assert all(utf16_length(one.text) <= LIMIT for one in fake.shown)
    whole = " ".join(" ".join(one.text.split()) for one in fake.shown)
    assert f"A {long} B {long} Dry them." in whole
    assert [bool(one.data) for one in fake.shown] == [False, True]


async def test_two_answers_whose_styles_are_refused_are_compared_in_plain_text(
    tmp_path: Path, fake: FakeTelegram
) -> None:
    fake.takes_entities = False
    async with opened(tmp_path, fake) as world:
        await world.telegram.comparisons.show(duel("Wash **them**.", "Brush them."))
    [shown] = fake.shown
    assert "A\nWash them.\n\nB\nBrush them." in shown.text
    assert shown.entities == []
    assert shown.data
