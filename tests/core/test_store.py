"""The store, on SQLite and on PostgreSQL: what is acknowledged stays, and nothing else is."""

import asyncio
import itertools
import os
import random
import resource
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.engine import Connection

from core import store as store_module
from core.database import newest_revision
from core.errors import NotFound, StoreError
from core.messages import (
    ChatMessage,
    Feedback,
    ImageTag,
    Outcome,
    Passage,
    Platform,
    Rating,
    Reason,
    Reply,
    Source,
    Timings,
    Turn,
)
from core.posts import Post, Posts
from core.store import KNOWN_SECONDS, Store
from core.tables import (
    conversations,
    feedback_events,
    inbox,
    metadata,
    photos,
    posts,
    turns,
)
from tests.core.old_tables import alembic, make_older_tables, state_of

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def make_turn(
    reply_id: str = "r1",
    *,
    conversation: str = "c1",
    user: str = "ann",
    question: str = "帆布鞋怎么洗？",
    asked_at: float = 1000.0,
) -> Turn:
    passage = Passage("p1", "帆布鞋", "用软刷刷洗。", "written", "care", "zh", 0.9)
    return Turn(
        reply=Reply(
            id=reply_id,
            conversation_id=conversation,
            text="用软刷刷洗。",
            outcome=Outcome.ANSWERED,
            language="zh",
            sources=(Source("p1", "帆布鞋", "用软刷刷洗。", "written"),),
            tags=(ImageTag("蓝色", "blue", "颜色", 0.8, sure=False),),
            suggestions=("帆布鞋",),
            adapter="solemate",
            timings=Timings(total=0.5, model=0.4),
        ),
        message_id=f"m-{reply_id}",
        user_id=user,
        platform=Platform.WEB,
        question=question,
        query="帆布鞋 怎么洗",
        prompt=(ChatMessage("system", "…"), ChatMessage("user", "问题：帆布鞋怎么洗？")),
        passages=(passage,),
        sampling={"max_tokens": 200, "stop": []},
        asked_at=asked_at,
    )


async def count(store: Store, table: sa.Table) -> int:
    query = sa.select(sa.func.count()).select_from(table)
    return await store.run(lambda connection: connection.execute(query).scalar_one())


async def pragma(store: Store, text: str) -> object:
    """A pragma's value; None where it only sets something."""

    def work(connection: Connection) -> object:
        result = connection.exec_driver_sql(f"PRAGMA {text}")
        return result.scalar() if result.returns_rows else None

    return await store.run(work)


# What a SQLite file promises.


async def test_sqlite_is_set_up_to_lose_nothing_and_to_wipe_what_is_deleted(
    sqlite_url: str,
) -> None:
    async with Store(sqlite_url) as store:
        names = ("journal_mode", "synchronous", "busy_timeout", "foreign_keys", "secure_delete")
        assert [await pragma(store, name) for name in names] == ["wal", 2, 5000, 1, 1]


async def test_a_second_process_is_refused_with_one_sentence(sqlite_url: str) -> None:
    async with Store(sqlite_url):
        with pytest.raises(StoreError, match="Another solemate is already using"):
            async with Store(sqlite_url):
                pass


async def test_a_closed_store_can_be_opened_again(sqlite_url: str) -> None:
    for _ in range(2):
        async with Store(sqlite_url) as store:
            assert await count(store, turns) == 0


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(StoreError, match=r"cannot be opened: .*\. Put a backup in its place"):
        async with Store(f"sqlite:///{tmp_path / 'store.db'}"):
            pass


async def test_a_database_that_the_disk_withholds_is_refused_with_advice(tmp_path: Path) -> None:
    (tmp_path / "store.db").mkdir()
    with pytest.raises(StoreError, match=r"cannot be opened: .*\. Make room on its disk"):
        async with Store(f"sqlite:///{tmp_path / 'store.db'}"):
            pass


async def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be used"):
        async with Store(f"sqlite:///{tmp_path / 'file' / 'store.db'}"):
            pass


