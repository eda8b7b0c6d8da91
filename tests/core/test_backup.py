"""A backup holds everything that cannot be made again, and gives it back: but nobody erased."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import shutil
import sqlite3
import stat
import sys
import zipfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from core.audit import append
from core.backup import (
    KEPT_DAYS,
    KEPT_UPGRADES,
    LAST_BACKUP,
    Merged,
    Place,
    back_up,
    back_up_before_upgrade,
    check_backup,
    delete_upgrade_backups,
)
from core.errors import DataError, NotFound, StoreError
from core.messages import Feedback, Outcome, Platform, Rating, Reply, Turn
from core.privacy import erase
from core.restore import restore
from core.store import Store
from core.tables import audit, tombstones, turns

DAY = 86400.0
NOON = 1_767_182_400.0
ROOT = Path(__file__).parents[2]
SECRET = "九十九号柜台的王小姐"


def turn(reply_id: str, user: str, asked_at: float = NOON) -> Turn:
    reply = Reply(reply_id, f"c-{user}", "用软刷刷洗。", Outcome.ANSWERED, "zh", adapter="solemate")
    return Turn(
        reply=reply,
        message_id=f"m-{reply_id}",
        user_id=user,
        platform=Platform.WEB,
        question=f"{SECRET}问：帆布鞋怎么洗？" if user == "web:bob" else "帆布鞋怎么洗？",
        query="帆布鞋怎么洗",
        prompt=(),
        passages=(),
        sampling={},
        asked_at=asked_at,
    )


async def replies(place: Place) -> list[str]:
    async with Store(place.url) as store:
        query = sa.select(turns.c.reply_id).order_by(turns.c.reply_id)
        return list(await store.run(lambda connection: connection.execute(query).scalars().all()))


async def change(place: Place, work: Callable[[Store], Awaitable[object]]) -> None:
    async with Store(place.url) as store:
        await work(store)


def adapter(place: Place, name: str) -> Path:
    folder = place.state / "adapters" / name
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(name.encode() * 1000)
    return folder


@pytest.fixture
async def place(store_url: str, tmp_path: Path) -> Place:
    """A database with the turns of two people, and a state folder with an adapter."""
    place = Place(store_url, tmp_path / "state")

    async def fill(store: Store) -> None:
        await store.add_turn(turn("r1", "web:ann"))
        await store.add_turn(turn("r2", "web:bob"))
        await store.add_feedback(Feedback("r1", "web:ann", Rating.DOWN, correction="用牙刷。"))
        row = {"who": "operator", "subject": "v1", "before": "", "after": "live", "at": NOON}
        await store.run(lambda connection: append(connection, **row))

    await change(place, fill)
    adapter(place, "shoes-v1")
    (place.state / "index").mkdir()
    (place.state / "index" / "chunks").write_text("made again")
    secret = place.state / "people-secret"
    secret.write_text("key")
    secret.chmod(0o600)
    return place


async def test_a_backup_brings_back_what_was_there(place: Place, tmp_path: Path) -> None:
    made = await back_up(place, tmp_path / "backups", now=NOON)
    await change(place, lambda store: store.delete_conversation("c-web:ann"))
    await change(place, lambda store: store.add_turn(turn("r3", "web:cy")))
    shutil.rmtree(place.state / "adapters" / "shoes-v1")
    adapter(place, "shoes-v2")
    (place.state / "people-secret").write_text("another key")
    found = await restore(place, made.file, now=NOON + 60)
    assert await replies(place) == ["r1", "r2"]
    weights = place.state / "adapters" / "shoes-v1" / "adapter_model.safetensors"
    assert weights.read_bytes() == b"shoes-v1" * 1000
    assert not (place.state / "adapters" / "shoes-v2").exists()
    secret = place.state / "people-secret"
    assert secret.read_text() == "key"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert (found.made_at, found.files, found.erased_again) == (NOON, made.files, 0)
    assert found.audit_whole


async def test_what_a_restore_replaces_is_set_aside(place: Place, tmp_path: Path) -> None:
    made = await back_up(place, tmp_path / "backups", now=NOON)
    adapter(place, "shoes-v2")
    (aside,) = (await restore(place, made.file, now=NOON)).set_aside
    assert (aside / "adapters" / "shoes-v2").is_dir()
    databases = [file for file in aside.iterdir() if file.suffix in (".db", ".dump")]
    assert all(file.stat().st_size for file in databases)
    assert len(databases) == 1


def never(source: Path, target: Path) -> bool:
    return False


def beyond(folder: Path) -> Callable[[Path, Path], bool]:
    """Whether a rename fails because `folder` is a mount: out of it, into it, or of itself."""

    def fails(source: Path, target: Path) -> bool:
        return folder == source or (folder in source.parents) != (folder in target.parents)

    return fails


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Path, Path], bool]], None]:
    """Have the system refuse renames."""
    usual = Path.replace

    def refuse(which: Callable[[Path, Path], bool]) -> None:
        def replace(source: Path, target: Path) -> Path:
            if which(source, Path(target)):
                raise OSError(errno.EBUSY, "Device or resource busy", str(source))
            return usual(source, target)

        monkeypatch.setattr(Path, "replace", replace)

    return refuse


Stuck = Callable[[Callable[[Path, Path], bool]], None]


async def test_adapters_on_a_disk_of_their_own_are_exchanged_in_it(
    place: Place, tmp_path: Path, stuck: Stuck
) -> None:
    made = await back_up(place, tmp_path / "backups", now=NOON)
    adapter(place, "shoes-v2")
    adapters = place.state / "adapters"
    number = adapters.stat().st_ino
    stuck(beyond(adapters))
    found = await restore(place, made.file, now=NOON)
    assert adapters.stat().st_ino == number
    assert [one.name for one in adapters.glob("[!.]*")] == ["shoes-v1"]
    assert (adapters / "shoes-v1" / "adapter_model.safetensors").read_bytes()
    aside, beside = found.set_aside
    assert (aside / "people-secret").read_text() == "key"
    assert beside.parent == adapters
    assert {one.name for one in beside.iterdir()} == {"shoes-v1", "shoes-v2"}
    assert not list(adapters.glob(".restore-*"))
    # What was set aside there is none of the adapters that the next backup keeps.
    again = await back_up(place, tmp_path / "backups", now=NOON + 1)
    assert check_backup(again.file).files.keys() == check_backup(made.file).files.keys()


@pytest.mark.parametrize("last", [False, True])
async def test_a_restore_that_something_is_in_the_way_of_puts_back_what_was_there(
    place: Place, tmp_path: Path, stuck: Stuck, monkeypatch: pytest.MonkeyPatch, last: bool
) -> None:
    made = await back_up(place, tmp_path / "backups", now=NOON)
    await change(place, lambda store: store.add_turn(turn("r3", "web:cy")))
    (place.state / "people-secret").write_text("another key")
    adapter(place, "shoes-v2")
    if last and place.kind == "sqlite":
        stuck(lambda _, target: target == place.file)
    elif last:
        monkeypatch.setattr("core.restored_database._LOCK_SECONDS", "no number")
    else:
        stuck(lambda source, _: source.name == "shoes-v2")
    with pytest.raises(StoreError, match=r"in its place again.*replaced-"):
        await restore(place, made.file, now=NOON)
    stuck(never)
    monkeypatch.undo()
    assert await replies(place) == ["r1", "r2", "r3"]
    assert (place.state / "people-secret").read_text() == "another key"
    assert {one.name for one in (place.state / "adapters").iterdir()} == {"shoes-v1", "shoes-v2"}
    assert not list(place.state.glob(".restore-*"))
    await restore(place, made.file, now=NOON + 1)
    assert await replies(place) == ["r1", "r2"]
    assert (place.state / "people-secret").read_text() == "key"


KILLED = """
import asyncio, os, sys
from pathlib import Path
from core.backup import Place
from core.restore import restore
from core.restored_database import RESTORED_DATABASES

