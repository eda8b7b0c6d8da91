"""An operator hands a person what is kept about them, or erases it, on the command line."""

from __future__ import annotations

import asyncio
import json
import stat
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner, Result

from core.audit import AuditRow, audit_of
from core.backup import Place, back_up
from core.errors import ClusterUnavailable, ConfigError, NotFound
from core.messages import Platform, Rating
from core.opening import open_link, open_store, pseudonyms
from core.privacy import audit_subject
from core.restore import restore
from core.settings import Settings, load_settings
from core.store import Store
from core.tables import adapters, run_pairs, runs
from tests.conftest import RedisServer
from tests.training.feedback_world import BETTER, QUESTION, World, make_pair
from tests.training.run_parts import insert_pairs
from training.commands.person import group
from training.launchers import Job, LocalLauncher
from training.runs import RunState

TELEGRAM, SLACK = "telegram:4711", "slack:T1:UANN"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(
        environment={
            "SOLEMATE__DATABASE__FOLDER": str(tmp_path / "state"),
            "SOLEMATE__DATABASE__URL": f"sqlite:///{tmp_path / 's.db'}",
        }
    )


def stored(settings: Settings, work: Callable[[World], Awaitable[Any]]) -> Any:
    async def opened() -> Any:
        async with Store(settings.database.address) as store:
            return await work(World(store))

    return asyncio.run(opened())


def person(settings: Settings, key: str = TELEGRAM) -> str:
    return pseudonyms(settings).named(key)


def someone_asked(settings: Settings, user: str, state: RunState = RunState.PROMOTED) -> None:
    """A person corrected an answer, and a run trained an adapter on it, or is about to."""

    async def work(world: World) -> None:
        reply = await world.ask(user=user)
        await world.rate(reply, Rating.DOWN, BETTER, user=user)
        pair = make_pair(user=user)
        run = {
            "id": "run-1",
            "key": "run-1",
            "stage": "dpo",
            "recipe": "embedded",
            "state": state.value,
            "why": "",
            "started_by": "",
            "folder": str(settings.state / "runs" / "run-1"),
            "dataset": "d" * 64,
            "adapter": "shoes-v1" if state is RunState.PROMOTED else "",
            "figures": {},
            "problem": "",
            "attempts": 1,
            "created_at": 1.0,
            "updated_at": 1.0,
        }
        adapter = {
            "name": "shoes-v1",
            "run_id": "run-1",
            "path": "",
            "base": "",
            "digest": "",
            "manifest": {},
            "state": "live",
            "created_at": 1.0,
        }

        def insert(connection: sa.Connection) -> None:
            insert_pairs(connection, pair)
            connection.execute(sa.insert(runs).values(run))
            used = {"run_id": "run-1", "pair_id": pair.id, "split": "train"}
            connection.execute(sa.insert(run_pairs).values(used))
            connection.execute(sa.insert(adapters).values(adapter))

        await world.store.run(insert)

    stored(settings, work)
    for folder in ("runs/run-1", f"datasets/{'d' * 16}"):
        (settings.state / folder).mkdir(parents=True)
        (settings.state / folder / "rows.jsonl").write_text(BETTER, "utf-8")


def invoke(settings: Settings, *words: str, typed: str | None = None) -> Result:
    return CliRunner().invoke(group, words, obj=settings, catch_exceptions=False, input=typed)


def asked(settings: Settings, *words: str) -> Any:
    done = invoke(settings, *words, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.output.splitlines()[-1])


@pytest.mark.parametrize("key", [TELEGRAM, SLACK, "web:abc"])
def test_a_person_is_found_by_their_name_on_the_platform_and_by_ours(
    settings: Settings, key: str
) -> None:
    someone_asked(settings, person(settings, key))
    found = asked(settings, "export", key)
    assert [turn["question"] for turn in found["turns"]] == [QUESTION]
    assert [one["correction"] for one in found["ratings"]] == [BETTER]
    assert asked(settings, "export", found["person"]) == found


def test_slack_knows_people_by_their_own_id_whatever_the_team(settings: Settings) -> None:
    expected = pseudonyms(settings).of(Platform.SLACK, "UANN")
    assert person(settings, SLACK) == person(settings, "slack:UANN") == expected


def test_an_export_can_be_kept_in_a_file_that_nobody_else_reads(
    settings: Settings, tmp_path: Path
) -> None:
    someone_asked(settings, person(settings))
    file = tmp_path / "ann.json"
    invoke(settings, "export", TELEGRAM, "--file", str(file))
    assert json.loads(file.read_text("utf-8"))["person"] == person(settings)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_an_erasure_tells_what_it_did_and_leaves_nothing(settings: Settings) -> None:
    someone_asked(settings, person(settings))
    done = asked(settings, "erase", TELEGRAM, "--yes")
    counted = ("turns", "ratings", "pairs", "datasets_deleted", "adapters_flagged")
    assert [done[name] for name in counted] == [1, 1, 1, 1, "shoes-v1"]
    assert done["retired_by"]
    found = asked(settings, "export", TELEGRAM)
    assert found["erased_at"]
    assert (found["turns"], found["ratings"], found["pairs"]) == ([], [], [])
    assert list(settings.state.rglob("rows.jsonl")) == []


def run_state(settings: Settings) -> str:
    async def found(world: World) -> str:
        query = sa.select(runs.c.state)
        return await world.store.run(lambda connection: connection.execute(query).scalar_one())

    return str(stored(settings, found))


