"""A real desk on a temporary store, with a fake model, fake eyes and a small fake library."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import sqlalchemy as sa

from bots.allowance import Allowance, Limits
from bots.bot import Bot, Prepare
from bots.feeds import Feeds
from bots.lanes import Lanes, Patience
from bots.web.desk import Desk
from core.duels import Duels
from core.engine import Engine, Options
from core.inbox import Inbox
from core.messages import Feedback, Passage, Platform, Rating
from core.model import ChatModel, Sampling
from core.photos import PhotoLimits
from core.prompt import Budget, estimate_tokens
from core.retrieval import Relevance, Retrieved
from core.routes import Route
from core.second_answers import SecondAnswers
from core.settings import Duels as DuelSettings
from core.store import Store
from core.tables import adapters, pairs, routes, run_pairs, runs
from core.tracing import Tracing
from tests.fakes import FakeChatModel, FakeRetriever, FakeVision

CANVAS = Passage(
    id="canvas",
    title="Washing canvas shoes",
    text="Wash canvas shoes by hand in lukewarm water with mild soap. Dry them in the shade.",
    source="written for this project",
    topic="care",
    lang="en",
    score=0.9,
)
CANVAS_IN_CHINESE = Passage(
    id="canvas-zh",
    title="洗帆布鞋",
    text="帆布鞋用温水和中性皂手洗，洗完放在阴凉处晾干。",
    source="本项目编写",
    topic="care",
    lang="zh",
    score=0.9,
)
SUEDE = Passage("suede", "Suede", "Brush suede when it is dry.", "ours", "care", "en", 0.4)
LIBRARY = {
    "canvas": Retrieved(Relevance.ANSWER, (CANVAS,)),
    "帆布": Retrieved(Relevance.ANSWER, (CANVAS_IN_CHINESE,)),
    "shoe": Retrieved(Relevance.CLARIFY, (CANVAS, SUEDE)),
}
ANSWER = "Wash canvas shoes by hand in lukewarm water."
PHOTO_LIMITS = PhotoLimits(max_bytes=200_000, max_pixels=4_000_000)
NO_DUELS = DuelSettings(share=0.0, disliked_share=0.0, per_person_per_day=0)
ALWAYS = DuelSettings(share=1.0, disliked_share=1.0, per_person_per_day=1)
OTHER = "Lukewarm water and mild soap, by hand: that is how canvas shoes like it. Shade dries them."
# What failed is tried again without a pause.
AT_ONCE = Patience(first_pause_seconds=0.0, longest_pause_seconds=0.0)
PLENTY = Allowance(messages_per_minute=10_000, photos_per_minute=10_000, messages_per_day=100_000)


@asynccontextmanager
async def open_desk(
    folder: Path,
    model: ChatModel | None = None,
    *,
    allowance: Allowance = PLENTY,
    bots: Mapping[Platform, Bot] | None = None,
    prepare: Mapping[Platform, Prepare] | None = None,
    width: int = 4,
    depth: int = 20,
    lease_seconds: float = 60.0,
    patience: Patience = AT_ONCE,
    tracing: Tracing | None = None,
    duels: DuelSettings = NO_DUELS,
    database: str = "",
) -> AsyncIterator[Desk]:
    """The desk; nothing is answered before its lanes are running.

    Several on one PostgreSQL, the `database`, are replicas.
    """
    async with Store(database or f"sqlite:///{folder / 'solemate.db'}") as store:
        inbox = Inbox(store, owner=uuid.uuid4().hex, depth=depth, lease_seconds=lease_seconds)
        model = model or FakeChatModel([ANSWER])
        engine = open_engine(store, model)
        feeds = Feeds()
        lanes = Lanes(
            inbox=inbox,
            store=store,
            engine=engine,
            bots=dict.fromkeys((Platform.WEB, Platform.API), feeds) if bots is None else bots,
            limits=Limits(allowance),
            width=width,
            patience=patience,
            prepare=prepare,
            tracing=tracing,
        )
        asked = open_duels(store, model, duels)
        yield Desk(store, inbox, engine, lanes, feeds, PHOTO_LIMITS, asked)


@asynccontextmanager
async def running_desk(
    folder: Path,
    model: ChatModel | None = None,
    *,
    allowance: Allowance = PLENTY,
    width: int = 4,
    depth: int = 20,
) -> AsyncIterator[Desk]:
    """The desk while it answers."""
    async with (
        open_desk(folder, model, allowance=allowance, width=width, depth=depth) as desk,
        desk.lanes.running(),
    ):
        yield desk


def open_duels(store: Store, model: ChatModel, rules: DuelSettings) -> Duels:
    """Duels between answers of one adapter."""
    answers = SecondAnswers(model, 0.3)
    return Duels(store, answers, rules, route=lambda: Route("solemate"), key=b"a key for tests")


def open_engine(store: Store, model: ChatModel, adapter: str = "solemate") -> Engine:
    """A real engine around the fakes."""

    async def choose_adapter(_user_id: str) -> str:
        return adapter

    return Engine(
        store=store,
        retriever=FakeRetriever(LIBRARY),
        vision=FakeVision(),
        model=model,
        choose_adapter=choose_adapter,
        options=Options(
            base_model="solemate",
            sampling=Sampling(max_tokens=200, temperature=0.0),
            budget=Budget(600, estimate_tokens),
            photo_limits=PHOTO_LIMITS,
            max_characters=4000,
            rounds=10,
            expire_seconds=3600.0,
            min_support=0.3,
            history_rounds=5,
            rewrite="carry",
        ),
    )


async def learn(store: Store, pair: str) -> None:
    """An adapter that was trained on this pair has been live for a long time."""
    run = {"id": "r", "key": "r", "stage": "dpo", "recipe": "r", "state": "promoted", "why": ""}
    run |= {"started_by": "", "folder": "", "dataset": "", "adapter": "a", "problem": ""}
    counts = {"figures": {}, "attempts": 1, "created_at": 0.0, "updated_at": 0.0}
    made = {"name": "a", "run_id": "r", "path": "", "base": "", "digest": "", "state": "live"}
    route = {"live": "a", "previous": "", "canary": "", "share": 0.0, "routed_at": 0.0}

    def work(connection: sa.Connection) -> None:
        connection.execute(sa.insert(runs).values({**run, **counts}))
        connection.execute(sa.insert(adapters).values({**made, "manifest": {}, "created_at": 0.0}))
        row = {"run_id": "r", "pair_id": pair, "split": "train"}
        connection.execute(sa.insert(run_pairs).values(row))
        connection.execute(sa.insert(routes).values(route))

    await store.run(work)


async def teach(store: Store, reply_id: str, user_id: str, text: str) -> None:
    """A person's correction of an answer is accepted, and learned."""
    await store.add_feedback(Feedback(reply_id, user_id, Rating.DOWN, correction=text))
    turn = await store.turn(reply_id)
    pair = {"id": "p", "reply_id": reply_id, "user_id": user_id, "origin": "correction"}
    pair |= {"conversation_id": turn.reply.conversation_id, "chosen": text, "rejected": "No."}
    pair |= {"adapter": "", "language": "en", "state": "accepted", "refusal": ""}
    lists = {"prompt": [], "passages": [], "accepted_by": [], "created_at": 1.0}
    await store.run(lambda connection: connection.execute(pairs.insert().values({**pair, **lists})))
    await learn(store, "p")
