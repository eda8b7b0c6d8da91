"""Three `solemate up` on one PostgreSQL and Redis behind a load balancer; one is killed mid-answer.

The one that is killed also polls Telegram, and somebody has its chat page open. Whoever waits for
an answer asks again with the same id, as docs/deploy.md has it, and a browser reconnects wherever
the balancer leads it. The three begin together, on a fresh database and an empty folder.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import socketio
import sqlalchemy as sa

from bench.stub_server import stub_server
from core.messages import Platform
from core.store import Store
from core.tables import feedback_events, inbox, turns
from tests.balancer import balancing
from tests.bots.telegram_fake import ANN, GROUP, TOKEN, USERNAME, FakeTelegram
from tests.conftest import Postgres, RedisServer, missing
from tests.replicas import START_SECONDS, Replica, client, environment, replica, until_ready

REPLICAS = 3
SESSIONS, ROUNDS = 9, 4
CHATS, PER_CHAT = 3, 4
ANSWER_SECONDS = 1.5
QUESTIONS = ("帆布鞋怎么洗？", "德训鞋是什么鞋？", "How do I clean suede shoes?", "皮鞋怎么保养？")
# The conversation of whoever has the page open.
PAGE = "page"

pytestmark = pytest.mark.timeout(2400)


@dataclass
class Seen:
    """What the experiment saw."""

    asked: int = 0
    answers: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    asked_again: int = 0
    stored: Counter[tuple[str, str]] = field(default_factory=Counter)
    unanswered: int = 0
    rated: Counter[str] = field(default_factory=Counter)
    told: int = 0
    told_twice: int = 0
    taken_up: int = 0
    leaders: list[int] = field(default_factory=list)
    last_prompts: dict[str, str] = field(default_factory=dict)
    remembered: set[str] = field(default_factory=set)
    page_connects: list[bool] = field(default_factory=list)
    page_reply: str = ""
    page_shows: list[str] = field(default_factory=list)


async def until_leading(replicas: list[Replica]) -> Replica:
    """The replica that polls Telegram."""
    async with asyncio.timeout(START_SECONDS):
        while True:
            for one in replicas:
                if any(said["what"] == "telegram" for said in one.said("leads")):
                    return one
            await asyncio.sleep(0.2)


async def until_all_answer(database: str) -> None:
    """Wait until each replica has an answer under way."""
    owners = sa.select(sa.func.count(inbox.c.owner.distinct())).where(inbox.c.state == "leased")
    async with Store(database, exclusive=False) as store, asyncio.timeout(START_SECONDS):
        while True:
            if await store.run(lambda connection: connection.scalar(owners)) == REPLICAS:
                return
            await asyncio.sleep(0.01)


class People:
    """Who asks through the balancer, again and again until there is an answer, and rates it."""

    def __init__(self, http: httpx.AsyncClient, seen: Seen) -> None:
        self._http = http
        self._seen = seen

    async def talk(self, session: str) -> None:
        for number in range(ROUNDS):
            answer = await self.ask(session, number)
            thumb = {
                "session_id": session,
                "message_id": answer["message_id"],
                "feedback": "thumbs_up",
            }
            await self._sent("/feedback", thumb)

    async def ask(self, session: str, number: int) -> dict[str, Any]:
        message = f"m{number}"
        body = {
            "session_id": session,
            "message_id": message,
            "message": QUESTIONS[number % len(QUESTIONS)],
        }
        answer = await self._sent("/chat", body)
        assert answer["message"]
        self._seen.answers.setdefault((session, message), set()).add(answer["message_id"])
        return answer

    async def _sent(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        while True:
            with suppress(httpx.TransportError):
                answer = await self._http.post(path, json=body)
                answer.raise_for_status()
                found: dict[str, Any] = answer.json()
                return found
            self._seen.asked_again += 1


class Visitor:
    """A browser with the chat page open: it keeps its cookie, and its page's state is elsewhere."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self._client = ""

    async def open(self, one: Replica) -> str:
        """Load the page from a replica; what it holds."""
        page = (await self._http.get(f"{one.address}/?c={PAGE}")).raise_for_status().text
        if not self._client:
            (self._client,) = set(re.findall(r"'client_id': '([\w-]+)'", page))
        return page

    async def connects(self, one: Replica) -> bool:
        """Whether a replica knows the page that was opened first; if not, a browser reloads it."""
        async with socketio.AsyncSimpleClient() as page:
            query = f"client_id={self._client}&tab_id=t&document_id=d&next_message_id=0"
            path = f"{one.address}/_nicegui_ws/?implicit_handshake=true&{query}"
            with suppress(socketio.exceptions.ConnectionError):
                await page.connect(path, socketio_path="/_nicegui_ws/socket.io")
                return True
        return False

    async def asks(self, one: Replica) -> None:
        form = {"conversation": PAGE, "id": "m", "text": QUESTIONS[2]}
        sent = await self._http.post(f"{one.address}/page/messages", data=form)
        sent.raise_for_status()


