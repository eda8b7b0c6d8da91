"""Figures count people once, answers by how they ended, and of several thumbs the last."""

from __future__ import annotations

from core.figures import Waiting, count_since, count_waiting
from core.inbox import Inbox
from core.messages import Feedback, Outcome, Platform, Rating, Reply, Turn, UserMessage
from core.store import Store


async def answered(store: Store, number: int, user: str, at: float, outcome: Outcome) -> None:
    reply = Reply(f"r{number}", "c", "Yes.", outcome, "en")
    turn = Turn(reply, f"m{number}", user, Platform.WEB, "?", "?", (), (), {}, at)
    await store.add_turn(turn)


async def test_a_period_counts_what_happened_in_it(store: Store) -> None:
    await answered(store, 1, "ann", 10.0, Outcome.ANSWERED)
    await answered(store, 2, "ann", 20.0, Outcome.ANSWERED)
    await answered(store, 3, "ben", 30.0, Outcome.REFUSED)
    for user, rating, at in (
        ("ann", Rating.UP, 12.0),
        ("ann", Rating.DOWN, 21.0),
        ("ben", Rating.UP, 13.0),
        ("eve", Rating.UP, 31.0),
    ):
        await store.add_feedback(Feedback("r1", user, rating), now=at)
    whole, late = await count_since(store, 0.0), await count_since(store, 20.0)
    assert (whole.people, late.people) == (2, 2)
    assert sum(whole.answers.values()) == 3
    assert (late.answers[Outcome.ANSWERED], late.answers[Outcome.REFUSED]) == (1, 1)
    assert late.answers[Outcome.QUOTED] == 0
    assert whole.ratings == {Rating.UP: 2, Rating.DOWN: 1}
    assert late.ratings == {Rating.UP: 1, Rating.DOWN: 1}


async def test_what_waits_and_what_was_put_aside_are_counted(store: Store) -> None:
    inbox = Inbox(store, owner="test", depth=20)
    for number in range(3):
        await inbox.put(UserMessage(f"m{number}", Platform.WEB, f"c{number}", "ann", "?"))
    letter = await inbox.lease()
    assert letter is not None
    await inbox.dead(letter)
    await inbox.lease()
    assert await count_waiting(store) == Waiting(waiting=2, dead=1)
