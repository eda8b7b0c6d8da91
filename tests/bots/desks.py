"""A real desk on a temporary store, with a fake model, fake eyes and a small fake library."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from bots.bot import Bot, Prepare
from bots.feeds import Feeds
from bots.lanes import Allowance, Lanes, Limits
from bots.web.desk import Desk
from core.engine import Engine, Options
from core.inbox import Inbox
from core.messages import Passage, Platform
from core.model import ChatModel, Sampling
from core.photos import PhotoLimits
from core.prompt import Budget, estimate_tokens
from core.retrieval import Relevance, Retrieved
from core.store import Store
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
SUEDE = Passage("suede", "Suede", "Brush suede when it is dry.", "ours", "care", "en", 0.4)
LIBRARY = {
    "canvas": Retrieved(Relevance.ANSWER, (CANVAS,)),
    "帆布": Retrieved(Relevance.ANSWER, (CANVAS,)),
    "shoe": Retrieved(Relevance.CLARIFY, (CANVAS, SUEDE)),
}
ANSWER = "Wash canvas shoes by hand in lukewarm water."
PHOTO_LIMITS = PhotoLimits(max_bytes=200_000, max_pixels=4_000_000)
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
    tracing: Tracing | None = None,
) -> AsyncIterator[Desk]:
    """The desk; nothing is answered before its lanes are running."""
    async with Store(f"sqlite:///{folder / 'solemate.db'}") as store:
        inbox = Inbox(store, owner=uuid.uuid4().hex, depth=depth, lease_seconds=lease_seconds)
        engine = open_engine(store, model or FakeChatModel([ANSWER]))
        feeds = Feeds()
        lanes = Lanes(
            inbox=inbox,
            store=store,
            engine=engine,
            bots=dict.fromkeys((Platform.WEB, Platform.API), feeds) if bots is None else bots,
            limits=Limits(allowance),
            width=width,
            prepare=prepare,
            tracing=tracing,
        )
        yield Desk(store, inbox, engine, lanes, feeds, PHOTO_LIMITS, 3600.0)


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


def open_engine(store: Store, model: ChatModel) -> Engine:
    """A real engine around the fakes."""

    async def choose_adapter(_user_id: str) -> str:
        return "solemate"

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
            rewrite="carry",
        ),
    )