def telegram_answers(fake: FakeTelegram) -> list[tuple[int, int | None]]:
    """The chat and the question of each answer with thumbs under it."""
    rated = [one for one in fake.shown if any(data.startswith("up:") for data in one.data)]
    return [(one.chat_id, one.reply_to) for one in rated]


async def experiment(folder: Path, database: str, redis: RedisServer) -> Seen:
    seen = Seen()
    async with AsyncExitStack() as stack:
        model = await stack.enter_async_context(stub_server(ANSWER_SECONDS))
        fake = await stack.enter_async_context(FakeTelegram().serving())
        fake.patience_seconds = START_SECONDS
        settings = environment(
            folder,
            TELEGRAM_BOT_TOKEN=TOKEN,
            SOLEMATE__DATABASE__URL=database,
            SOLEMATE__REDIS__URL=redis.url,
            SOLEMATE__MODEL__BASE_URL=model,
            SOLEMATE__MODEL__HISTORY_ROUNDS="10",
            SOLEMATE__TELEGRAM__BASE_URL=f"{fake.address}/bot",
            SOLEMATE__TELEGRAM__BASE_FILE_URL=f"{fake.address}/file/bot",
        )
        replicas = [
            await stack.enter_async_context(replica(number, folder, settings))
            for number in range(REPLICAS)
        ]
        for one in replicas:
            await until_ready(one)
        first = await until_leading(replicas)

        address = await stack.enter_async_context(balancing([one.port for one in replicas]))
        people = People(await stack.enter_async_context(client(address)), seen)
        sessions = [f"session-{number}" for number in range(SESSIONS)]
        talks = [asyncio.create_task(people.talk(session)) for session in sessions]
        for number in range(CHATS * PER_CHAT):
            chat = number % CHATS
            await fake.says(f"@{USERNAME} canvas?", user=ANN + chat, chat=GROUP - chat)
        await fake.until(lambda: len(telegram_answers(fake)) >= CHATS)
        visitor = Visitor(await stack.enter_async_context(client(address)))
        await visitor.open(first)
        seen.page_connects.append(await visitor.connects(first))
        await until_all_answer(database)
        await visitor.asks(first)
        first.process.send_signal(signal.SIGKILL)
        await asyncio.gather(*talks)
        await fake.until(lambda: len(telegram_answers(fake)) >= CHATS * PER_CHAT)
        # The same questions once more, to whoever is asked by now.
        await asyncio.gather(
            *(people.ask(session, number) for session in sessions for number in range(ROUNDS))
        )
        seen.asked = SESSIONS * ROUNDS
        second = next(one for one in replicas if one is not first)
        seen.page_connects.append(await visitor.connects(second))
        await visitor.asks(second)
        async with asyncio.timeout(START_SECONDS):
            while not seen.page_reply:
                seen.page_reply = await page_reply(database)
                await asyncio.sleep(0.2)
        seen.page_shows.append(await visitor.open(second))
        told = Counter(telegram_answers(fake))
        seen.told, seen.told_twice = len(told), (told - Counter(list(told))).total()
        others = [one for one in replicas if one is not first]
        freed = [said["messages"] for one in others for said in one.said("leases_of_the_gone")]
        seen.taken_up = sum(freed)
        leading = await until_leading(others)
        seen.leaders = [first.port, leading.port]
        with redis.client() as kept:
            seen.remembered = {re.findall(r"\{(.*)\}", key)[0] for key in kept.keys("*:rounds:*")}
    await read(database, seen)
    return seen


