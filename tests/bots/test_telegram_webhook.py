"""The webhook: who may call, what is answered, and that nothing is confirmed before its commit."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.types import Message

from bots.telegram.webhook import MAX_BODY_BYTES, PATH, SECRET_HEADER, Hook, Webhook, check_hook
from core.errors import ConfigError, StoreError
from core.messages import Platform, UserMessage
from core.tables import feedback_events, inbox, turns
from core.wording import say
from tests.bots.desks import ANSWER
from tests.bots.telegram_fake import BEN, FakeTelegram, Json, Refusal
from tests.bots.telegram_world import CONVERSATION, World, jpeg, opened, person
from tests.fakes import HeldChatModel

SECRET = "s" * 40
HOOK = Hook(f"https://shoes.example{PATH}", SECRET)
RIGHT = {SECRET_HEADER: SECRET}
QUESTION = "How do I wash canvas shoes?"
NIGHTLY = (pytest.mark.nightly, pytest.mark.timeout(1800))
# By chance two samples of the same lie as far apart once in 15,000 times.
NOTABLE = 4.0


@pytest.fixture
async def fake() -> AsyncIterator[FakeTelegram]:
    async with FakeTelegram().serving() as server:
        yield server


@dataclass
class Caller:
    """Whoever calls the webhook."""

    world: World
    webhook: Webhook
    client: httpx.AsyncClient

    async def posts(self, update: Json, **headers: str) -> int:
        """Post an update as Telegram does; the status."""
        response = await self.client.post(PATH, json=update, headers={**RIGHT, **headers})
        return response.status_code

    async def says(self, text: str = "", **more: Any) -> int:
        """A person says something, which Telegram posts."""
        return await self.posts(self.world.fake.numbered(self.world.fake.message(text, **more)))


@asynccontextmanager
async def called(folder: Path, fake: FakeTelegram, **more: Any) -> AsyncIterator[Caller]:
    """A solemate that Telegram can call; it answers while its lanes run."""
    async with opened(folder, fake, **more) as world:
        webhook = world.telegram.webhook(world.host, HOOK)
        running = asyncio.create_task(webhook.run())
        await fake.until(lambda: bool(fake.called("setMyCommands")))
        transport = httpx.ASGITransport(Starlette(routes=webhook.routes))
        async with httpx.AsyncClient(transport=transport, base_url="http://solemate") as client:
            yield Caller(world, webhook, client)
        running.cancel()
        await asyncio.wait({running})


async def test_telegram_is_asked_to_call_with_the_secret(
    tmp_path: Path, fake: FakeTelegram
) -> None:
    async with called(tmp_path, fake) as caller:
        assert caller.webhook.status.complaint == ""
    [asked] = fake.called("setWebhook")
    assert (asked["url"], asked["secret_token"]) == (HOOK.url, SECRET)
    assert "message_reaction" in asked["allowed_updates"]


async def test_what_is_posted_is_committed_before_it_is_confirmed(
    tmp_path: Path, fake: FakeTelegram
) -> None:
    async with called(tmp_path, fake) as caller:
        assert await caller.says(QUESTION) == 200
        assert "new" in {row.state for row in await caller.world.rows(inbox.c.state)}
        async with caller.world.desk.lanes.running():
            await fake.answered()


async def test_what_cannot_be_committed_is_asked_for_again(
    tmp_path: Path, fake: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full_disk(*_: object, **more: object) -> bool:
        raise StoreError("full")

    async with called(tmp_path, fake) as caller:
        update = fake.numbered(fake.message(QUESTION))
        with monkeypatch.context() as patch:
            patch.setattr(caller.world.desk.lanes, "submit", full_disk)
            assert await caller.posts(update) == 503
        assert await caller.posts(update) == 200
        async with caller.world.desk.lanes.running():
            await fake.answered()


async def test_a_repeat_has_no_second_effect(tmp_path: Path, fake: FakeTelegram) -> None:
    async with called(tmp_path, fake) as caller:
        question = fake.numbered(fake.message(QUESTION))
        command = fake.numbered(fake.message("/help"))
        statuses = [await caller.posts(update) for update in (question, command) * 100]
        await caller.world.telegram.errands.finished()
        async with caller.world.desk.lanes.running():
            shown = await fake.answered()
        press = fake.numbered_press(shown.data[0], shown)
        statuses += [await caller.posts(press) for _ in range(100)]
        assert len(await caller.world.rows(turns.c.reply_id)) == 1
        assert len(await caller.world.rows(feedback_events.c.id)) == 1
    assert Counter(statuses) == {200: 300}
    assert len(fake.shown) == 2


async def test_emoji_of_one_second_that_come_in_another_order_end_as_they_stand(
    tmp_path: Path, fake: FakeTelegram
) -> None:
    async with called(tmp_path, fake) as caller:
        assert await caller.says(QUESTION) == 200
        async with caller.world.desk.lanes.running():
            shown = await fake.answered()
        now = int(time.time())
        first, second, third, fourth = (
            fake.numbered_reaction(emoji, shown, before=before, date=now)
            for before, emoji in (("", "👍"), ("👍", "👎"), ("👎", ""), ("", "👍"))
        )
        for update in (first, third, second):
            assert await caller.posts(update) == 200
        assert await caller.world.rows(feedback_events.c.rating) == []
        await fake.until(lambda: shown.labels == ["👍", "👎"])
        for update in (fourth, first, third):
            assert await caller.posts(update) == 200
        assert await caller.world.rows(feedback_events.c.rating) == [("up",)]
        await caller.world.telegram.errands.finished()
    assert shown.labels == ["👍 ✓", "👎"]


@pytest.mark.parametrize("people", [20, pytest.param(500, marks=NIGHTLY)])
async def test_a_slow_model_holds_up_no_confirmation(
    tmp_path: Path, fake: FakeTelegram, people: int
) -> None:
    fake.patience_seconds = 250
    model = HeldChatModel([ANSWER])
    async with called(tmp_path, fake, model=model) as caller, caller.world.desk.lanes.running():
        chats = range(100, 100 + people)
        statuses = [await caller.says(QUESTION, user=chat, chat=chat) for chat in chats]
        assert (statuses, model.asked) == ([200] * people, [])
        model.gate.set()
        await fake.answered(people)
        await caller.world.telegram.errands.finished()
    answered = [one for one in fake.shown if any(data.startswith("up:") for data in one.data)]
    assert Counter(one.chat_id for one in answered) == Counter(chats)


async def test_an_album_that_comes_at_once_is_one_question(
    tmp_path: Path, fake: FakeTelegram
) -> None:
    async with called(tmp_path, fake) as caller, caller.world.desk.lanes.running():
        photos = [fake.photo(jpeg(40 + number)) for number in range(3)]
        captions = [{"caption": QUESTION}, {}, {}]
        calls = (
            caller.says(media_group_id="9", photo=photo, **caption)
            for photo, caption in zip(photos, captions, strict=True)
        )
        assert await asyncio.gather(*calls) == [200] * 3
        await fake.answered()
        [row] = await caller.world.rows(turns.c.conversation_id, turns.c.message_id)
        stored = await caller.world.desk.store.photos_of(row.conversation_id, row.message_id)
    assert len(stored) == 3


@pytest.mark.parametrize("secret", ["", "wrong", SECRET[:-1], f"{SECRET}s", "ß" * 40])
async def test_whoever_does_not_know_the_secret_is_refused(
    tmp_path: Path, fake: FakeTelegram, secret: str
) -> None:
    async with called(tmp_path, fake) as caller:
        headers = {SECRET_HEADER: secret.encode()} if secret else {}
        response = await caller.client.post(PATH, json={"update_id": 1}, headers=headers)
        assert await caller.world.rows(inbox.c.state) == []
    assert response.status_code == 403
    assert SECRET not in response.text


@pytest.mark.parametrize(
    "secret", ["", "s", f"{SECRET[:-1]}t", f"t{SECRET[1:]}", f"{SECRET}s", SECRET]
)
async def test_a_secret_is_compared_whole_and_by_nothing_else(
    tmp_path: Path, fake: FakeTelegram, monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    compared = list[tuple[bytes, bytes]]()

    def equal(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return True

    async with called(tmp_path, fake) as caller:
        monkeypatch.setattr("bots.telegram.webhook.hmac.compare_digest", equal)
        assert await caller.posts({"update_id": 1}, **{SECRET_HEADER: secret}) == 200
    assert compared == [(secret.encode(), SECRET.encode())]


async def seconds_by_secret(caller: Caller, count: int) -> tuple[list[int], list[int]]:
    """How long refusals take, in ns: of secrets that are wrong at the beginning, and at the end."""
    first, last = f"t{SECRET[1:]}", f"{SECRET[:-1]}t"
    # Cold caches are nobody's secret.
    taken: dict[str, list[int]] = {first: [], last: []}
    secrets = [first, last] * count
    random.Random(3).shuffle(secrets)

    async def receive() -> Message:
        raise AssertionError("whoever is refused is not read")

    async def send(_message: Message) -> None:
        pass

    for secret in secrets:
        headers = [(SECRET_HEADER.lower().encode(), secret.encode())]
        scope = {"type": "http", "method": "POST", "path": PATH, "headers": headers}
        began = time.perf_counter_ns()
        await caller.webhook(scope, receive, send)
        taken[secret].append(time.perf_counter_ns() - began)
    return taken[first], taken[last]


def significance(one: list[int], other: list[int]) -> float:
    """How far apart two samples lie, in standard deviations of the Mann-Whitney U test."""
    ranks = np.argsort(np.argsort(one + other))
    n, m = len(one), len(other)
    u = ranks[:n].sum() - n * (n - 1) / 2
    return float(abs(u - n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12))


def equal_by_letter(one: bytes, other: bytes) -> bool:
    """What a secret is not to be compared with: it stops where they differ."""
    return len(one) == len(other) and all(a == b for a, b in zip(one, other, strict=True))


@pytest.mark.nightly
@pytest.mark.timeout(1800)
async def test_how_long_a_refusal_takes_tells_nothing_of_the_secret(
    tmp_path: Path, fake: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with called(tmp_path, fake) as caller:
        assert significance(*await seconds_by_secret(caller, 10_000)) < NOTABLE
        monkeypatch.setattr("bots.telegram.webhook.hmac.compare_digest", equal_by_letter)
        assert significance(*await seconds_by_secret(caller, 10_000)) > NOTABLE


async def call_in_every_way(folder: Path, fake: FakeTelegram, rounds: int) -> None:
    """Register and be called with right and wrong secrets, whatever goes wrong meanwhile."""
    fake.refuse("setWebhook", None, Refusal(400, "Bad Request: bad webhook"))
    async with called(folder, fake) as caller:
        for number in range(rounds):
            for secret in ("", "wrong", SECRET):
                for body in (b"{", b"[]", b"x" * 1_000_000, b'{"update_id": 1, "message": 5}'):
                    headers = {SECRET_HEADER: secret, "Content-Type": "application/json"}
                    await caller.client.post(PATH, content=body, headers=headers)
            assert await caller.says(f"{QUESTION} {number}", message_thread_id="none") == 200


@pytest.mark.parametrize("rounds", [2, pytest.param(800, marks=NIGHTLY)])
async def test_the_secret_stands_in_no_line_of_the_log(
    tmp_path: Path, fake: FakeTelegram, log_file: Path, rounds: int
) -> None:
    await call_in_every_way(tmp_path, fake, rounds)
    logged = await asyncio.to_thread(log_file.read_text)
    assert logged.count("webhook_refused") >= rounds
    assert SECRET not in logged


async def test_the_secret_stands_in_the_log_where_the_library_writes_its_own(
    tmp_path: Path, fake: FakeTelegram, log_file: Path
) -> None:
    logging.getLogger().setLevel(logging.DEBUG)
    logging.getLogger("telegram").setLevel(logging.DEBUG)
    await call_in_every_way(tmp_path, fake, 1)
    assert SECRET in await asyncio.to_thread(log_file.read_text)


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"x" * 1_000_000, "application/json", 413),
        (b"x" * (MAX_BODY_BYTES + 1), "application/json", 413),
        (b'{"update_id": 1}', "text/plain", 415),
        (b"{", "application/json", 400),
        (b"\xff", "application/json", 400),
        (b"[]", "application/json", 400),
        (b"{}", "application/json", 400),
        (b'{"update_id": "1"}', "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b'{"update_id": 1}', "application/json", 200),
        (b'{"update_id": 2, "a_new_kind": {"id": 1}}', "application/json; charset=utf-8", 200),
        (b'{"update_id": 3, "message": 5}', "application/json", 200),
    ],
)
async def test_each_body_gets_its_status(
    tmp_path: Path, fake: FakeTelegram, body: bytes, kind: str, status: int
) -> None:
    async with called(tmp_path, fake) as caller:
        headers = {**RIGHT, "Content-Type": kind}
        response = await caller.client.post(PATH, content=body, headers=headers)
    assert response.status_code == status


async def test_only_posts_are_answered(tmp_path: Path, fake: FakeTelegram) -> None:
    async with called(tmp_path, fake) as caller:
        response = await caller.client.get(PATH, headers=RIGHT)
    assert response.status_code == 405
    assert response.headers["Allow"] == "POST"


async def test_before_telegram_was_reached_updates_are_asked_for_again(
    tmp_path: Path, fake: FakeTelegram
) -> None:
    async with opened(tmp_path, fake) as world:
        webhook = world.telegram.webhook(world.host, HOOK)
        transport = httpx.ASGITransport(Starlette(routes=webhook.routes))
        async with httpx.AsyncClient(transport=transport, base_url="http://solemate") as client:
            response = await client.post(PATH, json={"update_id": 1}, headers=RIGHT)
    assert response.status_code == 503
    assert webhook.status.complaint


async def test_a_webhook_that_somebody_removed_is_set_again(
    tmp_path: Path, fake: FakeTelegram
) -> None:
    async with opened(tmp_path, fake) as world:
        webhook = Webhook(
            world.telegram.bot,
            HOOK,
            world.telegram.intake(world.host),
            begin=lambda: None,
            check_seconds=0,
        )
        running = asyncio.create_task(webhook.run())
        await fake.until(lambda: fake.webhook == HOOK.url)
        fake.webhook = ""
        await fake.until(lambda: fake.webhook == HOOK.url)
        fake.webhook_error = "Wrong response from the webhook: 502 Bad Gateway"
        await fake.until(lambda: "502" in webhook.status.complaint)
        running.cancel()
        await asyncio.wait({running})


async def test_over_a_backlog_people_are_told_their_number(
    tmp_path: Path, fake: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bots.lanes.BACKLOG_SECONDS", -1.0)
    async with called(tmp_path, fake) as caller:
        assert await caller.says(QUESTION) == 200
        assert await caller.says(QUESTION, user=BEN, chat=BEN) == 200
        await caller.world.telegram.errands.finished()
        assert fake.texts(BEN) == [say("in_line", "en", number=2)]
        async with caller.world.desk.lanes.running():
            await fake.answered(2)
    assert len(fake.texts(BEN)) == 1


async def test_over_a_backlog_an_album_is_told_its_number_once(
    tmp_path: Path, fake: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bots.lanes.BACKLOG_SECONDS", -1.0)
    async with called(tmp_path, fake) as caller:
        assert await caller.says(QUESTION) == 200
        for number in range(3):
            photo = fake.photo(jpeg(40 + number))
            more = {"caption": QUESTION} if number == 0 else {}
            album = {"media_group_id": "9", "photo": photo, "user": BEN, "chat": BEN, **more}
            assert await caller.says(**album) == 200
            await caller.world.telegram.errands.finished()
        assert fake.texts(BEN) == [say("in_line", "en", number=2)]
        async with caller.world.desk.lanes.running():
            await fake.answered(2)
    assert len(fake.texts(BEN)) == 1


async def test_an_apology_stands_where_the_number_in_the_queue_stood(
    tmp_path: Path, fake: FakeTelegram
) -> None:
    asked = UserMessage("7", Platform.TELEGRAM, CONVERSATION, person(), QUESTION)
    async with opened(tmp_path, fake) as world:
        answers = world.telegram.answers
        await asyncio.gather(answers.announce(asked, 4), answers.apologise(asked, None))
    assert fake.texts() == [say("failed", "en")]


@pytest.mark.parametrize("secret", ["", "short", "s" * 31, "s" * 257, "s" * 40 + "!"])
def test_a_secret_that_can_be_guessed_is_refused_at_the_start(secret: str) -> None:
    with pytest.raises(ConfigError, match="TELEGRAM_WEBHOOK_SECRET"):
        check_hook(HOOK.url, secret, official=True)


@pytest.mark.parametrize("url", ["", PATH, f"http://shoes.example{PATH}", "https://"])
def test_telegram_calls_only_https(url: str) -> None:
    with pytest.raises(ConfigError, match="webhook_url"):
        check_hook(url, SECRET, official=True)


def test_a_bot_api_server_of_ones_own_may_call_without_https() -> None:
    url = f"http://127.0.0.1:8080{PATH}"
    assert check_hook(url, SECRET, official=False) == Hook(url, SECRET)
