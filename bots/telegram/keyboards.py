"""The buttons under Telegram's messages."""

from __future__ import annotations

from telegram import InlineKeyboardButton, InlineKeyboardMarkup

from bots.buttons import THUMBS, Pick, Thumb, Why, reasons_for, to_data
from core.duels import Duel
from core.messages import Language, Rating, Reply, Side, Wish, Wishes
from core.wording import say

LANGUAGE = "language:"
FORGET = "forget:"
WISH = "wish:"
DUELS_OFF = "duels:off"
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


def duel(duel: Duel, language: Language, *, can_switch_off: bool) -> InlineKeyboardMarkup:
    """A, B or neither; and whoever does not want to be asked again may say so here."""
    sides = [_pick(duel, side, language) for side in (Side.A, Side.B)]
    rows = [sides, [_pick(duel, Side.SAME, language)]]
    if can_switch_off:
        rows.append([_button(say("duel_off", language), DUELS_OFF)])
    return InlineKeyboardMarkup(rows)


def picked(duel: Duel, language: Language) -> InlineKeyboardMarkup:
    """What was picked, and no more."""
    side = duel.picked or Side.SAME
    return InlineKeyboardMarkup([[_pick(duel, side, language, CHOSEN)]])


def wishes(found: Wishes, language: Language) -> InlineKeyboardMarkup:
    """What a person may switch off, each with what a press makes of it."""
    states = {Wish.DUELS: found.duels, Wish.TELL: found.tell}
    return InlineKeyboardMarkup(
        [
            [
                _button(
                    f"{'✅' if on else '⬜'} {say(f'wish_{wish}', language)}",
                    wish_data(wish, on=not on),
                )
            ]
            for wish, on in states.items()
        ]
    )


def wish_data(wish: Wish, *, on: bool) -> str:
    """What a switch carries: what it will be after the press."""
    return f"{WISH}{wish}:{'on' if on else 'off'}"


def wish_in(data: str) -> tuple[Wish, bool] | None:
    """The reverse of `wish_data`; None for anything else."""
    wish, _, state = data.removeprefix(WISH).partition(":")
    if wish not in set(Wish) or state not in ("on", "off"):
        return None
    return Wish(wish), state == "on"


def forget_data(number: int, *, really: bool) -> str:
    """What the buttons carry: in a group others could press them, too."""
    return f"{FORGET}{'yes' if really else 'no'}:{number}"


def _thumbs(reply_id: str, chosen: Rating | None) -> list[InlineKeyboardButton]:
    return [
        _button(sign + CHOSEN * (rating is chosen), to_data(Thumb(rating, reply_id)))
        for rating, sign in THUMBS.items()
    ]


def _pick(duel: Duel, side: Side, language: Language, mark: str = "") -> InlineKeyboardButton:
    words = (
        say("duel_same", language)
        if side is Side.SAME
        else say("duel_pick", language, side=side.upper())
    )
    return _button(words + mark, to_data(Pick(side, duel.id)))


def _button(text: str, data: str) -> InlineKeyboardButton:
    return InlineKeyboardButton(text, callback_data=data)
