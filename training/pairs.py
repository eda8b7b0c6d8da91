"""Preference pairs: what they are, where they lie, and which of them a run trains on."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Literal, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from core.database import upsert
from core.errors import NotFound
from core.messages import ChatMessage, Language, Passage, Rating, Reason
from core.privacy import lock_words
from core.second_answers import own_text
from core.settings import Settings
from core.store import Store
from core.tables import pairs, tombstones, turns
from training.personal_data import scrub, scrub_prompt
from training.rows import question_in
from training.verdicts import Verdict, read_turns, read_verdicts

Review = Literal["all", "sample", "none"]

MOST_SHARE = 0.02
"""The most of a run that comes from one person; it binds where the pool has `SHARED_FROM` pairs."""
SHARED_FROM = 150
_PAGE = 200
_HOUR = 3600.0


class Origin(StrEnum):
    """Where a pair's better answer comes from."""

    CORRECTION = "correction"
    DUEL = "duel"
    LIKED = "liked"
    REGENERATED = "regenerated"
    EDITED = "edited"
    IMPORTED = "imported"


class PairState(StrEnum):
    """What became of a pair: it waits for an operator, or may be trained on, or never will be.

    `WITHDRAWN` is one that its person took back, or replaced by another.
    """

    WAITING = "waiting"
    ACCEPTED = "accepted"
    REFUSED = "refused"
    WITHDRAWN = "withdrawn"


OPEN = frozenset({PairState.WAITING, PairState.ACCEPTED})


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Two answers to one prompt, exactly as it was served: the better, and the model's own.

    `created_at` is the moment of the verdict. `refusal` says why it is refused, or why an operator
    has to look. `accepted_by` names the operators who accepted it; nobody where the filters did.
    Where only one answer is known, `chosen` or `rejected` is "": that trains KTO alone.
    """

    id: str
    reply_id: str
    user_id: str
    conversation_id: str
    origin: Origin
    prompt: tuple[ChatMessage, ...]
    passages: tuple[Passage, ...]
    chosen: str
    rejected: str
    adapter: str
    language: Language
    reason: Reason | None
    state: PairState
    refusal: str
    accepted_by: tuple[str, ...]
    created_at: float

    @property
    def question(self) -> str:
        """What was asked, without the documents before it."""
        return question_in(self.prompt[-1].content) if self.prompt else ""

    @property
    def whole(self) -> bool:
        """Whether both answers are known."""
        return bool(self.chosen and self.rejected)

    @property
    def open(self) -> bool:
        """Whether it is, or may become, something to train on."""
        return self.state in OPEN


@dataclass(frozen=True, slots=True)
class RatedAnswer:
    """KTO's unit: an answer of the model, and whether it was liked.

    What was imported is no reply of ours: there `reply_id` is the row's own id.
    """

    reply_id: str
    user_id: str
    prompt: tuple[ChatMessage, ...]
    completion: str
    liked: bool
    created_at: float


_Owned = TypeVar("_Owned", PreferencePair, RatedAnswer)


@dataclass(frozen=True, slots=True)
class PoolRules:
    """Which accepted pairs a run may have; `config.toml` says why one would change each."""

    pairs_per_person: int
    quarantine_seconds: float
    train_on_chats: bool

    @classmethod
    def of(cls, settings: Settings) -> PoolRules:
        """The rules that the settings make."""
        return cls(
            settings.feedback.pairs_per_person,
            settings.feedback.quarantine_hours * _HOUR,
            settings.privacy.train_on_chats,
        )


def pair_id(reply_id: str, user_id: str, chosen: str) -> str:
    """The same for the same person's same answer to the same reply, however often it is said."""
    return hashlib.sha256("\x1f".join((reply_id, user_id, chosen)).encode()).hexdigest()[:32]


def subject_of(name: str) -> str:
    """What the audit calls the pair with this id."""
    return f"pair:{name}"


