"""Review: which pairs an operator has to accept, and what accepting, editing, refusing does.

Pure functions from a pair to a pair; `decide` alone writes. Terminal and console go through these.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from sqlalchemy.engine import Connection

from core.audit import append
from core.errors import NotFound
from core.messages import Rating, Turn
from core.settings import Settings
from core.store import Store
from training.filters import Measures, Objection, Pool, examine
from training.pairs import (
    OPEN,
    Origin,
    PairState,
    PreferencePair,
    Review,
    change,
    read_pairs,
    save,
    subject_of,
)
from training.personal_data import scrub
from training.verdicts import Verdict, read_turns, read_verdicts

SAMPLED = 0.1
"""The share of pairs that an operator sees under the policy `sample`."""
_PIECE = re.compile(r"[A-Za-z0-9]+|\s+|.", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ReviewPolicy:
    """Who accepts pairs; `typed_accepts` operators an answer that somebody typed, under `all`."""

    review: Review
    typed_accepts: int

    @classmethod
    def of(cls, settings: Settings) -> ReviewPolicy:
        """The policy that the settings make."""
        return cls(settings.feedback.review, settings.feedback.typed_accepts)


@dataclass(frozen=True, slots=True)
class Change:
    """A piece of text that both answers hold, or only one of them."""

    kind: Literal["same", "only_rejected", "only_chosen"]
    text: str


def accepts_needed(pair: PreferencePair, policy: ReviewPolicy) -> int:
    """How many operators must accept the pair before it is trained on.

    What a model made up always takes one, and so does a pair that a filter or an alarm points at.
    """
    if pair.origin is Origin.EDITED:
        return 1
    if policy.review == "all":
        return policy.typed_accepts if pair.origin is Origin.CORRECTION else 1
    drawn = policy.review == "sample" and int(pair.id[:8], 16) < SAMPLED * 2**32
    return 1 if drawn or pair.refusal or pair.origin is Origin.REGENERATED else 0


def placed(
    pair: PreferencePair, objection: Objection | None, policy: ReviewPolicy
) -> PreferencePair:
    """A new pair in the state where the filters and the policy put it."""
    if objection and objection.final:
        return replace(pair, state=PairState.REFUSED, refusal=objection.sentence)
    pair = replace(pair, refusal=objection.sentence if objection else "")
    waits = accepts_needed(pair, policy) > len(pair.accepted_by)
    return replace(pair, state=PairState.WAITING if waits else PairState.ACCEPTED)


def accept(pair: PreferencePair, operator: str, policy: ReviewPolicy) -> PreferencePair:
    """The pair with this operator's accept; the same operator counts once."""
    names = tuple(dict.fromkeys((*pair.accepted_by, operator)))
    if len(names) < accepts_needed(pair, policy):
        return replace(pair, state=PairState.WAITING, accepted_by=names)
    return replace(pair, state=PairState.ACCEPTED, accepted_by=names, refusal="")


def edit(
    pair: PreferencePair, chosen: str, operator: str, measures: Measures, pool: Pool
) -> PreferencePair | Objection:
    """The pair with an operator's better answer, accepted; what speaks against it instead.

    An operator's own words pass the same filters; only a doubt is theirs to decide.
    """
    said = scrub(chosen.strip()).text
    edited = replace(pair, chosen=said, origin=Origin.EDITED, accepted_by=(operator,))
    objection = examine(edited, measures, pool)
    if objection and objection.final:
        return objection
    return replace(edited, state=PairState.ACCEPTED, refusal="")


def refuse(pair: PreferencePair, operator: str, why: str) -> PreferencePair:
    """The pair refused by an operator."""
    said = f"{operator}: {why}" if why else f"refused by {operator}"
    return replace(pair, state=PairState.REFUSED, refusal=said, accepted_by=())


def hold(pair: PreferencePair, why: str) -> PreferencePair:
    """A pair that only filters accepted, waiting for an operator after all."""
    return replace(pair, state=PairState.WAITING, refusal=why)


def differences(rejected: str, chosen: str) -> Iterator[Change]:
    """What was taken out of the rejected answer and put into the chosen one, in reading order.

    By words of Latin letters and by single characters of Chinese.
    """
    ours, theirs = _PIECE.findall(rejected), _PIECE.findall(chosen)
    matcher = difflib.SequenceMatcher(None, ours, theirs, autojunk=False)
    for kind, first, last, start, end in matcher.get_opcodes():
        if kind == "equal":
            yield Change("same", "".join(ours[first:last]))
            continue
        if last > first:
            yield Change("only_rejected", "".join(ours[first:last]))
        if end > start:
            yield Change("only_chosen", "".join(theirs[start:end]))


async def unanswered(store: Store) -> list[tuple[Verdict, Turn]]:
    """Thumbs-down that an operator could answer: training mends them, and no open pair does."""
    paired = {(pair.reply_id, pair.user_id) for pair in await read_pairs(store, OPEN)}
    found = [
        verdict
        for verdict in await read_verdicts(store)
        if verdict.rating is Rating.DOWN
        and not verdict.beyond_training
        and (verdict.reply_id, verdict.user_id) not in paired
    ]
    turns = await read_turns(store, (verdict.reply_id for verdict in found))
    return [
        (verdict, turn)
        for verdict in found
        if (turn := turns.get(verdict.reply_id)) and turn.prompt
    ]


async def waiting(store: Store) -> list[PreferencePair]:
    """The pairs that wait for an operator, oldest first."""
    return await read_pairs(store, {PairState.WAITING})


async def add(store: Store, pair: PreferencePair, operator: str, now: float) -> bool:
    """Store a pair that an operator wrote, with its audit row; false where it is known, or the
    verdict that it answers has been erased."""

    def work(connection: Connection) -> bool:
        if not save(connection, pair, now):
            return False
        _note(connection, pair, "", operator, now)
        return True

    return await store.run(work)


async def decide(
    store: Store, before: PreferencePair, after: PreferencePair, operator: str, now: float
) -> None:
    """Write an operator's decision and its audit row; `NotFound` where somebody was faster."""

    def work(connection: Connection) -> bool:
        if not change(connection, before, after, now):
            return False
        _note(connection, after, before.state, operator, now)
        return True

    if not await store.run(work):
        raise NotFound(
            f"The pair {before.id[:8]} was changed by somebody else meanwhile; look at it again."
        )


def _note(
    connection: Connection, pair: PreferencePair, before: str, operator: str, now: float
) -> None:
    append(
        connection,
        who=operator,
        subject=subject_of(pair.id),
        before=before,
        after=pair.state,
        at=now,
        detail={"origin": pair.origin, "accepts": len(pair.accepted_by)},
    )
