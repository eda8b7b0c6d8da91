"""Takes updates in, each once, however it comes and however often: by polling or by webhook."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from weakref import WeakValueDictionary

import stamina
import structlog
from telegram import Update

from core.errors import StoreError
from core.inbox import Inbox
from core.messages import Platform

log = structlog.get_logger()

# Reactions are not sent to bots that do not ask for them.
ALLOWED_UPDATES = ("message", "callback_query", "message_reaction")

# So often an update is tried that goes wrong without a known reason.
TRIES = 3
FIRST_PAUSE_SECONDS = 0.5

GiveUp = Callable[[Sequence[Update], str], Awaitable[None]]
Take = Callable[[Sequence[Update]], Awaitable[None]]


class Intake:
    """Hands updates to `take`: those of a chat in order, chats beside each other.

    What cannot be taken, and why, goes to `give_up`.
    """

    def __init__(self, bot_id: int, inbox: Inbox, take: Take, give_up: GiveUp) -> None:
        self._source = f"telegram:{bot_id}"
        self._inbox = inbox
        self._take = take
        self._give_up = give_up
        self._turns: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()

    async def receive(self, updates: Sequence[Update]) -> None:
        """Take what did not come before; when this returns, all of it is committed.

        An update that nobody can digest is tried three times, put aside, and does not come again.
        Raises `StoreError` when something could not be committed: then all have to come again.
        """
        keys = {f"update-{update.update_id}": update for update in updates}
        unseen = await self._inbox.unseen(Platform.TELEGRAM, self._source, list(keys))
        groups = _grouped([update for key, update in keys.items() if key in unseen])
        if not groups:
            return
        stuck: dict[int, StoreError] = {}
        failures = await asyncio.gather(*(self._take_in_turn(group, stuck) for group in groups))
        taken = [
            f"update-{update.update_id}"
            for group, failure in zip(groups, failures, strict=True)
            for update in group
            if failure is None
        ]
        await self._inbox.note_seen(Platform.TELEGRAM, self._source, taken)
        for failure in failures:
            if failure is not None:
                raise failure

    async def _take_in_turn(
        self, group: Sequence[Update], stuck: dict[int, StoreError]
    ) -> StoreError | None:
        """Take updates that go together, after those of their chat that came before.

        Where one of these has to come again, so have those after it, or they would overtake it.
        """
        chat = _chat_of(group[0])
        async with self._turns.setdefault(chat, asyncio.Lock()):
            if chat in stuck:
                return stuck[chat]
            try:
                await self._take_or_give_up(group)
            except StoreError as exc:
                stuck[chat] = exc
                return exc
            # The outermost handler: an update we cannot digest must not hold up all others.
            except Exception:
                log.exception("update_skipped", updates=[one.update_id for one in group])
        return None

    async def _take_or_give_up(self, group: Sequence[Update]) -> None:
        try:
            async for attempt in stamina.retry_context(
                on=_is_unexpected,
                attempts=TRIES,
                timeout=None,
                wait_initial=FIRST_PAUSE_SECONDS,
                wait_jitter=FIRST_PAUSE_SECONDS,
            ):
                with attempt:
                    await self._take(group)
        except StoreError:
            raise
        except Exception as exc:
            log.exception("update_put_aside", updates=[one.update_id for one in group])
            await self._give_up(group, type(exc).__name__)


def _is_unexpected(exc: Exception) -> bool:
    return not isinstance(exc, StoreError)


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


def _chat_of(update: Update) -> int:
    chat = update.effective_chat
    return chat.id if chat is not None else 0
