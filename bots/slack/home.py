"""App Home: how to use it, the language, privacy, and what became of a person's corrections."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from slack_sdk.web.async_client import AsyncWebClient

from bots.slack.blocks import Block, header, section
from bots.slack.people import People, Person
from core.corrections import Correction, correction_words, corrections_of
from core.engine import MAX_PHOTOS
from core.messages import Language, Wish, Wishes
from core.store import Store
from core.wording import say

log = structlog.get_logger()

LANGUAGE_ACTION = "language"
FORGET_ACTION = "forget"
WISHES_ACTION = "wishes"
AUTO = "auto"
MOST_CORRECTIONS = 10

Forget = Callable[[str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Privacy:
    """What a person is told about their data."""

    keep_days: int
    trains: bool


@dataclass(frozen=True, slots=True)
class Home:
    """Shows a person's Home tab, and takes what they choose there."""

    client: AsyncWebClient
    store: Store
    people: People
    privacy: Privacy
    forget: Forget

    async def show(self, person: Person, note: str = "") -> None:
        """Show the tab as it is now, with a line at the top where there is something to say."""
        language = await self.people.language_for(person)
        chosen = await self.store.chosen_language(person.id)
        wishes = await self.store.wishes_of(person.id)
        corrections = await corrections_of(self.store, person.id, limit=MOST_CORRECTIONS)
        blocks = [
            *([section(note)] if note else []),
            header(say("home_title", language)),
            section(say("home_help", language, photos=MAX_PHOTOS)),
            _language_choice(language, chosen),
            _switches(language, wishes),
            {"type": "divider"},
            header(say("home_corrections", language)),
            *_corrections(corrections, language),
            {"type": "divider"},
            header(say("home_privacy_title", language)),
            section(self._privacy(language)),
            _forget_button(language),
        ]
        await self._publish(person, blocks)

    async def show_stranger(self, person: Person) -> None:
        """Tell somebody who is not invited."""
        language = await self.people.language_of_app(person)
        await self._publish(person, [section(say("stranger", language))])

    async def choose_language(self, person: Person, choice: str) -> None:
        """Commit the language a person wants."""
        languages: dict[str, Language | None] = {"zh": "zh", "en": "en", AUTO: None}
        if choice in languages:
            await self.store.choose_language(person.id, languages[choice])

    async def choose_wishes(self, person: Person, chosen: Collection[str]) -> None:
        """Commit which switches a person has on; all others are off."""
        for wish in Wish:
            await self.store.wish(person.id, wish, on=wish in chosen)

    async def show_forgotten(self, person: Person, chosen: Language | None) -> None:
        """Say that nothing is left, in the language that the person had chosen."""
        language = chosen or await self.people.language_of_app(person)
        await self.show(person, say("home_forgotten", language))

    async def show_not_forgotten(self, person: Person) -> None:
        """Say that nothing could be deleted, with no word from the store, and the button again."""
        language = await self.people.language_of_app(person)
        words = section(say("not_forgotten_now", language))
        await self._publish(person, [words, _forget_button(language)])

    async def _publish(self, person: Person, blocks: Sequence[Block]) -> None:
        view = {"type": "home", "blocks": list(blocks)}
        await self.client.views_publish(user_id=person.user, view=view)

    def _privacy(self, language: Language) -> str:
        training = "privacy_trains" if self.privacy.trains else "privacy_trains_not"
        days = self.privacy.keep_days
        return say("home_privacy", language, days=days, training=say(training, language))


def _language_choice(language: Language, chosen: Language | None) -> Block:
    options = [
        _option("中文", "zh"),
        _option("English", "en"),
        _option(say("language_auto", language), AUTO),
    ]
    picked = next(one for one in options if one["value"] == (chosen or AUTO))
    return section(say("language_question", language)) | {
        "accessory": {
            "type": "static_select",
            "action_id": LANGUAGE_ACTION,
            "options": options,
            "initial_option": picked,
        }
    }


def _switches(language: Language, wishes: Wishes) -> Block:
    states = {Wish.DUELS: wishes.duels, Wish.TELL: wishes.tell}
    options = {wish: _option(say(f"wish_{wish}", language), wish) for wish in states}
    element: Block = {
        "type": "checkboxes",
        "action_id": WISHES_ACTION,
        "options": list(options.values()),
    }
    # Slack takes no empty list of what is on.
    if chosen := [options[wish] for wish, on in states.items() if on]:
        element["initial_options"] = chosen
    return {"type": "actions", "elements": [element]}


def _corrections(corrections: Sequence[Correction], language: Language) -> list[Block]:
    if not corrections:
        return [section(say("home_no_corrections", language))]
    return [section(correction_words(one, language)) for one in corrections]


def _forget_button(language: Language) -> Block:
    return {
        "type": "actions",
        "elements": [
            {
                "type": "button",
                "action_id": FORGET_ACTION,
                "style": "danger",
                "text": _text(say("home_forget", language)),
                "confirm": {
                    "title": _text(say("home_forget", language)),
                    "text": _text(say("home_forget_confirm", language)),
                    "confirm": _text(say("delete", language)),
                    "deny": _text(say("cancel", language)),
                },
            }
        ],
    }


def _option(words: str, value: str) -> dict[str, Any]:
    return {"text": _text(words), "value": value}


def _text(words: str) -> Block:
    return {"type": "plain_text", "text": words}
