"""A process with a bot on a Telegram elsewhere, until it is killed: ours, or the library's own.

`telegram_worker.py solemate FOLDER ADDRESS` stores in the folder; SIGTERM stops it in order. Said
`faltering` instead, its model never comes to an end.
`telegram_worker.py library FOLDER ADDRESS` is python-telegram-bot as its manual starts it.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from telegram import Update
from telegram.ext import ApplicationBuilder, ContextTypes, MessageHandler, filters

from bots.telegram.keyboards import thumbs
from core.logs import configure_logs
from core.model import ChatModel
from tests.bots.desks import ANSWER
from tests.bots.telegram_fake import TOKEN, FakeTelegram
from tests.bots.telegram_world import opened, running
from tests.fakes import FalteringChatModel


async def solemate(folder: Path, address: str, model: ChatModel | None = None) -> None:
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    elsewhere = FakeTelegram()
    elsewhere.address = address
    async with opened(folder, elsewhere, model) as world:
        await world.desk.inbox.take_over()
        async with running(world):
            await told.wait()


def library(address: str) -> None:
    async def answer(update: Update, _context: ContextTypes.DEFAULT_TYPE) -> None:
        assert update.message is not None
        await update.message.reply_text("An answer.", reply_markup=thumbs(str(update.update_id)))

    builder = ApplicationBuilder().token(TOKEN).base_url(f"{address}/bot")
    application = builder.build()
    application.add_handler(MessageHandler(filters.TEXT, answer))
    application.run_polling()


if __name__ == "__main__":
    kind, folder, address = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    configure_logs("error", folder / "worker.log")
    if kind == "library":
        library(address)
    else:
        model = FalteringChatModel([ANSWER]) if kind == "faltering" else None
        asyncio.run(solemate(folder, address, model))