@pytest.mark.parametrize("state", [RunState.FROZEN, RunState.TRAINING, RunState.EVALUATING])
def test_an_erasure_leaves_nothing_in_a_run_that_nobody_goes_on_with(
    settings: Settings, state: RunState
) -> None:
    someone_asked(settings, person(settings), state)
    done = asked(settings, "erase", TELEGRAM, "--yes")
    assert done["all_files_deleted"]
    assert list(settings.state.rglob("rows.jsonl")) == []
    assert run_state(settings) == "collecting"


def test_an_erasure_says_that_a_cluster_cannot_be_told_to_end_a_training(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Away(LocalLauncher):
        async def stop(self, job: Job) -> None:
            raise ClusterUnavailable("No answer from http://ray:8265.")

    someone_asked(settings, person(settings), RunState.TRAINING)
    monkeypatch.setattr("training.loop.open_launcher", lambda _: Away())
    done = invoke(settings, "erase", TELEGRAM, "--yes", "--json")
    said = " ".join(done.output.split())
    assert "still holds what they said. No answer from http://ray:8265." in said
    assert '"all_files_deleted": false' in said
    assert run_state(settings) == "training"
    monkeypatch.undo()
    assert asked(settings, "erase", TELEGRAM, "--yes")["all_files_deleted"]
    assert list(settings.state.rglob("rows.jsonl")) == []


@pytest.fixture
def with_redis(settings: Settings, redis_server: RedisServer) -> Settings:
    redis = settings.redis.model_copy(update={"url": redis_server.url})
    return settings.model_copy(update={"redis": redis})


def someone_is_remembered(settings: Settings) -> None:
    """A person asked, and Redis knows it for the next question."""

    async def work() -> None:
        link = open_link(settings)
        assert link is not None
        async with link, open_store(settings, link=link) as store:
            world = World(store)
            turn = world.turns[await world.ask(user=person(settings))]
            now = time.time()
            reply = replace(turn.reply, id="reply-of-now")
            await store.add_turn(replace(turn, reply=reply, message_id="m-of-now", asked_at=now))
            await store.history(reply.conversation_id, rounds=3, since=now - 60)

    asyncio.run(work())


def remembered(redis_server: RedisServer) -> list[str]:
    with redis_server.client() as redis:
        return [str(key) for key in redis.keys("*:rounds:*")]


def test_an_erasure_reaches_redis(with_redis: Settings, redis_server: RedisServer) -> None:
    someone_is_remembered(with_redis)
    assert remembered(redis_server)
    done = invoke(with_redis, "erase", TELEGRAM, "--yes")
    assert remembered(redis_server) == []
    assert "Redis" not in done.output


def test_an_erasure_says_what_redis_may_still_hold(
    with_redis: Settings, redis_server: RedisServer
) -> None:
    someone_is_remembered(with_redis)
    redis_server.stop()
    done = invoke(with_redis, "erase", TELEGRAM, "--yes")
    assert done.exit_code == 0
    assert "Redis does not answer" in " ".join(done.output.split())
    assert asked(with_redis, "export", TELEGRAM)["turns"] == []


@pytest.mark.parametrize(
    ("words", "after"), [(("export",), "exported"), (("erase", "--yes"), "erased")]
)
def test_the_audit_says_who_handed_out_or_erased_a_person(
    settings: Settings, words: tuple[str, ...], after: str
) -> None:
    someone_asked(settings, person(settings))
    asked(settings, words[0], TELEGRAM, *words[1:], "--as", "ann")

    async def audited(world: World) -> list[AuditRow]:
        return await audit_of(world.store, audit_subject(person(settings)))

    (row,) = stored(settings, audited)
    assert (row.who, row.after) == ("ann", after)
    assert QUESTION not in str(row)
    assert person(settings) not in str(row)


def test_an_erasure_asks_first(settings: Settings) -> None:
    someone_asked(settings, person(settings))
    assert invoke(settings, "erase", TELEGRAM, typed="n\n").exit_code == 1
    assert asked(settings, "export", TELEGRAM)["turns"]
    assert invoke(settings, "erase", TELEGRAM, typed="y\n").exit_code == 0
    assert not asked(settings, "export", TELEGRAM)["turns"]


def test_a_restored_backup_does_not_bring_an_erased_person_back(
    settings: Settings, tmp_path: Path
) -> None:
    someone_asked(settings, person(settings))
    place = Place(settings.database.address, settings.state)
    made = asyncio.run(back_up(place, tmp_path / "backups"))
    invoke(settings, "erase", TELEGRAM, "--yes")
    assert asyncio.run(restore(place, made.file)).erased_again == 1
    found = asked(settings, "export", TELEGRAM)
    assert (found["turns"], found["ratings"], found["pairs"]) == ([], [], [])


@pytest.mark.parametrize("words", [("export",), ("erase", "--yes")])
@pytest.mark.parametrize(
    ("key", "problem", "sentence"),
    [
        ("telegram:99", NotFound, "Nothing is kept"),
        ("somebody", ConfigError, "names nobody"),
        ("telegram:", ConfigError, "names nobody"),
    ],
)
def test_a_wrong_key_is_one_sentence(
    settings: Settings, words: tuple[str, ...], key: str, problem: type[Exception], sentence: str
) -> None:
    with pytest.raises(problem, match=sentence):
        invoke(settings, *words, key)
