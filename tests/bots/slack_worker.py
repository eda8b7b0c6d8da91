"""A process that answers in the Slack at an address until it is killed: ours, or the library's own.

`slack_worker.py solemate FOLDER ADDRESS` stores in the folder; SIGTERM stops it in order. Said
`faltering` instead, its model never comes to an end.
`slack_worker.py library FOLDER ADDRESS` is Bolt as its manual starts and closes it, with a listener
that takes a while.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from slack_bolt.adapter.socket_mode.async_handler import AsyncSocketModeHandler
from slack_bolt.async_app import AsyncApp
from slack_bolt.context.say.async_say import AsyncSay
from slack_sdk.web.async_client import AsyncWebClient

from core.logs import configure_logs
from core.model import ChatModel
from tests.bots.desks import ANSWER
from tests.bots.slack_fake import APP_TOKEN, BOT_TOKEN, FakeSlack
from tests.bots.slack_world import opened
from tests.fakes import FalteringChatModel

LISTENER_SECONDS = 5.0


def until_told() -> asyncio.Event:
    """What SIGTERM sets."""
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    return told


def elsewhere(address: str) -> FakeSlack:
    """The server lives in the parent; this one only knows where."""
    there = FakeSlack()
    there.address = address
    return there


async def solemate(folder: Path, there: FakeSlack, model: ChatModel | None = None) -> None:
    told = until_told()
    async with opened(folder, there, model) as world:
        await world.desk.inbox.take_over()
        taking = asyncio.create_task(world.intake.run())
        async with world.desk.lanes.running():
            await told.wait()
            taking.cancel()
            await asyncio.wait({taking})


async def library(there: FakeSlack) -> None:
    told = until_told()
    client = AsyncWebClient(BOT_TOKEN, base_url=there.base_url)
    app = AsyncApp(client=client)

    @app.event("message")
    async def answer(event: dict[str, str], say: AsyncSay) -> None:
        await asyncio.sleep(LISTENER_SECONDS)
        await say(event["text"])

    handler = AsyncSocketModeHandler(app, APP_TOKEN, web_client=client)
    await handler.connect_async()
    await told.wait()
    await handler.close_async()


if __name__ == "__main__":
    kind, state, fake = sys.argv[1], Path(sys.argv[2]), elsewhere(sys.argv[3])
    configure_logs("error", state / "worker.log")
    if kind == "library":
        asyncio.run(library(fake))
    else:
        model = FalteringChatModel([ANSWER]) if kind == "faltering" else None
        asyncio.run(solemate(state, fake, model))
