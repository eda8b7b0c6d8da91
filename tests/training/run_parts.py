"""Pairs and ratings for tests of runs, without the chats that they would come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from core.database import upsert
from core.messages import ChatMessage
from core.prompt import build_prompt
from core.tables import pairs
from training.dataset import Frozen
from training.pairs import Origin, PairState, PreferencePair, RatedAnswer, to_row
from training.pretrain import Shape, new_model
from training.runs import Run
from training.tokenizer import load_tokenizer, make_tokenizer, save_tokenizer
from training.train import TrainingPlan, plan_training

# No two of these questions are nearly the same.
SHOES = (
    *("sandals", "loafers", "boots", "clogs", "sneakers", "pumps", "mules", "brogues"),
    *("espadrilles", "slippers", "oxfords", "derbies", "wellingtons", "flip-flops", "moccasins"),
)
WANTS = (
    *("Are {} fine in heavy rain?", "How do I clean {} made of suede?"),
    *("Which sole do {} need on ice?", "Do {} stretch after a month?"),
    *("May a toddler wear {}?", "What do {} weigh on average?"),
)


def questions(number: int) -> list[str]:
    every = [want.format(shoe) for want in WANTS for shoe in SHOES]
    assert number <= len(every)
    return every[:number]


def pair(number: int, *, person: str = "", question: str = "", **changes: Any) -> PreferencePair:
    """A pair of person `person` about the question, both of their own by default."""
    asked = question or questions(number + 1)[number]
    fields: dict[str, Any] = {
        "id": f"pair-{number:04}",
        "reply_id": f"reply-{number}",
        "user_id": person or f"person-{number}",
        "conversation_id": f"conversation-{number}",
        "origin": Origin.CORRECTION,
        "prompt": build_prompt(asked, language="en"),
        "passages": (),
        "chosen": f"Yes, and note {number}.",
        "rejected": f"No, never {number}.",
        "adapter": "solemate-spoken",
        "language": "en",
        "reason": None,
        "state": PairState.ACCEPTED,
        "refusal": "",
        "accepted_by": (),
        "created_at": 1000.0 + number,
    }
    return PreferencePair(**(fields | changes))


def insert_pairs(connection: sa.Connection, *found: PreferencePair) -> None:
    """Have the store hold pairs without the turns that they would come from."""
    for one in found:
        upsert(connection, pairs, to_row(one) | {"decided_at": 1.0}, key=("id",))


def rated(number: int, *, liked: bool) -> RatedAnswer:
    """A thumb of a person of its own."""
    asked = questions(number + 1)[number]
    return RatedAnswer(
        reply_id=f"reply-{number}",
        user_id=f"person-{number}",
        prompt=build_prompt(asked, language="en"),
        completion=f"Answer {number}.",
        liked=liked,
        created_at=1000.0 + number,
    )


def count_words(prompt: Sequence[ChatMessage], answer: str) -> int:
    """A tokenizer of our own: one token a word."""
    return sum(len(message.content.split()) for message in prompt) + len(answer.split())


def make_tiny_model(folder: Path) -> Path:
    """A model that was never trained, with the shipped one's tokenizer and chat form."""
    folder.mkdir()
    save_tokenizer(make_tokenizer(["一字拖是拖鞋。"]), folder)
    shape = Shape(layers=5, width=64, heads=4, inner=64)
    new_model(load_tokenizer(folder), shape, seed=1).save_pretrained(folder)
    return folder


def two_steps_of(model: Path) -> Callable[[Run, Frozen], TrainingPlan]:
    """Plans of runs that train this model for two steps, with LLaMA-Factory itself."""

    def plan(run: Run, frozen: Frozen) -> TrainingPlan:
        made = plan_training(
            "dpo",
            run.folder.parent,
            datetime(2026, 3, 1),
            model=str(model),
            frozen=frozen.folder,
            folder=run.attempt,
            output=run.output,
        )
        small = {"max_steps": 2, "per_device_train_batch_size": 2, "logging_steps": 1}
        return replace(made, keys={**made.keys, **small})

    return plan
