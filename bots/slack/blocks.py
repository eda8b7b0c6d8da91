"""The blocks under answers and duels, and the form that asks what was wrong."""

from __future__ import annotations

from typing import Any

from bots.buttons import THUMBS, Pick, Thumb, Why, reasons_for, to_data
from core.messages import Language, Rating, Reason, Reply, Side
from core.wording import say

Block = dict[str, Any]

THUMBS_ACTION = "thumbs"
WHY_ACTION = "why"
DUEL_ACTION = "duel"
DUEL_OFF_ACTION = "duel_off"
REASON_VIEW = "reason"
_REASON, _CORRECTION = "reason", "correction"
# Slack's own limit for what is typed into a form.
MOST_CHARACTERS = 3000


def markdown(text: str) -> Block:
    """A piece of an answer, escaped before."""
    return {"type": "markdown", "text": text}


def thumbs(reply: Reply) -> list[Block]:
    """👍 and 👎 as Slack draws them; each carries the rating and the reply's id."""

    def button(rating: Rating) -> Block:
        words = say(f"thumb_{rating}", reply.language)
        return {
            "text": {"type": "plain_text", "text": words},
            "accessibility_label": words,
            "value": to_data(Thumb(rating, reply.id)),
        }

    element = {
        "type": "feedback_buttons",
        "action_id": THUMBS_ACTION,
        "positive_button": button(Rating.UP),
        "negative_button": button(Rating.DOWN),
    }
    return [{"type": "context_actions", "elements": [element]}]


def plain_thumbs(reply: Reply) -> list[Block]:
    """The same as ordinary buttons, for a Slack that does not know the others."""
    elements = [
        _button(f"{THUMBS_ACTION}_{rating}", sign, to_data(Thumb(rating, reply.id)))
        for rating, sign in THUMBS.items()
    ]
    return [{"type": "actions", "elements": elements}]


def ask_why(reply_id: str, language: Language) -> list[Block]:
    """A thank-you for a thumb down, with a button that opens the form."""
    words = say("feedback_thanks", language)
    button = _button(WHY_ACTION, say("why_down", language), to_data(Why(None, reply_id)))
    return [section(words), {"type": "actions", "elements": [button]}]


def duel_buttons(duel_id: str, language: Language) -> list[Block]:
    """A, B or neither; and whoever does not want to be asked again says so here."""
    picks = [
        (Side.A, say("duel_pick", language, side="A")),
        (Side.B, say("duel_pick", language, side="B")),
        (Side.SAME, say("duel_same", language)),
    ]
    elements = [
        _button(f"{DUEL_ACTION}_{side}", words, to_data(Pick(side, duel_id)))
        for side, words in picks
    ]
    off = _button(DUEL_OFF_ACTION, say("duel_off", language), DUEL_OFF_ACTION)
    return [{"type": "actions", "elements": [*elements, off]}]


def reason_form(reply: Reply, language: Language) -> Block:
    """The form that asks for a reason and a better answer; both may stay empty."""
    options = [
        {"text": _text(say(f"reason_{reason}", language)), "value": str(reason)}
        for reason in reasons_for(reply)
    ]
    return {
        "type": "modal",
        "callback_id": REASON_VIEW,
        "private_metadata": reply.id,
        "title": _text(say("why_down", language)),
        "submit": _text(say("submit", language)),
        "close": _text(say("skip", language)),
        "blocks": [
            section(say("feedback_noted", language)),
            {
                "type": "input",
                "block_id": _REASON,
                "optional": True,
                "label": _text(say("why_down", language)),
                "element": {"type": "radio_buttons", "action_id": _REASON, "options": options},
            },
            {
                "type": "input",
                "block_id": _CORRECTION,
                "optional": True,
                "label": _text(say("what_instead", language)),
                "element": {
                    "type": "plain_text_input",
                    "action_id": _CORRECTION,
                    "multiline": True,
                    "max_length": MOST_CHARACTERS,
                    "placeholder": _text(say("correction_hint", language)),
                },
            },
        ],
    }


def answers_in(view: Block) -> tuple[Reason | None, str]:
    """The reason and the better answer that a form came back with."""
    values = view["state"]["values"]
    option = values.get(_REASON, {}).get(_REASON, {}).get("selected_option") or {}
    reason = option.get("value")
    correction = values.get(_CORRECTION, {}).get(_CORRECTION, {}).get("value") or ""
    return Reason(reason) if reason in set(Reason) else None, correction.strip()


def section(words: str) -> Block:
    """A paragraph without any formatting."""
    return {"type": "section", "text": _text(words)}


def header(words: str) -> Block:
    """A headline."""
    return {"type": "header", "text": _text(words)}


def _button(action: str, words: str, value: str) -> Block:
    return {"type": "button", "action_id": action, "text": _text(words), "value": value}


def _text(words: str) -> Block:
    return {"type": "plain_text", "text": words, "emoji": False}