async def test_a_full_database_acknowledges_nothing_and_heals(sqlite_url: str) -> None:
    async with Store(sqlite_url) as store:
        await store.add_turn(make_turn())
        pages = await pragma(store, "page_count")
        await pragma(store, f"max_page_count={pages}")
        with pytest.raises(StoreError, match=r"full.*nothing was acknowledged"):
            await store.add_turn(make_turn("r2"), [bytes(100_000)])
        await pragma(store, "max_page_count=1000000")
        assert await count(store, turns) == 1
        await store.add_turn(make_turn("r2"), [bytes(100_000)])
        assert await count(store, turns) == 2


@contextmanager
def no_file_may_grow(to: int = 200_000) -> Iterator[None]:
    """Every write beyond the first `to` bytes of a file fails, as on a broken disk."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (to, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


async def test_a_failing_disk_acknowledges_nothing_and_heals(sqlite_url: str) -> None:
    async with Store(sqlite_url) as store:
        await store.add_turn(make_turn())
        with no_file_may_grow(), pytest.raises(StoreError, match="nothing was acknowledged"):
            await store.add_turn(make_turn("r2"), [bytes(500_000)])
        assert await count(store, turns) == 1
        await store.add_turn(make_turn("r2"), [bytes(500_000)])
        assert await pragma(store, "integrity_check") == "ok"
        assert await count(store, photos) == 1


async def test_a_read_only_database_acknowledges_nothing(sqlite_url: str) -> None:
    async with Store(sqlite_url) as store:
        await store.add_turn(make_turn())
        await pragma(store, "query_only=ON")
        with pytest.raises(StoreError, match=r"readonly.*nothing was acknowledged"):
            await store.add_feedback(Feedback("r1", "ann", Rating.UP))
    async with Store(sqlite_url) as store:
        assert await store.verdict("r1", "ann") is None


class Watch:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_a_database_that_can_be_read_only_is_noticed_and_heals(sqlite_url: str) -> None:
    watch = Watch()
    async with Store(sqlite_url, clock=watch) as store:
        await store.check_writing()
        with no_file_may_grow(to=1):
            watch.now = KNOWN_SECONDS
            with pytest.raises(StoreError, match="nothing was acknowledged"):
                await store.check_writing()
            assert await count(store, turns) == 0
        watch.now = 2 * KNOWN_SECONDS
        await store.check_writing()


async def test_a_write_that_failed_counts_though_a_smaller_one_would_fit(sqlite_url: str) -> None:
    watch = Watch()
    async with Store(sqlite_url, clock=watch) as store:
        await store.check_writing()
        with no_file_may_grow(), pytest.raises(StoreError):
            await store.add_turn(make_turn(), [bytes(500_000)])
        watch.now = KNOWN_SECONDS - 1
        with pytest.raises(StoreError, match="nothing was acknowledged"):
            await store.check_writing()
        watch.now = KNOWN_SECONDS
        await store.check_writing()


async def test_asking_often_whether_writing_works_spares_the_disk(
    sqlite_url: str, tmp_path: Path
) -> None:
    async with Store(sqlite_url, clock=Watch()) as store:
        await store.check_writing()
        written = (tmp_path / "store.db-wal").stat().st_size
        for _ in range(20):
            await store.check_writing()
        assert (tmp_path / "store.db-wal").stat().st_size == written


async def test_finding_out_whether_writing_works_leaves_nothing_behind(store: Store) -> None:
    await store.check_writing()
    assert await count(store, conversations) == 0


COUNTER = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
static void count(void) { FILE *f = fopen(getenv("SYNCS"), "a"); fputc('s', f); fclose(f); }
int fsync(int fd) { count(); return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd); }
int fdatasync(int fd) { count(); return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd); }
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler to count syncs")
async def test_every_acknowledged_verdict_was_synced(sqlite_url: str, tmp_path: Path) -> None:
    async with Store(sqlite_url) as store:
        await store.add_turn(make_turn())
    (tmp_path / "count.c").write_text(COUNTER)
    build = ["cc", "-shared", "-fPIC", "-o", "count.so", "count.c", "-ldl"]
    await asyncio.to_thread(subprocess.run, build, cwd=tmp_path, check=True)
    preload = {"LD_PRELOAD": str(tmp_path / "count.so"), "SYNCS": str(tmp_path / "syncs")}
    acked = await asyncio.to_thread(write_until_killed, sqlite_url, 0, 40, preload)
    assert (tmp_path / "syncs").stat().st_size >= len(acked) >= 40


# Both databases from here on.


async def test_a_turn_comes_back_as_it_was_stored(store: Store) -> None:
    turn = make_turn()
    await store.add_turn(turn)
    assert await store.turn("r1") == turn
    assert await store.answered(Platform.WEB, "c1", "m-r1") == turn


async def test_a_turn_stored_twice_is_there_once(store: Store) -> None:
    for _ in range(2):
        await store.add_turn(make_turn(), [b"jpeg"])
    assert (await count(store, turns), await count(store, photos)) == (1, 1)


async def test_what_no_database_holds_is_replaced(store: Store) -> None:
    await store.add_turn(make_turn(question="a\x00b\ud800c"))
    await store.add_feedback(
        Feedback("r1", "ann", Rating.DOWN, comment="\x00", correction="\udfff")
    )
    assert (await store.turn("r1")).question == "a\ufffdb\ufffdc"


async def test_an_unknown_reply_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound, match="'nope'"):
        await store.turn("nope")
    with pytest.raises(NotFound, match="'nope'"):
        await store.add_feedback(Feedback("nope", "ann", Rating.UP))


async def test_history_is_the_last_rounds_in_order(store: Store) -> None:
    for number in range(5):
        await store.add_turn(make_turn(f"r{number}", asked_at=float(number)))
    await store.add_turn(make_turn("other", conversation="c2"))
    assert [turn.reply.id for turn in await store.history("c1", rounds=2)] == ["r3", "r4"]
    recent = await store.history("c1", rounds=9, since=3.0)
    assert [turn.reply.id for turn in recent] == ["r3", "r4"]


async def test_conversations_are_listed_for_their_owner_latest_first(store: Store) -> None:
    await store.add_turn(make_turn("r1", conversation="c1", asked_at=1, question="one"))
    await store.add_turn(make_turn("r2", conversation="c2", asked_at=2, question="two"))
    await store.add_turn(make_turn("r3", conversation="c1", asked_at=3, question="three"))
    await store.add_turn(make_turn("r4", conversation="c3", user="bob"))
    assert await store.conversations_of("ann") == [("c1", "one"), ("c2", "two")]
    assert await store.owner_of("c3") == "bob"
    assert await store.owner_of("c4") is None


async def test_photos_come_back_in_order(store: Store) -> None:
    await store.add_turn(make_turn(), [b"first", b"second"])
    assert await store.photos_of("c1", "m-r1") == [b"first", b"second"]


async def test_the_last_verdict_counts_and_history_is_kept(store: Store) -> None:
    await store.add_turn(make_turn())
    for rating in (Rating.UP, Rating.DOWN, Rating.UP):
        await store.add_feedback(Feedback("r1", "ann", rating))
    assert await store.verdict("r1", "ann") == Feedback("r1", "ann", Rating.UP)
    assert await count(store, feedback_events) == 3


async def test_pressing_twice_is_pressing_once(store: Store) -> None:
    await store.add_turn(make_turn())
    for _ in range(2):
        await store.add_feedback(Feedback("r1", "ann", Rating.UP))
    assert await count(store, feedback_events) == 1


async def test_a_thumb_pressed_after_its_emoji_stays_when_the_emoji_goes(store: Store) -> None:
    await store.add_turn(make_turn())
    await store.add_feedback(Feedback("r1", "ann", Rating.UP, by_reaction=True))
    await store.add_feedback(Feedback("r1", "ann", Rating.UP))
    assert await store.withdraw(Feedback("r1", "ann", Rating.UP), 2.0)
    assert await store.verdict("r1", "ann") == Feedback("r1", "ann", Rating.UP)


async def test_an_emoji_taken_off_is_forgotten_under_a_later_thumb_too(store: Store) -> None:
    await store.add_turn(make_turn())
    for rating in Rating:
        await store.add_feedback(Feedback("r1", "ann", rating, by_reaction=True))
    for rating in Rating:
        assert await store.withdraw(Feedback("r1", "ann", rating), 2.0)
    assert await store.verdict("r1", "ann") is None


async def test_of_an_emoji_put_on_and_taken_off_the_later_counts_in_any_order(
    store: Store,
) -> None:
    for number, order in enumerate(itertools.permutations((1.0, 2.0, 3.0, 4.0))):
        thumb = Feedback(f"r{number}", "ann", Rating.UP, by_reaction=True)
        await store.add_turn(make_turn(thumb.reply_id, conversation=f"c{number}"))
        for at in order:
            if at % 2:
                await store.add_feedback(thumb, reacted_at=at)
            else:
                await store.withdraw(thumb, at)
        assert await store.verdict(thumb.reply_id, "ann") is None
        # Whatever is handed over again meanwhile.
        assert not await store.add_feedback(thumb, reacted_at=3.0)
        assert await store.add_feedback(thumb, reacted_at=5.0)
        assert not await store.withdraw(thumb, 4.0)
        assert await store.verdict(thumb.reply_id, "ann") == thumb


async def test_a_thumb_pressed_again_keeps_the_correction(store: Store) -> None:
    await store.add_turn(make_turn())
    full = Feedback("r1", "ann", Rating.DOWN, Reason.TONE, "rude", "Use a soft brush.")
    await store.add_feedback(full)
    await store.add_feedback(Feedback("r1", "ann", Rating.DOWN))
    assert await store.verdict("r1", "ann") == full


@pytest.mark.parametrize("sequences", [20, pytest.param(10_000, marks=pytest.mark.nightly)])
@pytest.mark.timeout(1200)
async def test_vote_churn_ends_with_each_persons_last_vote(store: Store, sequences: int) -> None:
    """Thumbs up and down, corrected, taken back, before there is a reply, and after it is gone."""
    dice = random.Random(7)
    for number in range(sequences):
        reply, last = f"r{number}", dict[str, list[Feedback]]()
        early = Feedback(reply, "u0", Rating.UP)
        with pytest.raises(NotFound):
            await store.add_feedback(early)
        await store.add_turn(make_turn(reply, conversation=f"c{number}"))
        for _ in range(dice.randrange(1, 9)):
            await _vote(store, dice, reply, last)
        found = {user: await store.verdict(reply, user) for user in last}
        assert found == {user: votes[-1] if votes else None for user, votes in last.items()}
        if number % 10 == 0:
            await store.delete_conversation(f"c{number}")
            with pytest.raises(NotFound):
                await store.add_feedback(early)
            assert await store.verdict(reply, "u0") is None


async def test_the_control_whoever_counts_the_first_vote_is_often_wrong(store: Store) -> None:
    dice, wrong = random.Random(7), 0
    for number in range(20):
        reply, last = f"r{number}", dict[str, list[Feedback]]()
        await store.add_turn(make_turn(reply, conversation=f"c{number}"))
        for _ in range(8):
            await _vote(store, dice, reply, last)
        counted = {user: votes[-1].rating for user, votes in last.items() if votes}
        query = (
            sa.select(feedback_events.c.user_id, feedback_events.c.rating)
            .where(feedback_events.c.reply_id == reply)
            .order_by(feedback_events.c.id.desc())
        )
        # Of each person's rows the first one is what is left.
        rows = await store.run(lambda connection, query=query: connection.execute(query).all())
        wrong += {row.user_id: Rating(row.rating) for row in rows} != counted
    assert wrong > 5


async def _vote(
    store: Store, dice: random.Random, reply: str, last: dict[str, list[Feedback]]
) -> None:
    """One press, of two tabs of a person perhaps; `last` is told what has to count after it."""
    user, rating = f"u{dice.randrange(3)}", dice.choice(list(Rating))
    votes = last.setdefault(user, [])
    match dice.choice(["press", "press", "emoji", "correct", "twice", "withdraw"]):
        case "withdraw":
            left = [vote for vote in votes if not (vote.by_reaction and vote.rating is rating)]
            taken_off = Feedback(reply, user, rating)
            assert await store.withdraw(taken_off, 1.0) is (left != votes)
            votes[:] = left
            return
        case "emoji":
            vote = Feedback(reply, user, rating, by_reaction=True)
        case "correct":
            vote = Feedback(reply, user, Rating.DOWN, Reason.TONE, "rude", f"No. {dice.random()}")
        case _:
            vote = Feedback(reply, user, rating)
    await asyncio.gather(*(store.add_feedback(vote) for _ in range(dice.randrange(1, 3))))
    last = votes[-1] if votes else None
    pressed_too = last is not None and last.by_reaction and not vote.by_reaction
    if last is None or last.rating != vote.rating or vote.correction or pressed_too:
        votes.append(vote)


async def test_deleting_a_conversation_takes_everything_along(store: Store) -> None:
    await store.add_turn(make_turn(), [b"jpeg"])
    await store.add_turn(make_turn("r2", conversation="c2"), [b"jpeg"])
    for reply in ("r1", "r2"):
        await store.add_feedback(Feedback(reply, "ann", Rating.UP))
    assert await store.delete_conversation("c1")
    assert not await store.delete_conversation("c1")
    left = [await count(store, table) for table in (turns, photos, feedback_events)]
    assert left == [1, 1, 1]


async def test_old_conversations_and_messages_are_forgotten(store: Store) -> None:
    await store.add_turn(make_turn("old", conversation="c1", asked_at=1), [b"jpeg"])
    await store.add_turn(make_turn("new", conversation="c2", asked_at=9))
    row = {
        "platform": "web", "conversation_id": "c1", "message_id": "m", "message": {},
        "state": "dead", "attempts": 3, "received_at": 1.0,
    }  # fmt: skip
    await store.run(lambda connection: connection.execute(sa.insert(inbox).values(row)))
    assert await store.forget_older_than(5) == 1
    assert [await count(store, table) for table in (turns, photos, inbox)] == [1, 0, 0]


async def test_what_makes_a_repeat_harmless_outlives_the_text(store: Store) -> None:
    row = {
        "platform": "web", "conversation_id": "c1", "message_id": "m", "message": {},
        "state": "done", "attempts": 1, "received_at": 1.0,
    }  # fmt: skip
    await store.run(lambda connection: connection.execute(sa.insert(inbox).values(row)))
    await store.forget_older_than(5)
    assert await count(store, inbox) == 1


async def test_work_that_raises_leaves_nothing_behind(store: Store) -> None:
    def work(connection: Connection) -> None:
        connection.execute(store_module.conversations.insert().values(id="c", platform="web",
            user_id="u", title="", created_at=0, updated_at=0))  # fmt: skip
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await store.run(work)
    assert await store.owner_of("c") is None


async def test_a_broken_rule_is_loud_and_tells_no_texts(store: Store) -> None:
    await store.add_turn(make_turn(question="my secret question"))
    with pytest.raises(sa.exc.IntegrityError) as caught:
        await store.add_turn(
            Turn(
                **{
                    **turn_fields(make_turn("r9", question="my secret question")),
                    "message_id": "m-r1",
                }
            )
        )
    assert "secret" not in str(caught.value)


def turn_fields(turn: Turn) -> dict[str, object]:
    return {name: getattr(turn, name) for name in Turn.__dataclass_fields__}


async def test_many_writers_at_once_never_see_a_locked_database(store: Store) -> None:
    await store.add_turn(make_turn())
    async with asyncio.TaskGroup() as tasks:
        for number in range(100):
            tasks.create_task(store.add_feedback(Feedback("r1", f"u{number}", Rating.UP)))
            tasks.create_task(store.history("c1", rounds=3))
    assert await count(store, feedback_events) == 100


async def test_a_lost_postgresql_connection_is_replaced(postgres_url: str) -> None:
    async with Store(postgres_url) as store:
        own = sa.select(sa.func.pg_backend_pid())
        pid = await store.run(lambda connection: connection.execute(own).scalar_one())
        server = sa.create_engine(postgres_url)
        with server.begin() as connection:
            connection.execute(sa.select(sa.func.pg_terminate_backend(pid, 5000)))
        server.dispose()
        assert await store.run(lambda connection: connection.execute(own).scalar_one()) != pid


async def test_a_connection_lost_in_the_middle_acknowledges_nothing_and_heals(
    postgres_url: str,
) -> None:
    async with Store(postgres_url) as store:
        await store.add_turn(make_turn())

        def break_off(connection: Connection) -> None:
            connection.execute(sa.delete(turns))
            connection.execute(sa.select(sa.func.pg_terminate_backend(sa.func.pg_backend_pid())))

        with pytest.raises(StoreError, match="nothing was acknowledged"):
            await store.run(break_off)
        assert await count(store, turns) == 1
        await store.add_turn(make_turn("r2"))
        assert await count(store, turns) == 2


async def test_what_nobody_waits_for_leaves_no_connection_open(postgres_url: str) -> None:
    begun, may_end = threading.Event(), threading.Event()
    happened: Counter[str] = Counter()
    watched = {name: partial(_count, happened, name) for name in ("connect", "close")}

    def work(connection: Connection) -> None:
        begun.set()
        may_end.wait(60)

    for name, count in watched.items():
        sa.event.listen(sa.Pool, name, count)
    try:
        async with Store(postgres_url) as store:
            doing = asyncio.create_task(store.run(work))
            await asyncio.to_thread(begun.wait, 60)
            doing.cancel()
            threading.Timer(0.2, may_end.set).start()
    finally:
        for name, count in watched.items():
            sa.event.remove(sa.Pool, name, count)
    assert happened["close"] == happened["connect"] > 0


def _count(happened: Counter[str], name: str, *_: object) -> None:
    happened[name] += 1


async def test_an_absent_server_is_a_store_error() -> None:
    with pytest.raises(StoreError, match=r"cannot be opened: [\s\S]*Start its server") as caught:
        async with Store("postgresql+psycopg://me:sesame@127.0.0.1:1/none"):
            pass
    assert "sesame" not in str(caught.value)


# Migrations.


async def test_migrations_make_exactly_the_tables_of_the_code(store: Store) -> None:
    def differences(connection: Connection) -> object:
        return compare_metadata(MigrationContext.configure(connection), metadata)

    assert await store.run(differences) == []


async def test_migrations_go_down_and_up_again(store: Store) -> None:
    def tables(connection: Connection) -> list[str]:
        return sa.inspect(connection).get_table_names()

    await store.run(lambda connection: command.downgrade(alembic(connection), "base"))
    assert await store.run(tables) == ["alembic_version"]
    await store.run(lambda connection: command.upgrade(alembic(connection), "head"))
    await store.add_turn(make_turn())


async def test_a_newer_database_is_refused_and_left_alone(store_url: str) -> None:
    async with Store(store_url) as store:
        await store.add_turn(make_turn())
        newer = sa.text("UPDATE alembic_version SET version_num = '9999'")
        await store.run(lambda connection: connection.execute(newer))
    with pytest.raises(StoreError, match="of a newer solemate .*Upgrade the program"):
        async with Store(store_url, before_upgrade=lambda: None):
            pass
    engine = sa.create_engine(store_url)
    with engine.connect() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(turns)).scalar_one() == 1
    engine.dispose()


async def test_older_tables_are_refused_and_left_alone(store_url: str) -> None:
    await make_older_tables(store_url)
    old = state_of(store_url)
    assert old[0] != newest_revision()
    with pytest.raises(StoreError, match="of an older solemate .*`solemate up` backs"):
        async with Store(store_url, exclusive=False):
            pass
    assert state_of(store_url) == old


async def test_older_tables_are_upgraded_after_what_has_to_come_before(store_url: str) -> None:
    await make_older_tables(store_url)
    seen: list[tuple[str, int]] = []
    for _ in range(2):
        async with Store(store_url, before_upgrade=lambda: seen.append(state_of(store_url))):
            pass
    ((old, count),) = seen
    assert (old != newest_revision(), count) == (True, 1)
    assert state_of(store_url) == (newest_revision(), 1)


async def test_older_tables_stay_as_they_are_where_what_comes_before_fails(store_url: str) -> None:
    await make_older_tables(store_url)
    old = state_of(store_url)

    def fail() -> None:
        raise StoreError("No backup can be made.")

    with pytest.raises(StoreError, match="No backup"):
        async with Store(store_url, before_upgrade=fail):
            pass
    assert state_of(store_url) == old


async def test_two_processes_may_migrate_postgresql_at_once(store_url: str) -> None:
    async with asyncio.TaskGroup() as tasks:
        for _ in range(2 if store_url.startswith("postgresql") else 1):
            tasks.create_task(open_and_close(store_url))


async def open_and_close(url: str) -> None:
    async with Store(url) as store:
        await count(store, turns)


# Torture: a writer is killed again and again.


def write_until_killed(url: str, first: int, events: int, extra: dict[str, str]) -> list[int]:
    """Run a writer, kill it in full flow after `events` numbers; the numbers it acknowledged."""
    script = [sys.executable, str(HERE / "feedback_writer.py"), url, "r1", str(first)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **extra}
    with subprocess.Popen(script, stdout=subprocess.PIPE, text=True, env=environment) as writer:
        assert writer.stdout is not None
        acked = [int(next(writer.stdout)) for _ in range(events)]
        delay = random.Random(first).uniform(0, 0.005)
        killer = threading.Timer(delay, writer.kill)
        killer.start()
        acked += [int(line) for line in writer.stdout if line.endswith("\n")]
        killer.join()
    return acked


async def torture(url: str, *, kills: int, events: int) -> None:
    async with Store(url) as store:
        await store.add_turn(make_turn())
    acked: list[int] = []
    for _ in range(kills):
        first = len(acked)
        acked += await asyncio.to_thread(write_until_killed, url, first, events // kills, {})
        assert acked == list(range(len(acked)))
    async with Store(url) as store:
        query = sa.select(feedback_events.c.user_id)
        rows = await store.run(lambda connection: connection.execute(query).scalars().all())
        if url.startswith("sqlite"):
            assert await pragma(store, "integrity_check") == "ok"
    stored = Counter(rows)
    assert [number for number in acked if f"person-{number}" not in stored] == []
    assert max(stored.values()) == 1
    # The writer may have been killed between a commit and its acknowledgement.
    assert len(stored) - len(acked) in (0, 1)


async def test_a_killed_writer_loses_and_repeats_nothing(store_url: str) -> None:
    await torture(store_url, kills=3, events=90)


async def test_the_control_whoever_tells_before_the_commit_loses_verdicts(store_url: str) -> None:
    async with Store(store_url) as store:
        await store.add_turn(make_turn())
    early = {"EARLY": "1"}
    acked = await asyncio.to_thread(write_until_killed, store_url, 0, 30, early)
    async with Store(store_url) as store:
        assert await count(store, feedback_events) < len(acked)


@pytest.mark.nightly
@pytest.mark.timeout(1200)
async def test_fifty_kills_lose_and_repeat_nothing(store_url: str) -> None:
    await torture(store_url, kills=50, events=10_000)


async def test_a_language_is_chosen_and_left_to_the_text_again(store: Store) -> None:
    assert await store.chosen_language("ann") is None
    await store.choose_language("ann", "zh")
    await store.choose_language("ann", "en")
    assert await store.chosen_language("ann") == "en"
    await store.choose_language("ann", None)
    assert await store.chosen_language("ann") is None


async def test_a_message_belongs_to_the_last_start_before_it(store: Store) -> None:
    for number in (10, 20, 10):
        await store.start_anew("chat", number)
    assert [await store.last_start("chat", number) for number in (9, 10, 11, 21)] == [0, 0, 10, 20]
    assert await store.last_start("other", 21) == 0


async def test_a_post_leads_to_its_reply_until_the_conversation_is_deleted(store: Store) -> None:
    shown = Posts(store)
    turn = make_turn("r1", conversation="c1")
    await store.add_turn(turn)
    await shown.add("c1", turn.message_id, Post("chat", "8"))
    assert await shown.reply_of("chat", "8", "answer") == "r1"
    assert await shown.reply_of("chat", "8", "correction") is None
    assert await shown.reply_of("other", "8", "answer") is None
    await store.delete_conversation("c1")
    query = sa.select(sa.func.count()).select_from(posts)
    assert await store.run(lambda connection: connection.execute(query).scalar()) == 0
