"""What is kept about a person can be read, and goes for good, without what others said."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from core.audit import audit_of, verify
from core.inbox import Inbox
from core.messages import (
    ChatMessage,
    Feedback,
    Language,
    Outcome,
    Platform,
    Rating,
    Reply,
    Turn,
    UserMessage,
)
from core.posts import Post, Posts
from core.privacy import Pseudonyms, audit_subject, erase, erased_at, export
from core.store import Store
from core.tables import adapters, metadata, pairs, run_pairs, runs, tombstones

ANN, BEN = "telegram:ann", "telegram:ben"
SECRET = "violet zebras"


@pytest.fixture
def inbox(store: Store) -> Inbox:
    return Inbox(store, owner="test", depth=20)


def turn(reply_id: str, user: str, conversation: str, text: str, at: float, seen: str = "") -> Turn:
    language: Language = "en"
    prompt = (ChatMessage("user", seen), ChatMessage("user", text))
    return Turn(
        reply=Reply(reply_id, conversation, f"About {text}", Outcome.ANSWERED, language),
        message_id=f"m-{reply_id}",
        user_id=user,
        platform=Platform.TELEGRAM,
        question=text,
        query=f"{seen} {text}",
        prompt=prompt,
        passages=(),
        sampling={},
        asked_at=at,
    )


async def everything(store: Store) -> str:
    """All that the database holds but tombstones, as text."""

    def work(connection: sa.Connection) -> str:
        rows = {
            table.name: [list(row) for row in connection.execute(sa.select(table))]
            for table in metadata.sorted_tables
            if table is not tombstones
        }
        return json.dumps(rows, default=str)

    return await store.run(work)


async def add(store: Store, table: sa.Table, **values: object) -> None:
    await store.run(lambda connection: connection.execute(sa.insert(table).values(values)))


async def add_pair(store: Store, name: str, user: str, reply_id: str, text: str) -> None:
    """A pair that a run has trained an adapter on."""
    await add(
        store,
        pairs,
        id=name,
        reply_id=reply_id,
        user_id=user,
        conversation_id="c",
        origin="correction",
        prompt=[{"role": "user", "content": text}],
        passages=[],
        chosen=text,
        rejected="no",
        adapter="",
        language="en",
        reason=None,
        state="accepted",
        refusal="",
        accepted_by=[],
        created_at=1.0,
        decided_at=2.0,
    )


async def test_a_person_is_called_the_same_only_with_the_same_key() -> None:
    one, other = Pseudonyms(b"one"), Pseudonyms(b"other")
    name = one.of(Platform.TELEGRAM, "12345")
    assert name == one.of(Platform.TELEGRAM, "12345")
    assert name != one.of(Platform.SLACK, "12345")
    assert name != other.of(Platform.TELEGRAM, "12345")
    assert "12345" not in name
    assert len(name) <= 64


async def test_nothing_of_a_person_is_left_but_the_tombstone(store: Store, inbox: Inbox) -> None:
    conversation = "telegram:1:7:0:5"
    await store.start_anew("telegram:1:7:0", 5)
    await store.add_turn(turn("r1", ANN, conversation, SECRET, 10.0), [SECRET.encode()])
    await Posts(store).add(conversation, "m-r1", Post("telegram:1:7", "99"))
    await store.add_feedback(Feedback("r1", ANN, Rating.DOWN, correction=SECRET))
    await store.choose_language(ANN, "zh")
    waiting = UserMessage("m-r2", Platform.TELEGRAM, "telegram:1:7:0:6", ANN, SECRET)
    await inbox.put(waiting)
    await inbox.join(waiting, "part", hold_seconds=0)
    await add_pair(store, "p1", ANN, "r1", SECRET)
    assert SECRET in await everything(store)
    erased = await erase(store, ANN, now=100.0)
    left = await everything(store)
    assert SECRET not in left
    assert ANN not in left
    assert "telegram:1:7" not in left
    assert (erased.turns, erased.ratings, erased.photos, erased.pairs) == (1, 1, 1, 1)
    assert await erased_at(store, ANN) == 100.0
    (noted,) = await audit_of(store, audit_subject(ANN))
    assert (noted.who, noted.after, noted.detail["turns"]) == ("the person", "erased", 1)
    assert (await verify(store)).whole


async def test_an_export_of_five_hundred_events_misses_none(store: Store, inbox: Inbox) -> None:
    dice = random.Random(7)
    for number in range(250):
        person = dice.choice([ANN, ANN, BEN])
        text = f"word {number}" if person == ANN else SECRET
        where = dice.choice([f"c{number}", f"group-{number % 7}"])
        await store.add_turn(turn(f"r{number}", person, where, text, 1.0 + number), [b"jpeg"])
        rater = dice.choice([ANN, BEN])
        said = f"word {number}" if rater == ANN else SECRET
        await store.add_feedback(Feedback(f"r{number}", rater, Rating.DOWN, correction=said))
        await add_pair(store, f"p{number}", rater, f"r{number}", SECRET)
    found = await export(store, ANN)
    assert SECRET not in json.dumps(found)
    for table, exported in (
        ("turns", found["turns"]),
        ("feedback_events", found["ratings"]),
        ("pairs", found["pairs"]),
    ):
        counted = sa.text(f"select count(*) from {table} where user_id = :who")
        number = await store.run(lambda connection, query=counted: _one(connection, query))
        assert len(exported) == number > 80
    joined = "photos join turns using (conversation_id, message_id)"
    query = sa.text(f"select count(*) from {joined} where user_id = :who")
    shown = sum(len(one["photos"]) for one in found["turns"])
    assert shown == await store.run(lambda connection: _one(connection, query))


def _one(connection: sa.Connection, query: sa.TextClause) -> int:
    return int(connection.execute(query, {"who": ANN}).scalar_one())


async def test_a_month_later_photos_and_words_are_gone_and_tombstones_stay(store: Store) -> None:
    day = 86400.0
    await store.add_turn(turn("r1", ANN, "a", SECRET, 10.0), [b"jpeg"])
    await store.add_feedback(Feedback("r1", ANN, Rating.DOWN, correction=SECRET), now=10.0)
    await store.add_turn(turn("r2", BEN, "b", SECRET, 10.0), [b"jpeg"])
    await erase(store, BEN, now=20.0)
    # A keep_days of thirty, a day too early and a day after it.
    await store.forget_older_than(29 * day - 30 * day)
    assert SECRET in await everything(store)
    await store.forget_older_than(31 * day - 30 * day)
    assert SECRET not in await everything(store)
    counted = "select count(*) from photos"
    assert await store.run(lambda connection: connection.execute(sa.text(counted)).scalar()) == 0
    assert await erased_at(store, BEN) == 20.0
    await store.add_turn(turn("r3", BEN, "b", SECRET, 15.0))
    assert SECRET not in await everything(store)


async def test_others_keep_what_they_said_without_the_persons_words(store: Store) -> None:
    await store.add_turn(turn("r0", BEN, "group", "before", 5.0))
    await store.add_turn(turn("r1", ANN, "group", SECRET, 10.0, seen="before"))
    await store.add_turn(turn("r2", BEN, "group", "after", 20.0, seen=SECRET))
    await store.add_feedback(Feedback("r1", BEN, Rating.UP))
    await store.add_feedback(Feedback("r2", BEN, Rating.UP))
    await store.add_feedback(Feedback("r2", ANN, Rating.DOWN, comment=SECRET))
    await erase(store, ANN, now=100.0)
    assert SECRET not in await everything(store)
    before, after = await store.history("group", rounds=10)
    assert (before.question, before.prompt != (), before.reply.complete) == ("before", True, True)
    # A prompt that is not as it was sent is no prompt to train on.
    assert (after.question, after.prompt, after.reply.complete) == ("after", (), False)
    assert await store.verdict("r2", BEN) is not None
    assert await store.verdict("r2", ANN) is None


async def test_a_conversation_passes_to_whoever_is_left(store: Store) -> None:
    await store.add_turn(turn("r1", ANN, "group", SECRET, 10.0))
    await store.add_turn(turn("r2", BEN, "group", "Mine", 20.0))
    await erase(store, ANN, now=100.0)
    assert await store.conversations_of(BEN) == [("group", "Mine")]
    assert await store.owner_of("group") == BEN


async def add_adapter(store: Store, number: str, stage: str, item: str) -> None:
    """An adapter, and its run on this pair or reply."""
    await add(
        store,
        runs,
        id=f"run{number}",
        key=number,
        stage=stage,
        recipe="",
        state="promoted",
        why="",
        started_by="",
        folder="",
        dataset="",
        adapter="",
        figures={},
        problem="",
        attempts=0,
        created_at=1.0,
        updated_at=1.0,
    )
    await add(store, run_pairs, run_id=f"run{number}", pair_id=item, split="train")
    await add(
        store,
        adapters,
        name=f"adapter{number}",
        run_id=f"run{number}",
        path="",
        base="",
        digest="",
        manifest={},
        state="live",
        created_at=1.0,
    )


async def flagged_at(store: Store, at: float) -> list[str]:
    query = sa.select(adapters.c.name).where(adapters.c.flagged_at == at)
    return list(await store.run(lambda connection: connection.execute(query).scalars().all()))


async def test_adapters_trained_on_the_person_are_flagged(store: Store) -> None:
    await store.add_turn(turn("r1", ANN, "a", SECRET, 10.0))
    await store.add_turn(turn("r2", BEN, "b", "Mine", 10.0))
    for number, user in (("1", ANN), ("2", BEN)):
        await add_pair(store, f"p{number}", user, f"r{number}", "words")
        await add_adapter(store, number, "dpo", f"p{number}")
    erased = await erase(store, ANN, now=100.0)
    assert await flagged_at(store, 100.0) == ["adapter1"]
    assert erased.adapters == 1


async def test_adapters_trained_on_the_persons_thumbs_are_flagged(store: Store) -> None:
    for number, (asker, rater) in enumerate(((ANN, ANN), (BEN, ANN), (BEN, BEN)), 1):
        await store.add_turn(turn(f"r{number}", asker, f"c{number}", "words", 10.0))
        await store.add_feedback(Feedback(f"r{number}", rater, Rating.DOWN))
        await add_adapter(store, str(number), "kto", f"r{number}")
    await erase(store, ANN, now=100.0)
    assert sorted(await flagged_at(store, 100.0)) == ["adapter1", "adapter2"]


async def test_what_was_asked_before_the_erasure_is_not_stored_after_it(store: Store) -> None:
    await erase(store, ANN, now=100.0)
    await store.add_turn(turn("r1", ANN, "a", SECRET, 99.0))
    await store.add_turn(turn("r2", ANN, "a", "New", 101.0))
    assert [one.question for one in await store.history("a", rounds=10)] == ["New"]


async def test_an_export_is_complete_and_has_nothing_of_others(store: Store, inbox: Inbox) -> None:
    await store.add_turn(turn("r1", ANN, "group", "Mine", 10.0), [b"jpeg"])
    await store.add_turn(turn("r2", BEN, "group", SECRET, 20.0))
    await store.add_feedback(Feedback("r1", ANN, Rating.UP))
    await store.add_feedback(Feedback("r2", ANN, Rating.DOWN, correction="Better"))
    await store.add_feedback(Feedback("r1", BEN, Rating.DOWN, comment=SECRET))
    await store.choose_language(ANN, "zh")
    await inbox.put(UserMessage("m3", Platform.TELEGRAM, "group", ANN, "Waiting"))
    await inbox.put(UserMessage("m4", Platform.TELEGRAM, "group", BEN, SECRET))
    await add_pair(store, "p1", ANN, "r2", SECRET)
    found = await export(store, ANN)
    assert SECRET not in json.dumps(found)
    assert (found["person"], found["choices"]["language"]) == (ANN, "zh")
    assert [(one["question"], one["photos"]) for one in found["turns"]] == [("Mine", ["anBlZw=="])]
    assert [one["correction"] for one in found["ratings"]] == ["", "Better"]
    assert [one["text"] for one in found["waiting"]] == ["Waiting"]
    assert [one["id"] for one in found["pairs"]] == ["p1"]


async def test_the_control_without_a_tombstone_what_comes_again_is_stored(store: Store) -> None:
    said = turn("r1", ANN, "a", SECRET, 10.0)
    await store.add_turn(said)
    await erase(store, ANN, now=100.0)
    await store.add_turn(said)
    assert SECRET not in await everything(store)
    await store.run(lambda connection: connection.execute(sa.delete(tombstones)))
    await store.add_turn(said)
    assert SECRET in await everything(store)


# Nothing of an erased person stays in SQLite's files, while others work with them.


def in_files(sqlite_url: str, words: str) -> bool:
    """Whether the database's file or its log holds these words anywhere."""
    file = Path(sqlite_url.removeprefix("sqlite:///"))
    log = file.with_name(f"{file.name}-wal")
    return any(words.encode() in each.read_bytes() for each in (file, log) if each.exists())


