"""Lets a new adapter answer a few people, then more, and takes it back where it does harm.

Thumbs, won and lost duels, failures and slowness are read from the store, by the adapter that was
asked. All tests may be looked at at any time, so that looking often promotes and hurts nobody.
"""

from __future__ import annotations

import itertools
import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection

from core.messages import Outcome, Rating, Winner
from core.routes import Route, lock_routes
from core.settings import Canary as CanarySettings
from core.store import Store
from core.tables import adapters, duels, feedback_events, routes, runs, turns
from training.adapters import Adapters
from training.runs import RunState
from training.sprt import HarmTest, Rate, Standing, duel_evidence

log = structlog.get_logger()

WHO = "canary"
ERASED = "somebody in its data was erased"
ABANDONED = "no run tries it"
# Together at most one canary in twenty that is as good as the live adapter is judged wrongly.
RATING_ALPHA, RATING_BETA = 0.04, 0.1
DUEL_ALPHA = 0.01
# A server that hiccups is no reason to go back; an adapter that breaks every tenth answer is.
TROUBLE_ALPHA, TROUBLE_BETA = 0.001, 0.1
FAILING, SLOWING = 0.15, 0.2
# What is expected before anything is known of the live adapter: a guess worth so many events.
_GUESSED_FAILING, _GUESSED_SLOW = Rate(0.5, 49.5), Rate(1.0, 9.0)
# Of thumbs each one that is known takes one of the guessed ones away, down to the last: an adapter
# that few like would otherwise be expected to be liked, and so would a canary no worse than it.
_GUESSED_RATINGS, _LEAST_GUESSED = 10, 1
# An answer is slow when it takes so much longer than half of the live adapter's do.
_SLOW = 1.2
# With fewer answers of the live adapter it is not known what is usual.
_ENOUGH = 20
# As many answers of the live adapter, from so long before and after, are of the same moment.
_BESIDE, _MOMENT = 20, 1800.0
_RECENT = 500
# Of more answers of the live adapter than these every second is read, or every third, and so on.
_MOST_LIVE = 10_000
_MONTH = 30 * 86400.0
_DAY = 86400.0


class Step(StrEnum):
    """What a canary does next."""

    WAIT = "wait"
    WIDEN = "widen"
    PROMOTE = "promote"
    ROLL_BACK = "roll back"


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer that an adapter was asked for: whether it failed, and how long the model took.

    `seconds` is None where the answer is not the model's own.
    """

    at: float
    failed: bool = False
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of a canary, in the order in which it came.

    `disliked` has one entry for each person and day with a rating; `answers` are its own, and
    `live_answers` those of the live adapter from the same time. `rated_in_stage` counts the
    ratings since the share of people was last raised.
    """

    disliked: Sequence[bool] = ()
    rated_in_stage: int = 0
    live_liked: int = 0
    live_rated: int = 0
    won: int = 0
    lost: int = 0
    answers: Sequence[Answered] = ()
    live_answers: Sequence[Answered] = ()
    stage_seconds: float = 0.0
    total_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Decision:
    """The next step, and why in a word or two."""

    step: Step
    why: str


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at a canary found and did; `route` is who answers after it."""

    name: str
    decision: Decision
    evidence: Evidence
    route: Route


def decide(
    evidence: Evidence, share: float, rules: CanarySettings, *, paused: bool = False
) -> Decision:
    """What to do with a canary that this share of people gets: trouble first, then ratings.

    While the loop is paused harm alone counts: nothing else is decided.
    """
    if trouble := _trouble(evidence):
        return Decision(Step.ROLL_BACK, trouble)
    harm = rating_test(evidence, rules).look(evidence.disliked)
    if harm is Standing.HARMFUL:
        return Decision(Step.ROLL_BACK, "disliked")
    if paused:
        return Decision(Step.WAIT, "paused")
    cleared = harm is Standing.CLEARED
    if evidence.total_seconds >= rules.limit_hours * 3600:
        if cleared and rules.undecided == "promote":
            return Decision(Step.PROMOTE, "no harm seen")
        return Decision(Step.ROLL_BACK, "nothing proved in time")
    long_enough = evidence.stage_seconds >= rules.stage_hours * 3600
    if not (cleared and long_enough and evidence.rated_in_stage >= rules.stage_ratings):
        return Decision(Step.WAIT, "no harm seen" if cleared else "too few ratings")
    if any(wider > share for wider in rules.shares):
        return Decision(Step.WIDEN, "no harm seen")
    if duel_evidence(evidence.won, evidence.lost) >= 1 / DUEL_ALPHA:
        return Decision(Step.PROMOTE, "wins duels")
    return Decision(Step.WAIT, "not proved yet")


def rating_test(evidence: Evidence, rules: CanarySettings) -> HarmTest:
    """The test on thumbs: as the live adapter's are, or `rules.harm` worse."""
    rated = evidence.live_rated
    guessed = max(_LEAST_GUESSED, _GUESSED_RATINGS - rated)
    guess = Rate(guessed * (1 - rules.liked), guessed * rules.liked)
    usual = _known(guess, rated - evidence.live_liked, rated)
    return HarmTest(usual, rules.harm, RATING_ALPHA, RATING_BETA)


