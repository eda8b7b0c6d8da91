"""Verdicts -> preference pairs: where the better answer comes from, and what becomes of the pair.

A thumbs-down is only half a pair: it names the rejected answer. `offers.SOURCES` is the order in
which a better one is looked for; an operator's edit (`review.py`) comes after them and above them
all. What has no better answer is never given one: it trains KTO (`pairs.unpaired`), or is a bad
case.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection

from core.audit import append
from core.messages import Turn
from core.second_answers import own_text
from core.store import Store
from core.tables import pairs
from training.alarms import Alarm, alarms
from training.filters import Measures, Pool, examine, repeated_pair
from training.judge import SecondTry
from training.offers import (
    SOURCES,
    Answers,
    Candidate,
    Duel,
    Offer,
    candidates,
    is_down,
    liked_by_question,
    may_offer,
    read_duels,
)
from training.pairs import (
    OPEN,
    Origin,
    PairState,
    PoolRules,
    PreferencePair,
    change,
    pair_id,
    read_pairs,
    save,
    subject_of,
)
from training.personal_data import scrub, scrub_prompt
from training.review import ReviewPolicy, hold, placed
from training.verdicts import Verdict, read_turns, read_verdicts

log = structlog.get_logger()

FILTERS_NAME = "filters"
"""Who decides where no operator does, in the audit."""


@dataclass(frozen=True, slots=True)
class PairRules:
    """What the operator decided about pairs. `second_try` may be None: nothing is regenerated."""

    policy: ReviewPolicy
    pool: PoolRules
    measures: Measures
    second_try: SecondTry | None = None


@dataclass(frozen=True, slots=True)
class Collected:
    """What one round of collecting did: new pairs, pairs taken back or held back, and alarms."""

    new: tuple[PreferencePair, ...] = ()
    withdrawn: int = 0
    held: int = 0
    alarms: tuple[Alarm, ...] = ()


@dataclass(frozen=True, slots=True)
class _Known:
    """What there is of a pair, without its texts.

    `repeats` is how the id of the pair begins that it was refused for, "" where that is not why.
    """

    id: str
    reply_id: str
    user_id: str
    origin: Origin
    state: PairState
    repeats: str


@dataclass(slots=True)
class _Round:
    """One round of collecting: what is known, and the pool as it grows."""

    store: Store
    rules: PairRules
    now: float
    verdicts: Sequence[Verdict]
    duels: Sequence[Duel]
    known: defaultdict[tuple[str, str], list[_Known]]
    answers: Answers
    pool: Pool | None = None

    async def filled_pool(self) -> Pool:
        """The pool with the open pairs in it, read once it is needed."""
        if self.pool is None:
            found = [pair for pair in await read_pairs(self.store, OPEN) if pair.whole]
            self.pool = await asyncio.to_thread(Pool, found)
        return self.pool


async def collect_pairs(store: Store, rules: PairRules, now: float) -> Collected:
    """Make pairs of all verdicts that have none yet; to be run again at any time.

    The same verdicts make the same pairs, however often and by how many processes this is run.
    Nothing is collected where the settings keep chats out of training.
    """
    if not rules.pool.train_on_chats:
        return Collected()
    this = await _read(store, rules, now)
    withdrawn = await _withdraw(this)
    await _reopen(this)
    wanted = [
        candidate
        for candidate in candidates(this.verdicts, this.duels)
        if any(_untried(this, candidate))
    ]
    if not wanted:
        return Collected(withdrawn=withdrawn)
    asked = await read_turns(store, (candidate.reply_id for candidate in wanted))
    new = [
        pair
        for candidate in wanted
        if (turn := asked.get(candidate.reply_id)) and turn.prompt
        for pair in await _pairs_of(this, candidate, turn)
    ]
    if not new:
        return Collected(withdrawn=withdrawn)
    held, found = await _hold_back(this, new)
    log.info("pairs_collected", new=len(new), withdrawn=withdrawn, held=held, alarms=len(found))
    return Collected(tuple(new), withdrawn, held, tuple(found))


def _untried(this: _Round, candidate: Candidate) -> Iterator[Origin]:
    """The sources that may still offer something better than what the candidate has, in order."""
    known = this.known[candidate.key]
    if any(one.origin is Origin.EDITED and one.state in OPEN for one in known):
        return
    for origin in SOURCES:
        if not may_offer(this.answers, candidate, origin):
            continue
        tried = [one for one in known if one.origin is origin and _is_current(one, candidate)]
        if not tried:
            yield origin
        if any(one.state in OPEN for one in tried):
            return


def _is_current(known: _Known, candidate: Candidate) -> bool:
    """Whether a pair is made of what the person says now; a correction can be corrected."""
    if known.origin is not Origin.CORRECTION or candidate.verdict is None:
        return True
    return known.id == pair_id(*candidate.key, candidate.verdict.correction.strip())


# --- a candidate becomes a pair ---


async def _pairs_of(this: _Round, candidate: Candidate, turn: Turn) -> list[PreferencePair]:
    """The pairs that come of a candidate: refused ones, until an offer is not refused."""
    made: list[PreferencePair] = []
    for origin in _untried(this, candidate):
        offer = await SOURCES[origin](this.answers, candidate, turn)
        if offer is None or not offer.rejected:
            continue
        pair = await _judged(this, _make(candidate, turn, origin, offer))
        if not await _save(this, pair):
            break
        made.append(pair)
        if pair.open:
            (await this.filled_pool()).add(pair)
            break
    return made


def write_pair(verdict: Verdict, turn: Turn, chosen: str) -> PreferencePair:
    """A pair with an operator's better answer to what somebody disliked, not yet judged."""
    candidate = Candidate(verdict.reply_id, verdict.user_id, verdict, None)
    offer = Offer(chosen, own_text(turn), turn.asked)
    return _make(candidate, turn, Origin.EDITED, offer)