async def test_an_erased_persons_words_leave_the_files_of_a_running_store(sqlite_url: str) -> None:
    async with Store(sqlite_url) as running:
        for number in range(20):
            person, text = (ANN, SECRET) if number % 2 else (BEN, "tan boots")
            reply = f"r{number}"
            await running.add_turn(turn(reply, person, "c", text, 1.0 + number), [text.encode()])
            await running.add_feedback(Feedback(reply, person, Rating.DOWN, correction=text))
            await add_pair(running, f"p{number}", person, reply, text)
        assert in_files(sqlite_url, SECRET)
        async with Store(sqlite_url, exclusive=False) as beside:
            await erase(beside, ANN)
        assert not in_files(sqlite_url, SECRET)
        assert in_files(sqlite_url, "tan boots")
        await running.add_turn(turn("r", BEN, "c", "more", 99.0))
        assert not in_files(sqlite_url, SECRET)


async def test_words_that_moved_inside_the_file_go_too(sqlite_url: str) -> None:
    # Albums that grow part a page between them, and SQLite keeps a copy of a row where it stood.
    dice = random.Random(1)
    async with Store(sqlite_url) as store:
        inbox = Inbox(store, owner="test", depth=1000)
        for number in range(600):
            which = dice.randrange(100)
            person, text = (ANN, SECRET) if which % 4 == 0 else (BEN, "tan boots")
            text += " x" * dice.randrange(100)
            album = UserMessage(f"m{which}", Platform.TELEGRAM, f"c{which}", person, text)
            await inbox.join(album, f"part {number}", hold_seconds=1e9)
        await erase(store, ANN)
    assert not in_files(sqlite_url, SECRET)
    assert in_files(sqlite_url, "tan boots")


async def test_whoever_reads_meanwhile_delays_the_wiping_only(sqlite_url: str) -> None:
    async with Store(sqlite_url) as store:
        await store.add_turn(turn("r1", ANN, "c", SECRET, 1.0))
        with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT question FROM turns").fetchall()
            erasing = asyncio.create_task(erase(store, ANN))
            while not await erased_at(store, ANN):
                pass
            # What comes after the first attempt.
            await erased_at(store, ANN)
            assert in_files(sqlite_url, SECRET)
        await erasing
        assert not in_files(sqlite_url, SECRET)


async def test_a_deleted_conversations_words_leave_the_files(sqlite_url: str) -> None:
    async with Store(sqlite_url) as store:
        await store.add_turn(turn("r1", ANN, "c", SECRET, 1.0))
        assert await store.delete_conversation("c")
        assert not in_files(sqlite_url, SECRET)