async def accepted(store: Store, now: float, rules: PoolRules) -> list[PreferencePair]:
    """All pairs that a run starting `now` trains on, oldest first.

    Left out are young ones, the oldest of a person who has too many, chats where the settings keep
    them out of training, and whatever was said by a person who has been erased since.
    """
    found = await read_pairs(store, {PairState.ACCEPTED})
    usable = [pair for pair in found if pair.whole and may_train(pair, now, rules)]
    return capped(usable, rules)


async def unpaired(store: Store, now: float, rules: PoolRules) -> list[RatedAnswer]:
    """Answers of the model with a thumb and no pair: what KTO trains on, oldest first.

    An answer that one person likes and another does not is left out. Quarantine and cap are those
    of the pairs.
    """
    known = await read_pairs(store)
    paired = {(pair.reply_id, pair.user_id) for pair in known if pair.open and pair.whole}
    imported = [
        _one_sided(pair)
        for pair in known
        if pair.origin is Origin.IMPORTED and pair.state is PairState.ACCEPTED and not pair.whole
    ]
    if not rules.train_on_chats:
        return imported
    verdicts = [
        verdict
        for verdict in await read_verdicts(store)
        if verdict.by_model
        and not verdict.beyond_training
        and verdict.created_at <= now - rules.quarantine_seconds
        and (verdict.reply_id, verdict.user_id) not in paired
    ]
    rated = _agreed(await _rated(store, verdicts))
    return imported + capped(rated, rules)


async def read_pairs(
    store: Store, states: Collection[PairState] = tuple(PairState)
) -> list[PreferencePair]:
    """The pairs in these states, oldest first; a page at a time, so that messages need not wait.

    Nothing of people who were erased after they said it.
    """
    found: list[PreferencePair] = []
    while page := await _page(store, states, found[-1].id if found else ""):
        found += page
    return sorted(found, key=lambda pair: (pair.created_at, pair.id))


async def _page(store: Store, states: Collection[PairState], after: str) -> list[PreferencePair]:
    erased = sa.exists().where(
        tombstones.c.user_id == pairs.c.user_id, tombstones.c.erased_at >= pairs.c.created_at
    )
    query = (
        sa.select(pairs)
        .where(pairs.c.state.in_(states), pairs.c.id > after, ~erased)
        .order_by(pairs.c.id)
        .limit(_PAGE)
    )
    rows = await store.run(lambda connection: connection.execute(query).all())
    return [to_pair(row) for row in rows]


async def pair_named(store: Store, name: str) -> PreferencePair:
    """The pair with this id, or whose id begins so; `NotFound` where none or several do."""
    query = (
        sa.select(pairs).where(pairs.c.id.startswith(name, autoescape=True)).order_by(pairs.c.id)
    )
    rows = await store.run(lambda connection: connection.execute(query.limit(2)).all())
    if not name or not rows:
        raise NotFound(f"There is no pair {name!r}. See `solemate pairs list --state all`.")
    if len(rows) > 1:
        raise NotFound(f"Several pairs begin with {name!r}; write more of the id.")
    return to_pair(rows[0])


def save(connection: Connection, pair: PreferencePair, now: float) -> bool:
    """Write a new pair; false where it was known, or what it was made of has been erased since.

    One that was withdrawn is written anew.
    """
    if not _still_there(connection, pair):
        return False
    connection.execute(
        sa.delete(pairs).where(pairs.c.id == pair.id, pairs.c.state == PairState.WITHDRAWN)
    )
    decided = None if pair.state is PairState.WAITING else now
    return upsert(connection, pairs, to_row(pair) | {"decided_at": decided}, key=("id",))


def _still_there(connection: Connection, pair: PreferencePair) -> bool:
    """Whether person and turn are as they were read: that may have been many minutes ago.

    An erasure takes the person's turns, and of the others' in the same chat the prompts.
    """
    lock_words(connection)
    if pair.origin is Origin.IMPORTED:
        return True
    gone = sa.select(tombstones.c.user_id).where(
        tombstones.c.user_id == pair.user_id, tombstones.c.erased_at >= pair.created_at
    )
    if connection.execute(gone).first() is not None:
        return False
    turn = sa.select(turns.c.prompt).where(turns.c.reply_id == pair.reply_id)
    return bool(connection.execute(turn).scalar())


