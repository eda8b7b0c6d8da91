"""The polling loop: what Telegram hands over is committed before it is told that it arrived."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import stamina
import structlog
from telegram import Bot, Update
from telegram.error import Conflict, Forbidden, InvalidToken, NetworkError, TelegramError
from telegram.request import BaseRequest

from bots.telegram.commands import publish_commands
from bots.telegram.talk import Errands
from core.errors import SolemateError, StoreError

log = structlog.get_logger()

# Reactions are not sent to bots that do not ask for them.
ALLOWED_UPDATES = ("message", "callback_query", "message_reaction")
LONGEST_PAUSE_SECONDS = 60.0
# A poll that has not come back this long after its time never will.
STALL_SECONDS = 15.0
# Longer than a poll, and than taking in what it brings.
QUIET_SECONDS = 120.0
# An album's photos come one by one within about a second.
ALBUM_WAITS = 4

Take = Callable[[Sequence[Update]], Awaitable[None]]


@dataclass(slots=True)
class Status:
    """How the polling goes: `problem` is a sentence for the operator, "" while all is well."""

    problem: str = "It has not reached Telegram yet."
    polled_at: float | None = None

    def quiet_seconds(self, now: float) -> float:
        """How long ago a poll last came back (`now` is `time.monotonic()`); 0 before the first."""
        return 0.0 if self.polled_at is None else now - self.polled_at

    def complaint(self, now: float) -> str:
        """What the operator should know, "" while all is well."""
        if not self.problem and self.quiet_seconds(now) > QUIET_SECONDS:
            return "No poll has come back for a while; the log may say why."
        return self.problem


@dataclass(frozen=True, slots=True)
class Rhythm:
    """Seconds that a poll waits for news, an album for its next photo, a failure for a try."""

    poll_seconds: int = 30
    album_seconds: float = 1.0
    first_pause_seconds: float = 1.0


class Polling:
    """Fetches updates for ever; use `run` in a task and cancel it."""

    def __init__(
        self,
        bot: Bot,
        request: BaseRequest,
        take: Take,
        errands: Errands,
        *,
        rhythm: Rhythm | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`request` is what `bot` polls with: it is opened anew after a stall."""
        self.status = Status()
        self._bot = bot
        self._request = request
        self._take = take
        self._errands = errands
        self._rhythm = rhythm or Rhythm()
        self._clock = clock
        self._ready = False
        self._offset: int | None = None
        self._taken: set[int] = set()

    async def run(self) -> None:
        """Poll; whatever goes wrong is noted in `status` and tried again after a growing pause."""
        while True:
            async for attempt in stamina.retry_context(
                on=Exception,
                attempts=None,
                timeout=None,
                wait_initial=self._rhythm.first_pause_seconds,
                wait_max=LONGEST_PAUSE_SECONDS,
                wait_jitter=self._rhythm.first_pause_seconds,
            ):
                with attempt, self._noting():
                    await self._step()

    async def _step(self) -> None:
        """One poll: fetch, commit, and only then move on."""
        if not self._ready:
            await self._begin()
        updates = await self._fetch(self._rhythm.poll_seconds)
        self.status.problem = ""
        if not updates:
            # After an idle week Telegram counts from a random number, which may be lower.
            self._offset = None
            return
        updates = await self._with_whole_albums(updates)
        for together in _grouped(updates):
            await self._take_once(together)
        self._offset = max(update.update_id for update in updates) + 1
        self._taken.clear()

    async def _begin(self) -> None:
        """Learn the bot's name; a webhook that is still set would keep all updates for itself."""
        await self._bot.initialize()
        await self._bot.delete_webhook(drop_pending_updates=False)
        self._errands.run(publish_commands(self._bot))
        self._ready = True

    async def _fetch(self, seconds: int) -> tuple[Update, ...]:
        try:
            async with asyncio.timeout(seconds + STALL_SECONDS):
                updates = await self._bot.get_updates(
                    offset=self._offset, timeout=seconds, allowed_updates=ALLOWED_UPDATES
                )
        except (NetworkError, TimeoutError):
            # A connection may be dead without knowing; a new one is cheap.
            await self._request.shutdown()
            await self._request.initialize()
            raise
        self.status.polled_at = self._clock()
        return updates

    async def _with_whole_albums(self, updates: tuple[Update, ...]) -> tuple[Update, ...]:
        """The updates again once no album among them grows: nothing is confirmed meanwhile."""
        for _ in range(ALBUM_WAITS):
            parts = _album_parts(updates)
            if not parts:
                break
            await asyncio.sleep(self._rhythm.album_seconds)
            updates = await self._fetch(0) or updates
            if _album_parts(updates) == parts:
                break
        return updates

    async def _take_once(self, updates: Sequence[Update]) -> None:
        """Take updates that go together, but not again what an earlier try has taken."""
        ids = {update.update_id for update in updates}
        if ids <= self._taken:
            return
        try:
            await self._take(updates)
        except StoreError:
            raise
        # The outermost handler: an update we cannot digest must not hold up all others.
        except Exception:
            log.exception("update_skipped", updates=sorted(ids))
        self._taken |= ids

    @contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except Exception as exc:
            self.status.problem = _explain(exc)
            log.warning("polling_failed", problem=self.status.problem, error=type(exc).__name__)
            raise


def _grouped(updates: Sequence[Update]) -> list[list[Update]]:
    """The updates in order, an album's together in the place of its first."""
    groups: dict[tuple[object, ...], list[Update]] = {}
    for update in updates:
        groups.setdefault(_album(update) or (update.update_id,), []).append(update)
    return list(groups.values())


def _album(update: Update) -> tuple[object, ...] | None:
    message = update.message
    if message is None or message.media_group_id is None:
        return None
    return message.chat.id, message.media_group_id


def _album_parts(updates: Sequence[Update]) -> int:
    return sum(_album(update) is not None for update in updates)


def _explain(error: Exception) -> str:
    match error:
        case Conflict():
            return "Another program polls with this token: stop it, or use another bot's token."
        case InvalidToken() | Forbidden():
            return "Telegram refuses the token: check TELEGRAM_BOT_TOKEN."
        case TimeoutError():
            return "A poll stalled; the connection is opened anew."
        case NetworkError():
            return "Telegram cannot be reached; messages wait there meanwhile."
        case TelegramError():
            return "Telegram refuses to be polled at the moment; the log says why."
        case SolemateError():
            return "Nothing can be saved, so no message is taken; they wait at Telegram."
        case _:
            return f"Polling failed ({type(error).__name__}); the log says why."
