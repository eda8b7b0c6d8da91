"""Where a better answer comes from: `SOURCES`, in the order in which they are asked."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
import structlog

from core.duplicates import normalised
from core.errors import ModelUnavailable
from core.messages import Language, Outcome, Rating, Turn, Winner
from core.second_answers import own_text
from core.store import Store
from core.tables import duels, tombstones, turns
from training.judge import SecondTry
from training.pairs import Origin
from training.rows import question_in, split_question
from training.verdicts import Verdict, read_turns

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Duel:
    """Two answers that one person compared: the reply's, and `text` beside it."""

    reply_id: str
    user_id: str
    text: str
    adapter: str
    winner: Winner
    decided_at: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """Something that may become a pair: a thumbs-down, a decided duel, or both."""

    reply_id: str
    user_id: str
    verdict: Verdict | None
    duel: Duel | None

    @property
    def key(self) -> tuple[str, str]:
        """The reply and the person."""
        return self.reply_id, self.user_id

    @property
    def at(self) -> float:
        """The moment of the person's last word."""
        said = self.verdict.created_at if self.verdict else 0.0
        return max(said, self.duel.decided_at if self.duel else 0.0)


@dataclass(frozen=True, slots=True)
class Offer:
    """A better answer and the one that it beats; `adapter` was asked for the latter."""

    chosen: str
    rejected: str
    adapter: str


@dataclass(frozen=True, slots=True)
class Answers:
    """What the sources look into; `second_try` may be None: nothing is regenerated.

    `liked` has the replies that more people like than do not, by language and question.
    """

    store: Store
    liked: Mapping[tuple[Language, str], Sequence[str]]
    second_try: SecondTry | None

    def liked_replies(self, candidate: Candidate) -> Sequence[str]:
        """Those to the candidate's question, the most liked first."""
        if candidate.verdict is None:
            return ()
        key = candidate.verdict.language, normalised(candidate.verdict.question)
        return self.liked.get(key, ())


async def corrected(answers: Answers, candidate: Candidate, turn: Turn) -> Offer | None:
    """What the person said it should have been."""
    if candidate.verdict is None or not candidate.verdict.correction.strip():
        return None
    return Offer(candidate.verdict.correction.strip(), own_text(turn), turn.asked)


async def duel_won(answers: Answers, candidate: Candidate, turn: Turn) -> Offer | None:
    """The answer that the person picked of two."""
    duel = candidate.duel
    if duel is None or duel.winner is Winner.NEITHER:
        return None
    if duel.winner is Winner.SECOND:
        return Offer(duel.text, own_text(turn), turn.reply.adapter)
    return Offer(own_text(turn), duel.text, duel.adapter)


async def liked(answers: Answers, candidate: Candidate, turn: Turn) -> Offer | None:
    """An answer that was liked, to the same question after the same passages and history."""
    if candidate.verdict is None:
        return None
    others = [one for one in answers.liked_replies(candidate) if one != turn.reply.id]
    found = await read_turns(answers.store, others)
    for name in others:
        other = found.get(name)
        if other is not None and _context(other) == _context(turn):
            return Offer(own_text(other), own_text(turn), turn.asked)
    return None


async def regenerated(answers: Answers, candidate: Candidate, turn: Turn) -> Offer | None:
    """The best of several new answers, as the judge sees it; "" where none was clearly better."""
    if answers.second_try is None or candidate.verdict is None:
        return None
    try:
        best = await answers.second_try.answer(turn, candidate.verdict)
    except ModelUnavailable as exc:
        # Another round will try again.
        log.warning("not_regenerated", reply=turn.reply.id, error=type(exc).__name__)
        return None
    return Offer(best or "", own_text(turn), turn.asked)


Source = Callable[[Answers, Candidate, Turn], Awaitable[Offer | None]]
SOURCES: Mapping[Origin, Source] = {
    Origin.CORRECTION: corrected,
    Origin.DUEL: duel_won,
    Origin.LIKED: liked,
    Origin.REGENERATED: regenerated,
}


def may_offer(answers: Answers, candidate: Candidate, origin: Origin) -> bool:
    """Whether there is anything to ask this source for."""
    verdict, duel = candidate.verdict, candidate.duel
    match origin:
        case Origin.CORRECTION:
            return verdict is not None and bool(verdict.correction.strip())
        case Origin.DUEL:
            return duel is not None and duel.winner is not Winner.NEITHER
        case Origin.LIKED:
            return any(one != candidate.reply_id for one in answers.liked_replies(candidate))
        case _:
            return verdict is not None and answers.second_try is not None


def candidates(verdicts: Iterable[Verdict], found: Iterable[Duel]) -> list[Candidate]:
    """Thumbs-down that training may mend, and decided duels, one a reply and person."""
    down = {
        (one.reply_id, one.user_id): one
        for one in verdicts
        if is_down(one) and not one.beyond_training
    }
    decided = {(one.reply_id, one.user_id): one for one in found}
    return [Candidate(*key, down.get(key), decided.get(key)) for key in {**down, **decided}]


def is_down(verdict: Verdict) -> bool:
    """Whether it is a thumbs-down."""
    return verdict.rating is Rating.DOWN


async def read_duels(store: Store) -> list[Duel]:
    """Decided duels about a whole answer of the model, oldest first."""
    erased = sa.exists().where(
        tombstones.c.user_id == duels.c.user_id, tombstones.c.erased_at >= duels.c.created_at
    )
    whole = sa.exists().where(
        turns.c.reply_id == duels.c.reply_id,
        turns.c.complete,
        turns.c.outcome == Outcome.ANSWERED,
        turns.c.adapter != "",
    )
    query = (
        sa.select(duels)
        .where(duels.c.winner.is_not(None), duels.c.decided_at.is_not(None), whole, ~erased)
        .order_by(duels.c.decided_at, duels.c.id)
    )
    rows = await store.run(lambda connection: connection.execute(query).all())
    return [
        Duel(row.reply_id, row.user_id, row.text, row.adapter, Winner(row.winner), row.decided_at)
        for row in rows
    ]


def liked_by_question(verdicts: Iterable[Verdict]) -> dict[tuple[Language, str], list[str]]:
    """Replies that more people like than do not, the most liked first, by their question."""
    likes: Counter[str] = Counter()
    asked: dict[str, tuple[Language, str]] = {}
    for one in verdicts:
        if one.by_model and not one.beyond_training:
            likes[one.reply_id] += 1 if one.rating is Rating.UP else -1
            asked[one.reply_id] = one.language, normalised(one.question)
    found: defaultdict[tuple[Language, str], list[str]] = defaultdict(list)
    for reply_id, count in likes.most_common():
        if count > 0:
            found[asked[reply_id]].append(reply_id)
    return dict(found)


def _context(turn: Turn) -> tuple[object, ...]:
    """All that the model saw but how the question is spelled."""
    *earlier, last = turn.prompt
    return *earlier, split_question(last.content)[0], normalised(question_in(last.content))
