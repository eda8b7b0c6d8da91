"""Talks that a kill cuts in the middle of each answer: they go on as if nothing had happened."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from core.messages import Rating, Turn
from core.store import Store
from core.tables import turns
from tests.bots import slack_world, telegram_world
from tests.bots.desks import ANSWER
from tests.bots.slack_fake import FakeSlack
from tests.bots.telegram_fake import ANN, FakeTelegram
from tests.bots.workers import worker

QUESTIONS = ("How do I wash canvas shoes?", "And white canvas shoes?", "Grey canvas shoes?")
BEGINNING = " ".join(ANSWER.split()[:2])

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::telegram.warnings.PTBDeprecationWarning"),
]


@pytest.fixture
async def telegram() -> AsyncIterator[FakeTelegram]:
    async with FakeTelegram().serving() as fake:
        # A new process may take its time on a busy machine.
        fake.patience_seconds = 250
        yield fake


@pytest.fixture
async def slack() -> AsyncIterator[FakeSlack]:
    async with FakeSlack().serving() as fake:
        fake.patience_seconds = 250
        yield fake


async def whole_talk(folder: Path, person: str) -> list[Turn]:
    """What is stored: each question once and in order, liked, and asked knowing those before."""
    async with Store(f"sqlite:///{folder / 'solemate.db'}") as store:
        query = turns.select().order_by(turns.c.asked_at)
        rows = await store.run(lambda connection: connection.execute(query).all())
        assert [row.question for row in rows] == list(QUESTIONS)
        talk = [await store.turn(row.reply_id) for row in rows]
        for number, turn in enumerate(talk):
            verdict = await store.verdict(turn.reply.id, person)
            assert verdict is not None
            assert verdict.rating is Rating.UP
            assert [one in str(turn.prompt) for one in QUESTIONS[:number]] == [True] * number
    return talk


async def test_a_talk_on_telegram_goes_on_though_every_answer_is_cut_by_a_kill(
    tmp_path: Path, telegram: FakeTelegram
) -> None:
    for number, question in enumerate(QUESTIONS, 1):
        await telegram.says(question)
        async with worker("telegram", "faltering", tmp_path, telegram.address):
            await telegram.until(lambda: any(BEGINNING in text for text in telegram.drafts[ANN]))
        async with worker("telegram", "solemate", tmp_path, telegram.address):
            answer = await telegram.answered(number)
            await telegram.presses(answer.data[0], answer)
            await telegram.until(lambda shown=answer: shown.labels == ["👍 ✓", "👎"])
    await whole_talk(tmp_path, telegram_world.person())
    assert [shown.text.startswith(ANSWER) for shown in telegram.shown] == [True] * len(QUESTIONS)


async def test_a_talk_in_slack_goes_on_though_every_answer_is_cut_by_a_kill(
    tmp_path: Path, slack: FakeSlack
) -> None:
    thread = None
    for number, question in enumerate(QUESTIONS, 1):
        body = slack.message(question, thread=thread)
        thread = thread or body["event"]["ts"]
        async with worker("slack", "faltering", tmp_path, slack.address):
            await slack.send_until_acknowledged(body)
            # Once more is appended it is committed where the answer is shown.
            before = len(slack.called("chat.appendStream"))
            await slack.until(lambda so_far=before: len(slack.called("chat.appendStream")) > so_far)
        async with worker("slack", "solemate", tmp_path, slack.address):
            answer = await slack.answered(number)
            await slack.presses(answer.data[0], answer)
            await slack.acknowledged(slack.sent[-1])
    await whole_talk(tmp_path, slack_world.person())
    assert [shown.text.startswith(ANSWER) for shown in slack.shown] == [True] * len(QUESTIONS)