@dataclass(frozen=True, slots=True)
class _Event:
    """Something that happened to an answer, or did not."""

    at: float
    bad: bool


def _trouble(evidence: Evidence) -> str:
    """What is so wrong with the answers that nobody's thumb is waited for; "" for nothing."""
    mine = [_Event(one.at, one.failed) for one in evidence.answers]
    live = [_Event(one.at, one.failed) for one in evidence.live_answers]
    if _comes_more_often(mine, live, _GUESSED_FAILING, FAILING):
        return "fails"
    took = [one.seconds for one in evidence.live_answers if one.seconds is not None]
    if len(took) < _ENOUGH:
        return ""
    limit = _SLOW * statistics.median(took)
    mine, live = _late(evidence.answers, limit), _late(evidence.live_answers, limit)
    return "slow" if _comes_more_often(mine, live, _GUESSED_SLOW, SLOWING) else ""


def _late(answers: Iterable[Answered], limit: float) -> list[_Event]:
    return [_Event(one.at, one.seconds > limit) for one in answers if one.seconds is not None]


def _comes_more_often(
    mine: Sequence[_Event], live: Sequence[_Event], guess: Rate, more: float
) -> bool:
    """Whether something happens more often to the canary's answers than to those beside them.

    An hour in which it happens to everybody says nothing of the canary, however often it does: in
    it, at least what happens to the live adapter is usual.
    """
    usual = _known(guess, sum(one.bad for one in live), len(live))
    test = HarmTest(usual, more, TROUBLE_ALPHA, TROUBLE_BETA)
    found = test.look([one.bad for one in mine], least=_usual_beside(mine, live))
    return found is Standing.HARMFUL


