"""The buttons under Telegram's messages."""

from __future__ import annotations

from telegram import InlineKeyboardButton, InlineKeyboardMarkup

from bots.buttons import THUMBS, Thumb, Why, reasons_for, to_data
from core.messages import Language, Rating, Reply
from core.wording import say

LANGUAGE = "language:"
FORGET = "forget:"
CHOSEN = " ✓"


def thumbs(reply_id: str, chosen: Rating | None = None) -> InlineKeyboardMarkup:
    """👍 and 👎, the chosen one marked."""
    return InlineKeyboardMarkup([_thumbs(reply_id, chosen)])


def thumbs_and_reasons(
    reply: Reply, language: Language, chosen: Rating | None
) -> InlineKeyboardMarkup:
    """The thumbs, and under them what may have been wrong, two to a row."""
    buttons = [
        _button(say(f"reason_{reason}", language), to_data(Why(reason, reply.id)))
        for reason in reasons_for(reply)
    ]
    rows = [buttons[start : start + 2] for start in range(0, len(buttons), 2)]
    skip = _button(say("skip", language), to_data(Why(None, reply.id)))
    return InlineKeyboardMarkup([_thumbs(reply.id, chosen), *rows, [skip]])


def languages(language: Language) -> InlineKeyboardMarkup:
    """Chinese, English, or whatever the messages are in."""
    return InlineKeyboardMarkup(
        [
            [_button("中文", f"{LANGUAGE}zh"), _button("English", f"{LANGUAGE}en")],
            [_button(say("language_auto", language), f"{LANGUAGE}auto")],
        ]
    )


def really_forget(number: int, language: Language) -> InlineKeyboardMarkup:
    """Delete, or rather not; for the person with this number on Telegram."""
    yes = _button(say("delete", language), forget_data(number, really=True))
    no = _button(say("cancel", language), forget_data(number, really=False))
    return InlineKeyboardMarkup([[yes, no]])


def forget_data(number: int, *, really: bool) -> str:
    """What the buttons carry: in a group others could press them, too."""
    return f"{FORGET}{'yes' if really else 'no'}:{number}"


def _thumbs(reply_id: str, chosen: Rating | None) -> list[InlineKeyboardButton]:
    return [
        _button(sign + CHOSEN * (rating is chosen), to_data(Thumb(rating, reply_id)))
        for rating, sign in THUMBS.items()
    ]


def _button(text: str, data: str) -> InlineKeyboardButton:
    return InlineKeyboardButton(text, callback_data=data)