def _make(candidate: Candidate, turn: Turn, origin: Origin, offer: Offer) -> PreferencePair:
    """The pair, without personal data and not yet judged."""
    verdict = candidate.verdict
    return PreferencePair(
        id=pair_id(*candidate.key, offer.chosen),
        reply_id=candidate.reply_id,
        user_id=candidate.user_id,
        conversation_id=turn.reply.conversation_id,
        origin=origin,
        prompt=scrub_prompt(turn.prompt),
        passages=turn.passages,
        chosen=scrub(offer.chosen).text,
        rejected=scrub(offer.rejected).text,
        adapter=offer.adapter,
        language=turn.reply.language,
        reason=verdict.reason if verdict else None,
        state=PairState.WAITING,
        refusal="",
        accepted_by=(),
        created_at=candidate.at,
    )


async def _judged(this: _Round, pair: PreferencePair) -> PreferencePair:
    """The pair in the state where the filters and the policy put it."""
    if not pair.whole:
        why = "no new answer was clearly better"
        return replace(pair, state=PairState.REFUSED, refusal=why)
    pool, rules = await this.filled_pool(), this.rules
    rivals = [one for one in pool if (one.reply_id, one.user_id) == (pair.reply_id, pair.user_id)]
    for rival in rivals:
        # What this pair would replace is no reason against it.
        pool.remove(rival)
    objection = await asyncio.to_thread(examine, pair, rules.measures, pool)
    found = placed(pair, objection, rules.policy)
    if not found.open:
        for rival in rivals:
            pool.add(rival)
    return found


async def _save(this: _Round, pair: PreferencePair) -> bool:
    """Write a new pair and take back what it replaces; false where another process had it."""
    replaced = [
        one
        for one in this.known[pair.reply_id, pair.user_id]
        if pair.open and one.state in OPEN and one.id != pair.id
    ]

    def work(connection: Connection) -> bool:
        if not save(connection, pair, this.now):
            return False
        _note(connection, pair.id, "", pair.state, this.now, pair.origin)
        for one in replaced:
            _take_back(connection, one, this.now)
        return True

    return await this.store.run(work)


# --- pairs that are taken back or held back ---


async def _withdraw(this: _Round) -> int:
    """Take back the open pairs whose person no longer says so; how many."""
    down = {(one.reply_id, one.user_id): one for one in this.verdicts if is_down(one)}
    gone = [
        one
        for many in this.known.values()
        for one in many
        if one.state in OPEN
        and one.origin not in (Origin.DUEL, Origin.IMPORTED)
        and not _still_said(one, down.get((one.reply_id, one.user_id)))
    ]
    if not gone:
        return 0

    def work(connection: Connection) -> None:
        for one in gone:
            _take_back(connection, one, this.now)

    await this.store.run(work)
    for one in gone:
        this.known[one.reply_id, one.user_id].remove(one)
    return len(gone)


