"""A message as a row of the inbox keeps it."""

from __future__ import annotations

import base64
from typing import Any

from core.messages import Platform, UserMessage


def to_json(message: UserMessage) -> dict[str, Any]:
    """The message's row."""
    return {
        "id": message.id,
        "platform": message.platform,
        "conversation_id": message.conversation_id,
        "user_id": message.user_id,
        "text": message.text,
        "images": [base64.b64encode(image).decode("ascii") for image in message.images],
        "language": message.language,
        "max_tokens": message.max_tokens,
        "temperature": message.temperature,
        "files": list(message.files),
    }


def from_json(row: dict[str, Any]) -> UserMessage:
    """The row's message; raises `KeyError`, `TypeError` or `ValueError` for what is none."""
    return UserMessage(
        **{
            **row,
            "platform": Platform(row["platform"]),
            "images": tuple(base64.b64decode(image) for image in row["images"]),
            "files": tuple(row.get("files", ())),
        }
    )
