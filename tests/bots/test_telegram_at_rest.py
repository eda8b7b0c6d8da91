"""A person's number on Telegram, which names their private chat, is in nothing that is kept."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bots.telegram.place import Names
from core.privacy import Pseudonyms
from core.renaming import rename_conversations
from core.wording import say
from tests.bots.telegram_fake import FakeTelegram
from tests.bots.telegram_world import NAMES, World, jpeg, opened, reply_id, running

ANN = 7_318_554_902
QUESTION = "How do I wash canvas shoes?"


@pytest.fixture
async def fake() -> AsyncIterator[FakeTelegram]:
    async with FakeTelegram().serving() as server:
        yield server


def kept(folder: Path) -> dict[str, bytes]:
    """What the files hold."""
    return {file.name: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def is_kept(folder: Path) -> bool:
    return any(str(ANN).encode() in data for data in kept(folder).values())


async def say_and_vote(fake: FakeTelegram, world: World) -> None:
    """Ask, with a photo too, like, dislike, correct, begin anew, and leave a question waiting."""
    mine = {"user": ANN, "chat": ANN}
    async with running(world):
        await fake.says(QUESTION, **mine)
        shown = await fake.answered()
        wrong = f"wrong_facts:{reply_id(shown.data)}"
        await fake.presses(shown.data[1], shown, user=ANN)
        await fake.until(lambda: wrong in shown.data)
        await fake.presses(wrong, shown, user=ANN)
        await fake.until(lambda: say("ask_correction", "en") in fake.texts(ANN))
        await world.telegram.errands.finished()
        await fake.replies(fake.shown[-1], "By hand.", **mine)
        await fake.until(lambda: say("correction_thanks", "en") in fake.texts(ANN))
        await fake.reacts("👍", shown, user=ANN)
        await fake.says("/new", **mine)
        await fake.sends_photo(jpeg(), caption=QUESTION, **mine)
        await fake.answered(2)
        await world.telegram.errands.finished()
    async with running(world, answering=False):
        await fake.says(QUESTION, **mine)
        await fake.until(lambda: not fake.waiting)


async def test_a_persons_number_is_in_nothing_that_is_kept(
    tmp_path: Path, fake: FakeTelegram, log_file: Path
) -> None:
    async with opened(tmp_path, fake) as world:
        await say_and_vote(fake, world)
        assert QUESTION.encode() in b"".join(kept(tmp_path).values())
        assert not is_kept(tmp_path)
    assert b"rated" in kept(tmp_path)[log_file.name]
    assert not is_kept(tmp_path)


async def test_a_number_that_is_not_sealed_is_found(
    tmp_path: Path, fake: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pseudonyms, "seal", lambda _, number: str(number))
    monkeypatch.setattr(Pseudonyms, "unseal", lambda _, text: int(text))
    async with opened(tmp_path, fake) as world:
        await say_and_vote(fake, world)
    assert is_kept(tmp_path)


async def test_what_an_older_version_kept_openly_is_sealed_and_goes_on(
    tmp_path: Path, fake: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Names, "chat", lambda _, place: f"telegram:{place.bot_id}:{place.chat_id}")
        async with opened(tmp_path, fake) as world:
            await say_and_vote(fake, world)
    assert is_kept(tmp_path)
    async with opened(tmp_path, fake) as world:
        store, inbox = world.desk.store, world.desk.inbox
        assert await rename_conversations(store, NAMES.sealing) == 2
        await store.wipe(rewrite=True)
        assert not is_kept(tmp_path)
        await inbox.take_over()
        async with running(world):
            await fake.answered(3)
            liked = next(one for one in fake.shown if one.data)
            await fake.presses(liked.data[0], liked, user=ANN)
            await fake.reacts("👎", liked, user=ANN)
            await fake.until(lambda: liked.labels[0] != "👍")
    assert {one.chat_id for one in fake.shown} == {ANN}