async def _reopen(this: _Round) -> None:
    """Look again at pairs that were refused for saying what another said, which is no more.

    Its person was erased, or took it back; the lesson is still that of the others. Where operators
    refused it, it stays refused.
    """
    there = {one.id[:8] for many in this.known.values() for one in many}
    alone = [
        one
        for many in this.known.values()
        for one in many
        if one.state is PairState.REFUSED
        and one.origin is not Origin.IMPORTED
        and one.repeats
        and one.repeats not in there
    ]
    if not alone:
        return

    def work(connection: Connection) -> None:
        for one in alone:
            _take_back(connection, one, this.now)

    await this.store.run(work)
    for one in alone:
        this.known[one.reply_id, one.user_id].remove(one)


def _still_said(known: _Known, verdict: Verdict | None) -> bool:
    """Whether the verdict behind a pair stands: a thumbs-down, with that correction if any."""
    if verdict is None:
        return False
    correction = verdict.correction.strip()
    if known.origin is Origin.CORRECTION:
        return known.id == pair_id(verdict.reply_id, verdict.user_id, correction)
    return True


async def _hold_back(this: _Round, new: Sequence[PreferencePair]) -> tuple[int, list[Alarm]]:
    """Let pairs that only filters accepted wait for an operator, where somebody says the contrary
    or an alarm points at them; how many, and the alarms.
    """
    pool = await this.filled_pool()
    held = 0
    for pair in new:
        for opponent in pool.opponents(pair) if pair.open else ():
            why = f"the pair {pair.id[:8]} says the contrary"
            held += await _hold(this, pool, opponent, why)
    found = await asyncio.to_thread(_alarms, this, pool)
    for alarm in found:
        log.warning("pairs_alarm", pairs=len(alarm.pairs))
        for pair in list(pool):
            if pair.id in alarm.pairs:
                held += await _hold(this, pool, pair, alarm.sentence)
    return held, found


def _alarms(this: _Round, pool: Pool) -> list[Alarm]:
    return alarms(list(pool), this.verdicts, this.now, this.rules.pool.pairs_per_person)


async def _hold(this: _Round, pool: Pool, pair: PreferencePair, why: str) -> bool:
    if pair.state is not PairState.ACCEPTED or pair.accepted_by:
        return False
    after = hold(pair, why)

    def work(connection: Connection) -> bool:
        if not change(connection, pair, after, this.now):
            return False
        _note(connection, pair.id, pair.state, after.state, this.now, pair.origin)
        return True

    if not await this.store.run(work):
        return False
    pool.add(after)
    return True


def _take_back(connection: Connection, known: _Known, now: float) -> None:
    statement = (
        sa.update(pairs)
        .where(pairs.c.id == known.id, pairs.c.state == known.state)
        .values(state=PairState.WITHDRAWN, decided_at=now)
    )
    if connection.execute(statement).rowcount:
        _note(connection, known.id, known.state, PairState.WITHDRAWN, now, known.origin)


def _note(
    connection: Connection, name: str, before: str, after: str, now: float, origin: Origin
) -> None:
    append(
        connection,
        who=FILTERS_NAME,
        subject=subject_of(name),
        before=before,
        after=after,
        at=now,
        detail={"origin": origin},
    )


# --- what there is ---


async def _read(store: Store, rules: PairRules, now: float) -> _Round:
    verdicts = await read_verdicts(store)
    known: defaultdict[tuple[str, str], list[_Known]] = defaultdict(list)
    for one in await _read_known(store):
        known[one.reply_id, one.user_id].append(one)
    answers = Answers(store, liked_by_question(verdicts), rules.second_try)
    return _Round(store, rules, now, verdicts, await read_duels(store), known, answers)


async def _read_known(store: Store) -> list[_Known]:
    names = ("id", "reply_id", "user_id", "origin", "state", "refusal")
    columns = [pairs.c[name] for name in names]
    query = sa.select(*columns).where(pairs.c.state != PairState.WITHDRAWN)
    rows = await store.run(lambda connection: connection.execute(query).all())
    return [
        _Known(
            row.id,
            row.reply_id,
            row.user_id,
            Origin(row.origin),
            PairState(row.state),
            repeated_pair(row.refusal),
        )
        for row in rows
    ]
