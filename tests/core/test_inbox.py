"""The inbox: once in, a message is answered once, in its turn, or put aside."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest
import sqlalchemy as sa

from core.errors import Busy, NoRoom
from core.inbox import DeadLetter, Inbox
from core.messages import Platform, UserMessage
from core.store import Store
from core.tables import inbox as inbox_table
from tests.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)


@pytest.fixture
def inbox(store: Store, clock: Clock) -> Inbox:
    return Inbox(store, owner="one", depth=3, lease_seconds=60, clock=clock)


def message(
    number: int, conversation: str = "c1", platform: Platform = Platform.WEB
) -> UserMessage:
    return UserMessage(f"m{number}", platform, conversation, "ann", f"question {number}")


async def leased(inbox: Inbox) -> str | None:
    letter = await inbox.lease()
    return None if letter is None else letter.message.id


async def test_a_message_comes_back_as_it_was_put(inbox: Inbox) -> None:
    whole = replace(
        message(1), images=(b"\xff\x00",), language="zh", max_tokens=5, temperature=0.5, text="\x00"
    )
    await inbox.put(whole)
    letter = await inbox.lease()
    assert letter is not None
    assert (letter.message, letter.attempts, letter.received_at) == (whole, 1, 1000.0)


async def test_a_message_is_leased_as_it_comes(inbox: Inbox) -> None:
    receipt = await inbox.take(message(1))
    assert receipt.fresh
    letter = receipt.letter
    assert letter is not None
    assert (letter.message, letter.attempts, letter.received_at) == (message(1), 1, 1000.0)
    assert await leased(inbox) is None
    await inbox.retry(letter)
    assert await leased(inbox) == "m1"
    assert not (await inbox.take(message(1))).fresh


async def test_a_message_that_comes_while_others_wait_is_leased_after_them(inbox: Inbox) -> None:
    await inbox.put(message(1))
    receipt = await inbox.take(message(2))
    assert (receipt.fresh, receipt.letter) == (True, None)
    assert await leased(inbox) == "m1"


async def test_the_same_message_is_taken_once(inbox: Inbox) -> None:
    assert await inbox.put(message(1))
    assert not await inbox.put(message(1))
    assert await inbox.put(message(1, platform=Platform.API))


async def test_an_answered_message_that_comes_again_is_not_answered_again(inbox: Inbox) -> None:
    await inbox.put(message(1))
    letter = await inbox.lease()
    assert letter is not None
    await inbox.done(letter)
    assert not await inbox.put(message(1))
    assert await inbox.lease() is None


async def test_a_conversation_is_answered_in_order_one_at_a_time(inbox: Inbox) -> None:
    for number in (1, 2):
        await inbox.put(message(number))
    first = await inbox.lease()
    assert first is not None
    assert await inbox.lease() is None
    await inbox.done(first)
    assert await leased(inbox) == "m2"


async def test_conversations_are_answered_side_by_side(inbox: Inbox) -> None:
    await inbox.put(message(1, "c1"))
    await inbox.put(message(2, "c1"))
    await inbox.put(message(3, "c2"))
    assert [await leased(inbox) for _ in range(3)] == ["m1", "m3", None]


async def test_a_failed_message_stays_in_front(inbox: Inbox) -> None:
    for number in (1, 2):
        await inbox.put(message(number))
    letter = await inbox.lease()
    assert letter is not None
    await inbox.retry(letter)
    again = await inbox.lease()
    assert again is not None
    assert (again.message.id, again.attempts) == ("m1", 2)


async def test_a_lease_that_ran_out_is_taken_up_by_another(
    store: Store, inbox: Inbox, clock: Clock
) -> None:
    other = Inbox(store, owner="two", depth=3, lease_seconds=60, clock=clock)
    await inbox.put(message(1))
    await inbox.lease()
    clock.now += 59
    assert await other.lease() is None
    clock.now += 2
    letter = await other.lease()
    assert letter is not None
    assert letter.attempts == 2


async def test_a_lease_that_is_renewed_lasts(store: Store, inbox: Inbox, clock: Clock) -> None:
    other = Inbox(store, owner="two", depth=3, lease_seconds=60, clock=clock)
    await inbox.put(message(1))
    letter = await inbox.lease()
    assert letter is not None
    clock.now += 59
    await inbox.renew([letter.id])
    clock.now += 59
    assert await leased(other) is None
    clock.now += 2
    assert await leased(other) == "m1"
    await inbox.renew([letter.id])
    clock.now += 61
    assert await leased(inbox) == "m1"


async def test_what_is_no_longer_leased_is_not_renewed(inbox: Inbox) -> None:
    await inbox.put(message(1))
    letter = await inbox.lease()
    assert letter is not None
    await inbox.retry(letter)
    await inbox.renew([letter.id])
    assert await leased(inbox) == "m1"


async def test_who_lost_the_lease_cannot_put_the_letter_back(
    store: Store, inbox: Inbox, clock: Clock
) -> None:
    await inbox.put(message(1))
    slow = await inbox.lease()
    clock.now += 61
    second = await inbox.lease()
    assert slow is not None
    assert second is not None
    for late in (inbox.retry, inbox.give_back, inbox.dead):
        await late(slow)
    assert await inbox.lease() is None
    await inbox.done(second)
    await inbox.retry(slow)
    assert await inbox.lease() is None


async def test_who_answered_after_the_lease_ran_out_has_answered(
    inbox: Inbox, clock: Clock
) -> None:
    await inbox.put(message(1))
    slow = await inbox.lease()
    clock.now += 61
    second = await inbox.lease()
    assert slow is not None
    assert second is not None
    await inbox.done(slow)
    await inbox.retry(second)
    assert await inbox.lease() is None


async def test_a_letter_given_back_was_not_tried(inbox: Inbox) -> None:
    await inbox.put(message(1))
    for _ in range(5):
        letter = await inbox.lease()
        assert letter is not None
        assert letter.attempts == 1
        await inbox.give_back(letter)


async def test_a_failed_letter_is_leased_again_after_its_pause(inbox: Inbox, clock: Clock) -> None:
    await inbox.put(message(1))
    await inbox.put(message(2))
    letter = await inbox.lease()
    assert letter is not None
    await inbox.retry(letter, pause_seconds=5)
    assert await leased(inbox) is None
    clock.now += 6
    again = await inbox.lease()
    assert again is not None
    assert (again.message.id, again.attempts, again.failing_seconds) == ("m1", 2, 6.0)
    await inbox.retry(again, counts=False)
    last = await inbox.lease()
    assert last is not None
    assert (last.attempts, last.failing_seconds) == (2, 6.0)


async def test_an_apology_is_owed_until_it_is_said(inbox: Inbox, clock: Clock) -> None:
    await inbox.put(message(1))
    letter = await inbox.lease()
    assert letter is not None
    assert await inbox.dead(letter, "why")
    assert not await inbox.dead(letter, "why")
    # Whoever put it aside is saying it.
    assert await inbox.apologies.next() is None
    clock.now += 61
    owed = await inbox.apologies.next()
    assert owed is not None
    assert (owed.message, owed.since_seconds) == (message(1), 61.0)
    assert await inbox.apologies.next() is None
    await inbox.apologies.later(owed.id, 5)
    clock.now += 6
    assert await inbox.apologies.next() is not None
    await inbox.apologies.said(owed.id)
    clock.now += 61
    assert await inbox.apologies.next() is None


async def test_nobody_is_told_of_what_they_asked_long_ago(inbox: Inbox, clock: Clock) -> None:
    await inbox.put(message(1))
    letter = await inbox.lease()
    assert letter is not None
    await inbox.dead(letter)
    clock.now += 90_000
    assert await inbox.apologies.next() is None


async def test_a_dead_letter_lets_the_next_one_through(inbox: Inbox) -> None:
    for number in (1, 2):
        await inbox.put(message(number))
    letter = await inbox.lease()
    assert letter is not None
    await inbox.dead(letter)
    assert await leased(inbox) == "m2"
    assert not await inbox.put(message(1))


async def test_dead_letters_are_kept_with_the_moment_of_their_apology(
    inbox: Inbox, store: Store, clock: Clock
) -> None:
    whole = replace(message(1), images=(b"jpeg",))
    for one in (whole, message(2), message(3, "c2")):
        await inbox.put(one)
    letter = await inbox.lease()
    assert letter is not None
    clock.now += 5
    await inbox.dead(letter)
    assert await inbox.dead_letters("c1") == [DeadLetter(whole, 1005.0)]
    assert await inbox.dead_letters("c2") == []
    assert [one.id for one in await inbox.pending("c1")] == ["m2"]


async def test_a_dead_letter_that_cannot_be_read_is_left_out(inbox: Inbox, store: Store) -> None:
    await inbox.put(message(1))
    await store.run(
        lambda connection: connection.execute(
            sa.update(inbox_table).values(message={}, state="dead")
        )
    )
    assert await inbox.dead_letters("c1") == []


async def test_a_full_conversation_is_busy_and_others_are_not(inbox: Inbox) -> None:
    for number in range(3):
        await inbox.put(message(number))
    with pytest.raises(Busy, match="3 messages of this conversation are waiting"):
        await inbox.put(message(9))
    assert await inbox.put(message(9, "c2"))
    assert await inbox.put(message(9, platform=Platform.API))


async def test_a_repeat_in_a_full_conversation_is_no_error(inbox: Inbox) -> None:
    for number in range(3):
        await inbox.put(message(number))
    assert not await inbox.put(message(0))


async def test_whoever_cannot_be_asked_again_is_not_refused(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.inbox.ROOM", 2)
    for number in range(6):
        assert await inbox.put(message(number, platform=Platform.TELEGRAM))
    assert await inbox.ahead(message(9, platform=Platform.TELEGRAM)) == 6
    with pytest.raises(NoRoom, match="6 messages of this conversation are waiting"):
        await inbox.put(message(9, platform=Platform.TELEGRAM))
    assert not await inbox.put(message(5, platform=Platform.TELEGRAM))


async def test_waiting_counts_and_tells_the_oldest_age(inbox: Inbox, clock: Clock) -> None:
    assert await inbox.waiting() == (0, 0.0)
    await inbox.put(message(1))
    clock.now += 5
    await inbox.put(message(2))
    await inbox.lease()
    assert await inbox.waiting() == (2, 5.0)


async def test_pending_lists_what_has_no_answer_yet(inbox: Inbox) -> None:
    for number in (1, 2, 3):
        await inbox.put(message(number))
    letter = await inbox.lease()
    assert letter is not None
    await inbox.done(letter)
    await inbox.lease()
    assert [one.id for one in await inbox.pending("c1")] == ["m2", "m3"]


async def test_finished_rows_are_forgotten_after_a_while(inbox: Inbox, clock: Clock) -> None:
    for number in (1, 2):
        await inbox.put(message(number))
    letter = await inbox.lease()
    assert letter is not None
    await inbox.done(letter)
    assert await inbox.forget_done(older_than_seconds=10) == 0
    clock.now += 11
    assert await inbox.forget_done(older_than_seconds=10) == 1
    assert await leased(inbox) == "m2"


async def test_leases_of_owners_that_are_gone_can_be_taken_over_at_once(
    inbox: Inbox, store: Store, clock: Clock
) -> None:
    await inbox.put(message(1))
    assert await leased(inbox) == "m1"
    successor = Inbox(store, owner="two", depth=3, lease_seconds=60, clock=clock)
    assert await leased(successor) is None
    assert await successor.take_over() == 1
    assert await leased(successor) == "m1"


async def test_a_row_that_cannot_be_read_is_put_aside_and_stops_nobody(
    inbox: Inbox, store: Store
) -> None:
    await inbox.put(message(1))
    await inbox.put(message(2, "c2"))
    await store.run(
        lambda connection: connection.execute(
            sa.update(inbox_table).where(inbox_table.c.message_id == "m1").values(message={})
        )
    )
    assert await leased(inbox) == "m2"
    assert await leased(inbox) is None


async def test_parts_that_come_soon_are_one_message(inbox: Inbox, clock: Clock) -> None:
    photos = [replace(message(1), text="", images=(b"x",), files=("f",)) for _ in range(2)]
    assert await inbox.join(photos[0], "1", hold_seconds=2)
    assert await inbox.join(replace(photos[1], text="these?"), "2", hold_seconds=2)
    assert not await inbox.join(photos[1], "2", hold_seconds=2)
    assert await leased(inbox) is None
    clock.now += 2.1
    letter = await inbox.lease()
    assert letter is not None
    assert letter.message == replace(
        photos[0], text="these?", images=(b"x", b"x"), files=("f", "f")
    )


async def test_a_part_that_comes_late_is_a_message_of_its_own(inbox: Inbox, clock: Clock) -> None:
    await inbox.join(message(1), "1", hold_seconds=0)
    clock.now += 1
    letter = await inbox.lease()
    assert letter is not None
    for part in ("2", "3", "2"):
        await inbox.join(message(1), part, hold_seconds=0)
    await inbox.done(letter)
    clock.now += 1
    late = await inbox.lease()
    assert late is not None
    assert (late.message.id, late.message.text) == ("m1-2", "question 1\nquestion 1")
    await inbox.done(late)
    assert await leased(inbox) is None
    assert await inbox.knows(Platform.WEB, "c1", "m1")


async def test_an_event_that_was_seen_is_known_again(inbox: Inbox, clock: Clock) -> None:
    await inbox.note_seen(Platform.TELEGRAM, "telegram:1", ["a", "b"])
    assert await inbox.unseen(Platform.TELEGRAM, "telegram:1", ["b", "c"]) == {"c"}
    assert await inbox.unseen(Platform.TELEGRAM, "telegram:2", ["b"]) == {"b"}
    assert await inbox.waiting() == (0, 0.0)
    clock.now += 100
    await inbox.forget_done(older_than_seconds=50)
    assert await inbox.unseen(Platform.TELEGRAM, "telegram:1", ["b"]) == {"b"}


async def test_only_what_waits_for_a_lane_is_a_backlog(inbox: Inbox, clock: Clock) -> None:
    assert await inbox.backlog() == (0, 0.0)
    for one in (message(1), message(2), message(3, "c2")):
        await inbox.put(one)
    await inbox.lease()
    clock.now += 20
    assert await inbox.backlog() == (3, 20.0)
    await inbox.lease()
    assert await inbox.backlog() == (3, 0.0)


async def test_a_persons_waiting_messages_are_found_in_every_conversation(inbox: Inbox) -> None:
    for one in (message(1), message(2, "c2"), replace(message(3, "c2"), user_id="ben")):
        await inbox.put(one)
    assert [one.id for one in await inbox.pending_of("ann")] == ["m1", "m2"]


async def test_whoever_answers_a_message_sees_that_it_was_stopped(inbox: Inbox) -> None:
    await inbox.put(message(1))
    letter = await inbox.lease()
    assert letter is not None
    assert await inbox.unwanted([letter.id]) == set()
    assert await inbox.stop("c1", "m1")
    assert not await inbox.stop("c1", "m2")
    assert await inbox.unwanted([letter.id]) == {letter.id}
    await inbox.done(letter)
    assert not await inbox.stop("c1", "m1")


async def test_calling_a_conversation_off_stops_its_answer_and_deletes_what_waits(
    inbox: Inbox,
) -> None:
    for number, conversation in ((1, "c1"), (2, "c1"), (3, "c2")):
        await inbox.put(message(number, conversation))
    letter = await inbox.lease()
    assert letter is not None
    assert [one.id for one in await inbox.call_off("c1")] == ["m1"]
    assert await inbox.unwanted([letter.id]) == {letter.id}
    assert [one.id for one in await inbox.pending("c1")] == ["m1"]
    assert [one.id for one in await inbox.pending("c2")] == ["m3"]


async def test_whoever_answers_a_message_sees_that_it_was_deleted(
    inbox: Inbox, store: Store
) -> None:
    await inbox.put(message(1))
    letter = await inbox.lease()
    assert letter is not None
    await store.delete_conversation("c1")
    assert await inbox.unwanted([letter.id]) == {letter.id}


# Several processes on one PostgreSQL.


@pytest.fixture
async def replicas(postgres_url: str) -> AsyncIterator[list[Inbox]]:
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(Store(postgres_url)) for _ in range(3)]
        yield [Inbox(store, owner=f"replica {n}", depth=50) for n, store in enumerate(stores)]


async def test_of_messages_that_come_at_once_one_is_leased_as_it_comes(
    replicas: list[Inbox],
) -> None:
    receipts = await asyncio.gather(
        *(inbox.take(message(number, "c1")) for number, inbox in enumerate(replicas))
    )
    assert [receipt.fresh for receipt in receipts] == [True] * 3
    (first,) = [receipt.letter for receipt in receipts if receipt.letter is not None]
    assert [await leased(inbox) for inbox in replicas] == [None] * 3
    await replicas[0].done(first)
    assert await leased(replicas[0]) is not None


@pytest.mark.parametrize("ahead", [-61.0, 61.0])
async def test_a_replica_whose_clock_is_wrong_takes_nothing_that_is_held(
    replicas: list[Inbox], monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    clock = time.time
    held = await replicas[0].take(message(1))
    assert held.letter is not None
    monkeypatch.setattr(time, "time", lambda: clock() + ahead)
    assert await leased(replicas[1]) is None
    waiting, oldest = await replicas[1].waiting()
    assert waiting == 1
    assert 0 <= oldest < 60
    await replicas[1].put(message(2, "c2"))
    monkeypatch.setattr(time, "time", clock)
    assert await leased(replicas[0]) == "m2"


async def test_replicas_that_lease_at_once_answer_each_message_once_and_in_order(
    replicas: list[Inbox],
) -> None:
    for number in range(48):
        await replicas[0].put(message(number, f"c{number % 6}"))
    answered: list[UserMessage] = []
    under_way: set[str] = set()

    async def lane(inbox: Inbox) -> None:
        while len(answered) < 48:
            letter = await inbox.lease()
            if letter is None:
                await asyncio.sleep(0)
                continue
            conversation = letter.message.conversation_id
            assert conversation not in under_way
            under_way.add(conversation)
            await asyncio.sleep(0)
            answered.append(letter.message)
            under_way.remove(conversation)
            await inbox.done(letter)

    await asyncio.gather(*(lane(inbox) for inbox in replicas for _ in range(4)))
    for conversation in range(6):
        own = [one.id for one in answered if one.conversation_id == f"c{conversation}"]
        assert own == [f"m{number}" for number in range(conversation, 48, 6)]


async def test_an_apology_that_is_owed_is_said_by_one_of_the_replicas(
    replicas: list[Inbox],
) -> None:
    for number in range(5):
        assert await replicas[0].bury(message(number), "why")
    found = await asyncio.gather(*(replica.apologies.next() for replica in replicas))
    ids = [owed.id for owed in found if owed is not None]
    assert len(ids) == len(set(ids)) > 0