def _usual_beside(mine: Sequence[_Event], live: Sequence[_Event]) -> list[float]:
    """For each of the canary's answers, the bad share of the live adapter's at that moment."""
    moments = [one.at for one in live]
    sums = [0, *itertools.accumulate(one.bad for one in live)]
    shares = []
    for one in mine:
        here = bisect_left(moments, one.at)
        first = bisect_left(moments, one.at - _MOMENT, max(0, here - _BESIDE // 2), here)
        last = bisect_right(moments, one.at + _MOMENT, here, min(len(live), here + _BESIDE // 2))
        shares.append((sums[last] - sums[first]) / (last - first) if last > first else 0.0)
    return shares


def _known(guess: Rate, bad: int, whole: int) -> Rate:
    return Rate(guess.bad + bad, guess.good + whole - bad)


class Canary:
    """The canary that runs, if one does: its evidence from the store, its steps into the route."""

    def __init__(self, store: Store, adapters: Adapters, rules: CanarySettings) -> None:
        self._store = store
        self._adapters = adapters
        self._rules = rules

    async def start(self, name: str, *, who: str, now: float) -> Route:
        """Give an adapter its first people; all of them where the settings have no shares.

        Raises `AdapterRejected` where it may not answer, `ConfigError` where another is tried.
        """
        route = await self._adapters.route()
        if name in (route.live, route.canary):
            return route
        if not self._rules.shares:
            return await self._adapters.promote(name, who=who, why="no canary", now=now)
        share = min(self._rules.shares)
        return await self._adapters.try_out(name, share, who=who, now=now)

    async def advance(self, *, now: float, paused: bool = False) -> Look | None:
        """Look at the canary and do what follows from it; None where there is none.

        One transaction: whoever looks at the same time sees what was done, and does it no more.
        While the loop is `paused`, a canary that does harm is taken back, and no other is touched.
        """
        look = await self._store.run(lambda connection: self._advance(connection, now, paused))
        if look is not None and look.decision.step is not Step.WAIT:
            log.info("canary", adapter=look.name, step=look.decision.step, why=look.decision.why)
        return look

    async def end_abandoned(self, *, now: float) -> Route | None:
        """Take back a canary whose run has ended without it; the route then, None for no such.

        Nobody would judge it, and no other could be tried. Where we are killed between its start
        and the note of it, its run may end otherwise.
        """
        route = await self._store.run(lambda connection: self._end_abandoned(connection, now))
        if route is not None:
            log.warning("canary_abandoned", why=ABANDONED)
        return route

    def _end_abandoned(self, connection: Connection, now: float) -> Route | None:
        if not self._adapters.current(connection).canary:
            return None
        lock_routes(connection)
        canary = self._adapters.current(connection).canary
        tried = (
            sa.select(runs.c.id)
            .join(adapters, adapters.c.run_id == runs.c.id)
            .where(adapters.c.name == canary, runs.c.state == RunState.CANARY.value)
        )
        if not canary or connection.execute(tried).first() is not None:
            return None
        return self._adapters.roll_back_in(connection, who=WHO, why=ABANDONED, now=now)

    def _advance(self, connection: Connection, now: float, paused: bool) -> Look | None:
        route = self._adapters.current(connection)
        if not route.canary:
            return None
        name = route.canary
        evidence = read_evidence(connection, route, now)
        if self._adapters.flagged_in(connection, name):
            # It may neither go further nor go live: a new one learns without the erased.
            decision = Decision(Step.ROLL_BACK, ERASED)
        else:
            decision = decide(evidence, route.share, self._rules, paused=paused)
        why = decision.why
        match decision.step:
            case Step.WIDEN:
                share = min(share for share in self._rules.shares if share > route.share)
                route = self._adapters.try_out_in(
                    connection, name, share, who=WHO, why=why, now=now
                )
            case Step.PROMOTE:
                route = self._adapters.promote_in(connection, name, who=WHO, why=why, now=now)
            case Step.ROLL_BACK:
                route = self._adapters.roll_back_in(connection, who=WHO, why=why, now=now)
        return Look(name, decision, evidence, route)


def read_evidence(connection: Connection, route: Route, now: float) -> Evidence:
    """What the store knows of the route's canary and, beside it, of the live adapter."""
    began = _began(connection, route.canary)
    rated = _rated(connection, route.canary, began)
    before = _rated(connection, route.live, began - _MONTH)
    mine = _answers(connection, route.canary, began)
    live = _answers_beside(connection, route.live, mine)
    won, lost = _duels(connection, route, began)
    return Evidence(
        disliked=[rating == Rating.DOWN for _, rating in rated],
        rated_in_stage=sum(at >= route.routed_at for at, _ in rated),
        live_liked=sum(rating == Rating.UP for _, rating in before),
        live_rated=len(before),
        won=won,
        lost=lost,
        answers=mine,
        live_answers=live,
        stage_seconds=now - route.routed_at,
        total_seconds=now - began,
    )


def _began(connection: Connection, canary: str) -> float:
    """When the canary got its first people: where the last rows that name it begin."""
    last_other = sa.select(sa.func.max(routes.c.id)).where(routes.c.canary != canary)
    other = connection.execute(last_other).scalar() or 0
    query = sa.select(sa.func.min(routes.c.routed_at)).where(routes.c.id > other)
    return float(connection.execute(query).scalar_one())


def _rated(connection: Connection, adapter: str, since: float) -> list[tuple[float, Rating]]:
    """The last rating of each person on each day, of answers asked since; in order.

    Who presses a hundred times a day, or is answered as often, is one person still.
    """
    query = (
        sa.select(
            feedback_events.c.reply_id,
            feedback_events.c.user_id,
            feedback_events.c.rating,
            feedback_events.c.created_at,
        )
        .join(turns, turns.c.reply_id == feedback_events.c.reply_id)
        .where(turns.c.asked == adapter, turns.c.asked_at >= since, turns.c.failure == "")
        .order_by(feedback_events.c.id)
    )
    verdicts = {(row.reply_id, row.user_id): row for row in connection.execute(query)}
    daily = {
        (row.user_id, int(row.created_at // _DAY)): (float(row.created_at), Rating(row.rating))
        for row in sorted(verdicts.values(), key=lambda row: row.created_at)
    }
    return sorted(daily.values())


def _answers(connection: Connection, adapter: str, since: float) -> list[Answered]:
    """The newest answers that an adapter was asked for, the oldest of them first."""
    query = (
        sa.select(turns.c.asked_at, turns.c.failure, turns.c.outcome, turns.c.timings)
        .where(turns.c.asked == adapter, turns.c.asked_at >= since)
        .order_by(turns.c.asked_at.desc())
        .limit(_RECENT)
    )
    return [_to_answered(row) for row in reversed(connection.execute(query).all())]


def _answers_beside(
    connection: Connection, adapter: str, others: Sequence[Answered]
) -> list[Answered]:
    """What an adapter was asked for in the time of other answers, and just around it; in order."""
    if not others:
        return []
    first, last = others[0].at - _MOMENT, others[-1].at + _MOMENT
    number = sa.func.row_number().over(order_by=(turns.c.asked_at, turns.c.reply_id))
    within = (turns.c.asked == adapter, turns.c.asked_at.between(first, last))
    count = connection.execute(sa.select(sa.func.count()).where(*within)).scalar_one()
    found = (
        sa.select(
            turns.c.asked_at,
            turns.c.failure,
            turns.c.outcome,
            turns.c.timings,
            number.label("number"),
        )
        .where(*within)
        .subquery()
    )
    each = count // _MOST_LIVE + 1
    query = sa.select(found).where(found.c.number % each == 0).order_by(found.c.number)
    return [_to_answered(row) for row in connection.execute(query)]


def _to_answered(row: Any) -> Answered:
    """A stored turn as far as it matters; how long the model took, for an answer of its own."""
    own = not row.failure and row.outcome == Outcome.ANSWERED
    took = float(row.timings.get("model", 0.0)) if own else None
    return Answered(float(row.asked_at), bool(row.failure), took)


def _duels(connection: Connection, route: Route, since: float) -> tuple[int, int]:
    """How many duels with the live adapter the canary won and lost; a person's last one of a day.

    Both orders count: the canary's answer may be the reply, or the one that was shown beside it.
    A duel belongs to the day on which it was drawn: when it was decided is up to the person.
    """
    query = (
        sa.select(
            duels.c.user_id,
            duels.c.winner,
            duels.c.created_at,
            duels.c.adapter.label("second"),
            turns.c.adapter.label("first"),
        )
        .join(turns, turns.c.reply_id == duels.c.reply_id)
        .where(
            duels.c.created_at >= since,
            duels.c.winner.in_([Winner.FIRST, Winner.SECOND]),
            duels.c.adapter.in_([route.canary, route.live]),
        )
        .order_by(duels.c.created_at, duels.c.id)
    )
    daily: dict[tuple[str, int], bool] = {}
    for row in connection.execute(query):
        if {row.first, row.second} == {route.canary, route.live}:
            winner = row.first if row.winner == Winner.FIRST else row.second
            daily[row.user_id, int(row.created_at // _DAY)] = winner == route.canary
    return sum(daily.values()), len(daily) - sum(daily.values())