async def page_reply(database: str) -> str:
    """The first words of what the page's question was answered with; "" before."""
    async with Store(database, exclusive=False) as store:
        turn = await store.answered(Platform.WEB, PAGE, "m")
    return "" if turn is None else turn.reply.text[:20]


async def read(database: str, seen: Seen) -> None:
    """What the database holds when all is over."""
    async with Store(database, exclusive=False) as store:
        rows = await store.run(lambda connection: connection.execute(sa.select(turns)).all())
        votes = await store.run(
            lambda connection: connection.execute(sa.select(feedback_events)).all()
        )
        waiting = sa.select(sa.func.count()).where(inbox.c.state != "done")
        seen.unanswered = await store.run(lambda connection: connection.execute(waiting).scalar())
    seen.stored = Counter((row.conversation_id, row.message_id) for row in rows)
    seen.rated = Counter(row.reply_id for row in votes)
    for row in rows:
        if row.message_id == f"m{ROUNDS - 1}":
            seen.last_prompts[row.conversation_id] = str(row.prompt)


@pytest.fixture(scope="module")
def seen(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    program = shutil.which("redis-server")
    if program is None:
        missing("redis-server is not installed")
    folder = tmp_path_factory.mktemp("replicas")
    redis = RedisServer(program, folder)
    redis.start()
    database = postgres.database()
    try:
        yield asyncio.run(experiment(folder, database, redis))
    except BaseException:
        for log in sorted(folder.glob("*.log")):
            print(f"--- {log.name}\n{log.read_text('utf-8')[-3000:]}")  # noqa: T201
        raise
    finally:
        redis.stop()
        postgres.drop(postgres.copies.pop())


def test_a_replica_was_killed_while_it_was_answering(seen: Seen) -> None:
    assert seen.asked_again >= 1
    assert seen.taken_up >= 1


def test_every_question_is_answered_and_none_twice(seen: Seen) -> None:
    assert len(seen.answers) == seen.asked
    assert [len(replies) for replies in seen.answers.values()] == [1] * seen.asked
    assert set(seen.stored.values()) == {1}
    assert len(seen.stored) == seen.asked + CHATS * PER_CHAT + 1
    assert seen.unanswered == 0


def test_a_page_that_reconnects_to_another_replica_is_loaded_anew_with_its_answer(
    seen: Seen,
) -> None:
    assert seen.page_connects == [True, False]
    assert [seen.page_reply in page for page in seen.page_shows] == [True]


def test_every_thumb_counts(seen: Seen) -> None:
    given = {reply for replies in seen.answers.values() for reply in replies}
    assert given == set(seen.rated)


def test_another_goes_on_with_telegram_and_shows_no_answer_twice(seen: Seen) -> None:
    assert seen.leaders[0] != seen.leaders[1]
    assert (seen.told, seen.told_twice) == (CHATS * PER_CHAT, 0)


def test_whoever_answers_knows_what_the_others_have_said(seen: Seen) -> None:
    assert len(seen.last_prompts) == SESSIONS
    for prompt in seen.last_prompts.values():
        assert all(question in prompt for question in QUESTIONS[:ROUNDS])
    assert {f"api:session-{number}" for number in range(SESSIONS)} <= seen.remembered
