"""Bots to measure, each with a page that says how long it was on the processor.

They run in a process of their own, against platforms elsewhere on this machine: Solemate on all
three channels at once, and the smallest bot that each library's manual shows, which only echoes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from slack_bolt.adapter.socket_mode.async_handler import AsyncSocketModeHandler
from slack_bolt.async_app import AsyncApp
from slack_bolt.context.say.async_say import AsyncSay
from slack_sdk.web.async_client import AsyncWebClient
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from telegram import Update
from telegram.ext import ApplicationBuilder, ContextTypes, MessageHandler, filters

from bench.expert import Expert
from bench.loopback import served
from bots.allowance import Allowance, Limits
from bots.bot import Bot, Prepare
from bots.feeds import Feeds
from bots.lanes import Lanes
from bots.slack import front as slack
from bots.slack.home import Privacy as SlackPrivacy
from bots.slack.people import Guests as SlackGuests
from bots.telegram import front as telegram
from bots.telegram.commands import Privacy
from bots.telegram.people import Guests
from bots.web.api import ApiOptions, create_api
from bots.web.desk import Desk
from core.inbox import Inbox
from core.messages import Platform
from core.openai_model import OpenAIChatModel
from core.opening import photo_limits
from core.privacy import Pseudonyms
from tests.bots import slack_fake, telegram_fake

PROCESSOR_PATH = "/bench/processor-seconds"
_PLENTY = Allowance(messages_per_minute=10**6, photos_per_minute=10**6, messages_per_day=10**6)
# More than one process can answer at a time; what comes beyond that is the backlog to be seen.
_WIDTH = 256


@dataclass(frozen=True, slots=True)
class Platforms:
    """Where the platforms are, as their clients want to hear it."""

    telegram: str
    slack: str


@asynccontextmanager
async def solemate(expert: Expert, platforms: Platforms, model_url: str) -> AsyncIterator[str]:
    """The address of Solemate's API, while it answers there, on Telegram and on Slack."""
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(expert.store())
        model = await stack.enter_async_context(
            OpenAIChatModel(
                model_url,
                "",
                base_model=expert.settings.model.base_model,
                first_token_seconds=60.0,
                deadline_seconds=120.0,
            )
        )
        engine, feeds = expert.engine(store, model), Feeds()
        inbox = Inbox(store, owner="bench", depth=expert.settings.limits.lane_depth)
        bots: dict[Platform, Bot] = dict.fromkeys((Platform.WEB, Platform.API), feeds)
        prepare: dict[Platform, Prepare] = {}
        lanes = Lanes(
            inbox=inbox,
            store=store,
            engine=engine,
            bots=bots,
            limits=Limits(_PLENTY),
            width=_WIDTH,
            prepare=prepare,
        )
        pseudonyms = Pseudonyms(b"a key of the bench")
        limits = photo_limits(expert.settings)
        on_telegram = await stack.enter_async_context(
            telegram.open_telegram(
                telegram.Access(
                    telegram_fake.TOKEN,
                    f"{platforms.telegram}/bot",
                    f"{platforms.telegram}/file/bot",
                    Guests(),
                ),
                store=store,
                inbox=inbox,
                pseudonyms=pseudonyms,
                max_photo_bytes=limits.max_bytes,
            )
        )
        on_slack = await stack.enter_async_context(
            slack.open_slack(
                slack.Access(
                    slack_fake.BOT_TOKEN,
                    slack_fake.APP_TOKEN,
                    "",
                    platforms.slack,
                    "socket",
                    SlackGuests(),
                    limits.max_bytes,
                    3600.0,
                ),
                store=store,
                inbox=inbox,
                pseudonyms=pseudonyms,
            )
        )
        bots |= {Platform.TELEGRAM: on_telegram.answers, Platform.SLACK: on_slack.answers}
        prepare |= {
            Platform.TELEGRAM: on_telegram.photos.prepare,
            Platform.SLACK: on_slack.reading.prepare,
        }
        host = telegram.Host(lanes, engine, Privacy(keep_days=30, trains=True), lambda: "bench")
        intakes = (
            on_telegram.polling(host),
            on_slack.intake(lanes, engine, privacy=SlackPrivacy(keep_days=30, trains=True)),
        )
        desk = Desk(store, inbox, engine, lanes, feeds, limits)
        options = ApiOptions(
            model_name="bench",
            max_tokens=expert.settings.model.max_tokens,
            public_url="http://127.0.0.1",
        )
        app = create_api(desk, parts={}, options=options)
        app.router.routes.append(Route(PROCESSOR_PATH, _processor_seconds))
        await stack.enter_async_context(lanes.running())
        address = await stack.enter_async_context(served(app))
        tasks = [asyncio.create_task(intake.run()) for intake in intakes]
        try:
            yield address
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


@asynccontextmanager
async def telegram_echo(platforms: Platforms) -> AsyncIterator[str]:
    """A bot that python-telegram-bot polls for, as its manual starts it."""

    async def echo(update: Update, _context: ContextTypes.DEFAULT_TYPE) -> None:
        assert update.message is not None
        assert update.message.text is not None
        await update.message.reply_text(update.message.text)

    builder = ApplicationBuilder().token(telegram_fake.TOKEN)
    application = builder.base_url(f"{platforms.telegram}/bot").build()
    application.add_handler(MessageHandler(filters.TEXT, echo))
    async with application, _watched() as address:
        await application.start()
        assert application.updater is not None
        await application.updater.start_polling()
        try:
            yield address
        finally:
            await application.updater.stop()
            await application.stop()


@asynccontextmanager
async def slack_echo(platforms: Platforms) -> AsyncIterator[str]:
    """A bot in Bolt's Socket Mode, as its manual starts it."""
    client = AsyncWebClient(slack_fake.BOT_TOKEN, base_url=platforms.slack)
    app = AsyncApp(client=client)

    @app.event("message")
    async def echo(event: dict[str, str], say: AsyncSay) -> None:
        await say(event["text"])

    handler = AsyncSocketModeHandler(app, slack_fake.APP_TOKEN, web_client=client)
    async with _watched() as address:
        await handler.connect_async()  # type: ignore[no-untyped-call]
        try:
            yield address
        finally:
            await handler.close_async()  # type: ignore[no-untyped-call]


@asynccontextmanager
async def _watched() -> AsyncIterator[str]:
    async with served(Starlette(routes=[Route(PROCESSOR_PATH, _processor_seconds)])) as address:
        yield address


async def _processor_seconds(_request: Request) -> Response:
    return PlainTextResponse(str(time.process_time()))
