"""Small things said in Slack besides answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from slack_sdk.web.async_client import AsyncWebClient

from bots.courier import Courier
from bots.errands import Errands
from bots.slack.place import Place
from bots.slack.text import escaped

Block = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Talk:
    """Says short things; whoever calls does not wait."""

    client: AsyncWebClient
    courier: Courier
    errands: Errands

    def say(self, place: Place, user: str, text: str, blocks: Sequence[Block] = ()) -> None:
        """Say it in the thread; in a channel only this person sees it."""
        self.errands.run(self._send(place, user, text, blocks))

    async def _send(self, place: Place, user: str, text: str, blocks: Sequence[Block]) -> None:
        words = escaped(text)

        async def call() -> object:
            if place.is_direct:
                return await self.client.chat_postMessage(
                    channel=place.channel,
                    thread_ts=place.thread,
                    text=words,
                    blocks=list(blocks) or None,
                    unfurl_links=False,
                    unfurl_media=False,
                )
            return await self.client.chat_postEphemeral(
                channel=place.channel,
                user=user,
                thread_ts=place.thread,
                text=words,
                blocks=list(blocks) or None,
            )

        await self.courier.deliver(place.channel, call, repeatable=False)