for kind in RESTORED_DATABASES.values():
    kind.exchange = lambda self: os._exit(9)
url, state, file = sys.argv[1:]
asyncio.run(restore(Place(url, Path(state)), Path(file)))
"""


async def test_a_restore_that_was_killed_is_completed_by_the_next(
    place: Place, tmp_path: Path
) -> None:
    made = await back_up(place, tmp_path / "backups", now=NOON)
    await change(place, lambda store: erase(store, "web:bob", now=NOON + DAY))
    (place.state / "people-secret").write_text("another key")
    adapter(place, "shoes-v2")
    # Just before the last of its steps.
    command = [sys.executable, "-c", KILLED, place.url, str(place.state), str(made.file)]
    killed = await asyncio.create_subprocess_exec(*command, cwd=ROOT)
    assert await killed.wait() == 9
    assert (await restore(place, made.file, now=NOON + DAY)).erased_again == 1
    assert await replies(place) == ["r1"]
    assert (place.state / "people-secret").read_text() == "key"
    assert [one.name for one in (place.state / "adapters").iterdir()] == ["shoes-v1"]
    assert not list(place.state.rglob(".restore-*"))
    # What it had set aside is still there.
    assert list(place.state.glob("replaced-*/adapters/shoes-v2"))


async def test_a_restore_that_cannot_begin_leaves_nothing_behind(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await back_up(place, tmp_path / "backups", now=NOON)
    before = sorted(place.state.rglob("*"))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(StoreError, match=r"No space left.*Nothing was replaced"):
        await restore(place, made.file, now=NOON)
    assert sorted(place.state.rglob("*")) == before
    assert await replies(place) == ["r1", "r2"]


async def test_whoever_was_erased_since_the_backup_stays_erased(
    place: Place, tmp_path: Path
) -> None:
    made = await back_up(place, tmp_path / "backups", now=NOON)
    await change(place, lambda store: erase(store, "web:bob", now=NOON + DAY))
    found = await restore(place, made.file, now=NOON + 2 * DAY)
    assert found.erased_again == 1
    assert await replies(place) == ["r1"]
    async with Store(place.url) as store:
        query = sa.select(tombstones.c.erased_at).where(tombstones.c.user_id == "web:bob")
        assert await store.run(lambda connection: connection.execute(query).scalar()) == NOON + DAY


async def test_a_newer_backup_tells_who_was_erased_when_the_database_is_lost(
    sqlite_url: str, tmp_path: Path
) -> None:
    place = Place(sqlite_url, tmp_path / "state")
    await change(place, lambda store: store.add_turn(turn("r2", "web:bob")))
    old = await back_up(place, tmp_path / "backups", now=NOON)
    await change(place, lambda store: erase(store, "web:bob", now=NOON + 1))
    await back_up(place, tmp_path / "backups", now=NOON + DAY)
    place.file.unlink()
    found = await restore(place, old.file, now=NOON + 2 * DAY)
    assert found.erased_again == 1
    assert await replies(place) == []


def tables(url: str) -> list[str]:
    """The tables of a PostgreSQL database, with their schemas."""
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        query = sa.text("SELECT schemaname || '.' || tablename FROM pg_tables ORDER BY 1")
        found = list(connection.execute(query).scalars())
    engine.dispose()
    return [name for name in found if not name.startswith(("pg_catalog.", "information_schema."))]


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("program", ["pg_restore", "psql", "pg_dump"])
async def test_a_postgresql_is_as_it_was_where_its_programs_fail(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    made = await back_up(place, tmp_path / "backups", now=NOON)
    await change(place, lambda store: erase(store, "web:bob", now=NOON + DAY))
    before = tables(place.url)
    fake = tmp_path / "bin" / program
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho 'unsupported version' >&2; exit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(fake.parent), prepend=":")
    with pytest.raises(StoreError, match=r"unsupported version\. Nothing was replaced"):
        await restore(place, made.file, now=NOON + DAY)
    assert tables(place.url) == before
    assert not list(place.state.glob("replaced-*"))
    fake.unlink()
    assert (await restore(place, made.file, now=NOON + DAY)).erased_again == 1
    assert await replies(place) == ["r1"]
    assert tables(place.url) == before


async def test_a_database_that_was_set_aside_tells_who_was_erased(
    place: Place, tmp_path: Path
) -> None:
    made = await back_up(place, tmp_path / "backups", now=NOON)
    await change(place, lambda store: erase(store, "web:bob", now=NOON + DAY))
    await restore(place, made.file, now=NOON + DAY)
    # The one in use is lost, and with it what it knew.
    if place.kind == "sqlite":
        place.file.unlink()
    else:
        engine = sa.create_engine(place.url)
        with engine.begin() as connection:
            there = sa.MetaData()
            there.reflect(connection)
            there.drop_all(connection)
        engine.dispose()
    assert (await restore(place, made.file, now=NOON + 2 * DAY)).erased_again == 1
    assert await replies(place) == ["r1"]


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
async def test_people_s_words_may_look_like_a_dump(place: Place, tmp_path: Path) -> None:
    words = "COPY public.turns (a) FROM stdin;\n\\.\npublic.turns \\N \t 'x'; DROP TABLE turns;"

    async def ask(store: Store) -> None:
        await store.add_turn(dataclasses.replace(turn("r9", "web:cy"), question=words))

    await change(place, ask)
    made = await back_up(place, tmp_path / "backups", now=NOON)
    await restore(place, made.file, now=NOON)
    async with Store(place.url) as store:
        query = sa.select(turns.c.question).where(turns.c.reply_id == "r9")
        assert await store.run(lambda connection: connection.execute(query).scalar()) == words
        await store.add_turn(turn("r10", "web:cy"))


async def test_who_came_back_after_an_erasure_is_not_erased_by_a_restore(
    place: Place, tmp_path: Path
) -> None:
    await change(place, lambda store: erase(store, "web:bob", now=NOON))
    await change(place, lambda store: store.add_turn(turn("r4", "web:bob", NOON + 60)))
    made = await back_up(place, tmp_path / "backups", now=NOON + DAY)
    found = await restore(place, made.file, now=NOON + DAY)
    assert found.erased_again == 0
    assert await replies(place) == ["r1", "r4"]


async def test_no_file_holds_words_of_an_erased_person(sqlite_url: str, tmp_path: Path) -> None:
    place = Place(sqlite_url, tmp_path / "state")
    await change(place, lambda store: store.add_turn(turn("r2", "web:bob")))
    first = await back_up(place, tmp_path / "first", now=NOON)
    await change(place, lambda store: erase(store, "web:bob", now=NOON + 1))
    second = await back_up(place, tmp_path / "second", now=NOON + 2)
    with zipfile.ZipFile(first.file) as archive:
        assert SECRET.encode() in archive.read("database.sqlite")
    with zipfile.ZipFile(second.file) as archive:
        assert SECRET.encode() not in archive.read("database.sqlite")
    await restore(place, first.file, now=NOON + 3)
    assert SECRET.encode() not in place.file.read_bytes()


async def test_a_backup_is_whole_while_others_write(sqlite_url: str, tmp_path: Path) -> None:
    place = Place(sqlite_url, tmp_path / "state")
    enough = asyncio.Event()
    written = 0

    async def write(store: Store, stop: asyncio.Event) -> None:
        nonlocal written
        while not stop.is_set():
            await store.add_turn(turn(f"r{written:05}", "web:ann"))
            written += 1
            if written == 50:
                enough.set()

    stop = asyncio.Event()
    async with Store(place.url) as store, asyncio.TaskGroup() as tasks:
        tasks.create_task(write(store, stop))
        await enough.wait()
        before = written
        made = await back_up(place, tmp_path / "backups", now=NOON)
        stop.set()
    await restore(place, made.file, now=NOON)
    found = await replies(place)
    assert len(found) >= before
    assert found == [f"r{number:05}" for number in range(len(found))]


async def test_a_backup_is_its_owners_alone_and_leaves_nothing_beside(
    place: Place, tmp_path: Path
) -> None:
    made = await back_up(place, tmp_path / "backups", now=NOON)
    assert stat.S_IMODE(made.file.stat().st_mode) == 0o600
    assert list(made.file.parent.iterdir()) == [made.file]
    assert (place.state / LAST_BACKUP).exists()


async def test_what_can_be_made_again_is_left_out(place: Place, tmp_path: Path) -> None:
    made = await back_up(place, tmp_path / "backups", now=NOON)
    manifest = check_backup(made.file)
    assert set(manifest.files) == {
        manifest.database,
        "state/adapters/shoes-v1/adapter_model.safetensors",
        "state/people-secret",
    }


def sft(place: Place) -> tuple[Path, Path]:
    """An SFT adapter that was trained, with a checkpoint, and the model that it was merged into."""
    trained = place.state / "runs" / "sft-20260101-000000" / "adapter"
    merged = place.state / "runs" / "export-20260101-010000" / "model"
    for folder in (trained / "checkpoint-1", merged):
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"weights")
    (trained / "adapter_model.safetensors").write_bytes(b"weights")
    (trained.parent / "train.yaml").write_text(f"output_dir: {trained}\n")
    (trained.parent / "train.log").write_text("a log")
    (merged.parent / "export.yaml").write_text(f"adapter_name_or_path: {trained}\n")
    return trained, merged


async def test_the_sft_that_adapters_stand_on_is_kept(place: Place, tmp_path: Path) -> None:
    trained, merged = sft(place)
    made = await back_up(place, tmp_path / "backups", now=NOON)
    assert made.left_out == ()
    assert {name for name in check_backup(made.file).files if "/runs/" in name} == {
        "state/runs/sft-20260101-000000/adapter/adapter_model.safetensors",
        "state/runs/sft-20260101-000000/train.yaml",
        "state/runs/export-20260101-010000/export.yaml",
        "state/runs/export-20260101-010000/model/model.safetensors",
    }
    # One is lost, and of the other a part; a run that is younger stays where it is.
    shutil.rmtree(merged.parent)
    (trained / "adapter_model.safetensors").unlink()
    younger = place.state / "runs" / "sft-20260201-000000"
    younger.mkdir()
    found = await restore(place, made.file, now=NOON)
    assert (merged / "model.safetensors").read_bytes() == b"weights"
    assert (trained / "adapter_model.safetensors").read_bytes() == b"weights"
    assert (trained / "checkpoint-1").is_dir()
    assert younger.is_dir()
    assert found.left_out == ()


async def test_a_large_merged_model_is_kept_where_it_is_asked_for(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.backup.MODEL_BYTES", 6)
    place = Place(sqlite_url, tmp_path / "state")
    await change(place, lambda store: store.add_turn(turn("r1", "web:ann")))
    trained, merged = sft(place)
    whole = await back_up(place, tmp_path / "backups", models=True, now=NOON)
    made = await back_up(place, tmp_path / "backups", now=NOON + 1)
    left_out = Merged(str(merged), str(trained), 7)
    assert (whole.left_out, made.left_out) == ((), (left_out,))
    shutil.rmtree(place.state / "runs")
    found = await restore(place, made.file, now=NOON)
    assert found.left_out == (Merged(str(merged), str(trained), 0),)
    assert (trained / "adapter_model.safetensors").exists()
    found = await restore(place, whole.file, now=NOON)
    assert found.left_out == ()


async def test_old_backups_are_deleted_and_the_new_one_is_kept(
    sqlite_url: str, tmp_path: Path
) -> None:
    place, folder = Place(sqlite_url, tmp_path / "state"), tmp_path / "backups"
    await change(place, lambda store: store.add_turn(turn("r1", "web:ann")))
    for days in (0, 5):
        await back_up(place, folder, now=NOON + days * DAY)
    last = await back_up(place, folder, keep_days=3, now=NOON + 6 * DAY)
    assert last.deleted == 1
    assert len(list(folder.iterdir())) == 2
    assert last.file.exists()


async def test_backups_before_upgrades_make_room_for_newer_ones_and_for_nobody_else(
    sqlite_url: str, tmp_path: Path
) -> None:
    place, folder = Place(sqlite_url, tmp_path / "state"), tmp_path / "state" / "backups"
    await change(place, lambda store: store.add_turn(turn("r1", "web:ann")))
    by_hand = await back_up(place, folder, now=NOON)
    made = [
        back_up_before_upgrade(place, now=NOON + second) for second in range(1, KEPT_UPGRADES + 3)
    ]
    assert [one.deleted for one in made] == [0] * KEPT_UPGRADES + [1, 1]
    kept = {by_hand.file, *(one.file for one in made[-KEPT_UPGRADES:])}
    assert set(folder.iterdir()) == kept
    check_backup(made[-1].file)
    assert delete_upgrade_backups(place.state, now=NOON + (KEPT_DAYS - 1) * DAY) == 0
    gone = delete_upgrade_backups(place.state, now=NOON + (KEPT_DAYS + 1) * DAY)
    assert (gone, list(folder.iterdir())) == (KEPT_UPGRADES, [by_hand.file])


async def test_a_database_in_use_is_not_replaced(sqlite_url: str, tmp_path: Path) -> None:
    place = Place(sqlite_url, tmp_path / "state")
    async with Store(place.url) as store:
        await store.add_turn(turn("r1", "web:ann"))
        made = await back_up(place, tmp_path / "backups", now=NOON)
        with pytest.raises(StoreError, match="Stop it first"):
            await restore(place, made.file)


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
async def test_a_postgresql_that_others_use_is_not_replaced(place: Place, tmp_path: Path) -> None:
    made = await back_up(place, tmp_path / "backups", now=NOON)
    async with Store(place.url):
        with pytest.raises(StoreError, match="other connections"):
            await restore(place, made.file)


@pytest.mark.parametrize("where", [0.3, 0.6, 0.99])
async def test_a_damaged_backup_is_refused_and_changes_nothing(
    sqlite_url: str, tmp_path: Path, where: float
) -> None:
    place = Place(sqlite_url, tmp_path / "state")
    await change(place, lambda store: store.add_turn(turn("r1", "web:ann")))
    adapter(place, "shoes-v1")
    made = await back_up(place, tmp_path / "backups", now=NOON)
    content = bytearray(made.file.read_bytes())
    for offset in range(40):
        content[int(len(content) * where) - offset] ^= 0x55
    made.file.write_bytes(content)
    before = place.file.read_bytes()
    with pytest.raises(DataError):
        await restore(place, made.file)
    assert place.file.read_bytes() == before


async def test_a_file_that_would_lie_elsewhere_is_refused(sqlite_url: str, tmp_path: Path) -> None:
    place = Place(sqlite_url, tmp_path / "state")
    await change(place, lambda store: store.add_turn(turn("r1", "web:ann")))
    adapter(place, "shoes-v1")
    made = await back_up(place, tmp_path / "backups", now=NOON)
    evil = made.file.with_name("evil.zip")
    with zipfile.ZipFile(made.file) as good, zipfile.ZipFile(evil, "w") as bad:
        for name in good.namelist():
            changed = name.replace("state/adapters", "state/adapters/../..")
            content = good.read(name).replace(b"state/adapters", b"state/adapters/../..")
            bad.writestr(changed, content)
    with pytest.raises(DataError, match="does not belong"):
        await restore(place, evil)


@pytest.mark.parametrize("content", [b"", b"no zip", None])
async def test_what_is_no_backup_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "one.zip"
    if content is None:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("manifest.json", '{"format": 2}')
    else:
        file.write_bytes(content)
    with pytest.raises(DataError, match=r"one\.zip"):
        check_backup(file)


async def test_a_missing_database_or_backup_is_named(sqlite_url: str, tmp_path: Path) -> None:
    place = Place(sqlite_url, tmp_path / "state")
    with pytest.raises(NotFound, match="nothing to back up"):
        await back_up(place, tmp_path / "backups")
    with pytest.raises(NotFound, match="There is no backup"):
        await restore(place, tmp_path / "none.zip")


async def test_a_damaged_database_is_not_backed_up(sqlite_url: str, tmp_path: Path) -> None:
    place, folder = Place(sqlite_url, tmp_path / "state"), tmp_path / "backups"
    await change(place, lambda store: store.add_turn(turn("r1", "web:ann")))
    content = bytearray(place.file.read_bytes())
    content[8192 : len(content) // 2] = b"\xff" * (len(content) // 2 - 8192)
    place.file.write_bytes(content)
    with pytest.raises(StoreError):
        await back_up(place, folder, now=NOON)
    assert list(folder.iterdir()) == []


async def test_a_database_beyond_reading_is_replaced_and_set_aside(
    sqlite_url: str, tmp_path: Path
) -> None:
    place = Place(sqlite_url, tmp_path / "state")
    await change(place, lambda store: store.add_turn(turn("r1", "web:ann")))
    made = await back_up(place, tmp_path / "backups", now=NOON)
    place.file.write_bytes(b"not a database at all")
    found = await restore(place, made.file, now=NOON)
    assert await replies(place) == ["r1"]
    (aside,) = found.set_aside
    assert (aside / place.file.name).read_bytes() == b"not a database at all"


async def test_a_backup_of_the_other_kind_is_refused(sqlite_url: str, tmp_path: Path) -> None:
    place = Place(sqlite_url, tmp_path / "state")
    await change(place, lambda store: store.add_turn(turn("r1", "web:ann")))
    made = await back_up(place, tmp_path / "backups", now=NOON)
    other = Place("postgresql+psycopg://nobody@127.0.0.1:1/none", tmp_path / "state")
    with pytest.raises(DataError, match="own kind"):
        await restore(other, made.file)


async def test_a_backup_of_a_newer_program_is_refused(sqlite_url: str, tmp_path: Path) -> None:
    place = Place(sqlite_url, tmp_path / "state")
    await change(place, lambda store: store.add_turn(turn("r1", "web:ann")))
    with sqlite3.connect(place.file) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    made = await back_up(place, tmp_path / "backups", now=NOON)
    with pytest.raises(StoreError, match="upgrade the program"):
        await restore(place, made.file)


async def test_a_changed_audit_is_told_after_a_restore(sqlite_url: str, tmp_path: Path) -> None:
    place = Place(sqlite_url, tmp_path / "state")
    row = {"who": "operator", "subject": "v1", "before": "", "after": "live", "at": NOON}

    async def tamper(store: Store) -> None:
        await store.run(lambda connection: append(connection, **row))
        await store.run(lambda connection: connection.execute(sa.update(audit).values(who="me")))

    await change(place, tamper)
    made = await back_up(place, tmp_path / "backups", now=NOON)
    assert not (await restore(place, made.file, now=NOON)).audit_whole


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
async def test_without_postgresql_s_programs_it_is_said_what_to_install(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StoreError, match="client programs"):
        await back_up(place, tmp_path / "backups", now=NOON)


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
async def test_a_password_is_handed_over_but_not_among_the_arguments(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "told"
    fake = tmp_path / "pg_dump"
    fake.write_text(
        f"#!{sys.executable}\n"
        "import pathlib, sys, urllib.parse\n"
        "address = urllib.parse.urlsplit(sys.argv[2].removeprefix('--dbname='))\n"
        "file = urllib.parse.parse_qs(address.query)['passfile'][0]\n"
        f"said = str(sys.argv) + '\\n' + pathlib.Path(file).read_text()\n"
        f"pathlib.Path({str(told)!r}).write_text(said)\n"
        "sys.exit(1)\n"
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    url = place.url.replace("postgres@", "postgres:hush%3Ahush@")
    with pytest.raises(StoreError, match="pg_dump failed"):
        await back_up(Place(url, place.state), tmp_path / "backups", now=NOON)
    arguments, password = told.read_text().splitlines()
    assert "hush" not in arguments
    assert "***" not in arguments
    assert password == r"*:*:*:*:hush\:hush"