def change(
    connection: Connection, before: PreferencePair, after: PreferencePair, now: float
) -> bool:
    """Write what became of a pair; false where somebody else has changed it meanwhile."""
    this = pairs.c.id == before.id
    row = connection.execute(sa.select(pairs).where(this).with_for_update()).one_or_none()
    if row is None or to_pair(row) != before:
        return False
    connection.execute(sa.update(pairs).where(this).values(to_row(after) | {"decided_at": now}))
    return True


def may_train(pair: PreferencePair, now: float, rules: PoolRules) -> bool:
    """Whether the pair is out of quarantine, and chats may be trained on where it is from one."""
    if pair.origin is Origin.IMPORTED:
        return True
    return rules.train_on_chats and pair.created_at <= now - rules.quarantine_seconds


def capped(found: Sequence[_Owned], rules: PoolRules) -> list[_Owned]:
    """The newest rows of each person, at most `pairs_per_person` and `MOST_SHARE` of them all.

    Below `SHARED_FROM` rows a fiftieth would be less than three, so that share counts from there
    on only. Imported pairs are nobody's.
    """
    most = rules.pairs_per_person
    if len(found) >= SHARED_FROM:
        most = min(most, int(MOST_SHARE * len(found)))
    return _newest_per_person(found, most)


def to_row(pair: PreferencePair) -> dict[str, Any]:
    """The pair as its table keeps it."""
    row = {name: getattr(pair, name) for name in PreferencePair.__dataclass_fields__}
    return row | {
        "prompt": [asdict(message) for message in pair.prompt],
        "passages": [asdict(passage) for passage in pair.passages],
        "accepted_by": list(pair.accepted_by),
    }


def to_pair(row: Any) -> PreferencePair:
    """The pair of a table's row."""
    language: Language = row.language
    return PreferencePair(
        id=row.id,
        reply_id=row.reply_id,
        user_id=row.user_id,
        conversation_id=row.conversation_id,
        origin=Origin(row.origin),
        prompt=tuple(ChatMessage(**message) for message in row.prompt),
        passages=tuple(Passage(**passage) for passage in row.passages),
        chosen=row.chosen,
        rejected=row.rejected,
        adapter=row.adapter,
        language=language,
        reason=Reason(row.reason) if row.reason else None,
        state=PairState(row.state),
        refusal=row.refusal,
        accepted_by=tuple(row.accepted_by),
        created_at=row.created_at,
    )


async def _rated(store: Store, verdicts: Sequence[Verdict]) -> list[RatedAnswer]:
    turns = await read_turns(store, (verdict.reply_id for verdict in verdicts))
    return [
        RatedAnswer(
            verdict.reply_id,
            verdict.user_id,
            scrub_prompt(turn.prompt),
            scrub(own_text(turn)).text,
            verdict.rating is Rating.UP,
            verdict.created_at,
        )
        for verdict in verdicts
        if (turn := turns.get(verdict.reply_id)) and turn.prompt
    ]


def _one_sided(pair: PreferencePair) -> RatedAnswer:
    return RatedAnswer(
        pair.reply_id or pair.id,
        pair.user_id,
        pair.prompt,
        pair.chosen or pair.rejected,
        bool(pair.chosen),
        pair.created_at,
    )


def _agreed(rated: Sequence[RatedAnswer]) -> list[RatedAnswer]:
    """The newest thumb on each answer that all who rated it agree on."""
    by_answer: defaultdict[tuple[object, str], list[RatedAnswer]] = defaultdict(list)
    for one in rated:
        by_answer[one.prompt, one.completion].append(one)
    return [many[-1] for many in by_answer.values() if len({one.liked for one in many}) == 1]


def _newest_per_person(found: Sequence[_Owned], most: int) -> list[_Owned]:
    """The last `most` of each person; those that are nobody's all stay. The order stays."""
    kept: list[_Owned] = []
    counts: Counter[str] = Counter()
    for one in sorted(found, key=lambda one: one.created_at, reverse=True):
        counts[one.user_id] += bool(one.user_id)
        if counts[one.user_id] <= most:
            kept.append(one)
    return sorted(kept, key=lambda one: one.created_at)
