"""The polling loop: what Telegram hands over is committed before it is told that it arrived."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog
from starlette.routing import BaseRoute
from telegram import Bot, Update
from telegram.error import Conflict, NetworkError, TelegramError

from bots.lanes import Lanes
from bots.telegram.intake import ALLOWED_UPDATES, Intake
from bots.telegram.status import Status, until_done
from bots.telegram.wire import PollRequest
from core.leader import Lead, alone

log = structlog.get_logger()

# A poll that has not come back this long after its time never will.
STALL_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Rhythm:
    """Seconds that a poll waits for news, a backlog for a new look, a failure for the next try."""

    poll_seconds: int = 30
    backlog_seconds: float = 1.0
    first_pause_seconds: float = 1.0


class Polling:
    """Fetches updates for ever; use `run` in a task and cancel it."""

    def __init__(
        self,
        bot: Bot,
        request: PollRequest,
        intake: Intake,
        lanes: Lanes,
        *,
        begin: Callable[[], None],
        lead: Lead = alone,
        rhythm: Rhythm | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`request` is what `bot` polls with: it is opened anew after a stall.

        `begin` is called once, when Telegram has been reached. We poll while `lead` lets us:
        Telegram has one poller at a time.
        """
        self.status = Status(clock)
        self.routes: Sequence[BaseRoute] = ()
        self._bot = bot
        self._request = request
        self._intake = intake
        self._lanes = lanes
        self._begin = begin
        self._lead = lead
        self._rhythm = rhythm or Rhythm()
        self._ready = self._begun = False
        self._offset: int | None = None

    async def run(self) -> None:
        """Poll; whatever goes wrong is noted in `status` and tried again after a growing pause."""
        await self._lead(self._poll)

    async def _poll(self) -> None:
        while True:
            async for attempt in until_done(self._rhythm.first_pause_seconds):
                with attempt, self.status.noting():
                    await self._step()

    async def _step(self) -> None:
        """One poll: fetch, commit, and only then move on."""
        if not self._ready:
            await self._get_ready()
        await self._catch_up()
        updates = await self._fetch()
        self.status.problem = ""
        if not updates:
            # After an idle week Telegram counts from a random number, which may be lower.
            self._offset = None
            return
        await self._intake.receive(updates)
        self._offset = max(update.update_id for update in updates) + 1

    async def _get_ready(self) -> None:
        """Learn the bot's name; a webhook that is still set would keep all updates for itself."""
        await self._bot.initialize()
        await self._bot.delete_webhook(drop_pending_updates=False)
        if not self._begun:
            self._begin()
        self._ready = self._begun = True

    async def _catch_up(self) -> None:
        """Leave new messages at Telegram, which keeps them for a day, while too many wait here."""
        while behind := await self._lanes.behind():
            if not self.status.resting:
                log.warning("polling_paused", waiting=behind)
            self.status.resting = True
            self.status.touch()
            await asyncio.sleep(self._rhythm.backlog_seconds)
        self.status.resting = False

    async def _fetch(self) -> tuple[Update, ...]:
        seconds = self._rhythm.poll_seconds
        try:
            async with asyncio.timeout(seconds + STALL_SECONDS):
                updates = await self._bot.get_updates(
                    offset=self._offset, timeout=seconds, allowed_updates=ALLOWED_UPDATES
                )
        except Conflict:
            # Another poller, or a webhook that somebody has set meanwhile.
            self._ready = False
            raise
        except (NetworkError, TimeoutError):
            # A connection may be dead without knowing; a new one is cheap.
            await self._request.shutdown()
            await self._request.initialize()
            raise
        except TelegramError:
            raise
        except Exception:  # noqa: BLE001  (each update that is at fault is logged by itself)
            updates = self._request.updates(self._bot)
        self.status.touch()
        return updates
