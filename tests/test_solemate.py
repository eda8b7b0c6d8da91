"""The command line as its users run it: a process of its own, with its own state."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import pty
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from core.backup import KEPT_DAYS, back_up_before_upgrade, make_backup
from core.doctor import warn_of_models
from core.errors import ConfigError, StoreError
from core.expert import open_model
from core.inbox import Inbox
from core.messages import Platform
from core.opening import backed_up, on_disk, open_retriever, take_up
from core.ports import port_is_free
from core.redis_link import RedisLink
from core.retrieval import Retriever
from core.settings import Settings, load_settings
from core.store import Store
from solemate import forget, main, warn_of_others
from tests.core.documents import write_objects
from training.opening import embedded_server, open_training

pytestmark = pytest.mark.long

ROOT = Path(__file__).parent.parent
EXPERT = ROOT / "data" / "embedded" / "expert"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
    return number


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    state = tmp_path_factory.mktemp("state")
    return {
        **{key: value for key, value in os.environ.items() if not key.startswith("SOLEMATE")},
        "SOLEMATE__DATABASE__FOLDER": str(state),
        "SOLEMATE__DATABASE__URL": f"sqlite:///{state}/solemate.db",
        "SOLEMATE__LOGGING__FILE": str(state / "solemate.log"),
        "SOLEMATE__WEB__PORT": str(free_port()),
        "SOLEMATE__MODEL__BASE_URL": f"http://127.0.0.1:{free_port()}/v1",
        # A machine that also runs other tests is slow, and slowness is not what is tested here.
        "SOLEMATE__MODEL__FIRST_TOKEN_SECONDS": "60",
        "SOLEMATE__MODEL__DEADLINE_SECONDS": "120",
        "COLUMNS": "200",
    }


def solemate(
    environment: dict[str, str], *arguments: str, **changes: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "solemate", *arguments],
        cwd=ROOT,
        env={**environment, **changes},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture(scope="module")
def running(environment: dict[str, str]) -> Iterator[str]:
    """A `solemate up` that is ready; its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "solemate", "up"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if found := re.search(r"ready: (http\S+)", line):
                yield found[1]
                break
        else:
            pytest.fail("".join(lines))
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        assert process.stdout is not None
        process.stdout.close()


def test_ask_starts_what_it_needs_and_prints_json(environment: dict[str, str]) -> None:
    done = solemate(environment, "ask", "帆布鞋怎么洗？", "--json")
    assert done.returncode == 0, done.stderr
    reply = json.loads(done.stdout)
    assert reply["outcome"] in ("answered", "quoted")
    assert reply["sources"]
    assert {"answer", "tags", "adapter", "timings"} <= set(reply)


def test_a_chat_that_is_told_to_stop_ends_the_model_server_it_started(
    environment: dict[str, str], tmp_path: Path
) -> None:
    port = free_port()
    changes = {
        "SOLEMATE__DATABASE__URL": f"sqlite:///{tmp_path}/solemate.db",
        "SOLEMATE__WEB__PORT": str(free_port()),
        "SOLEMATE__MODEL__BASE_URL": f"http://127.0.0.1:{port}/v1",
    }
    ours, theirs = pty.openpty()
    with (
        os.fdopen(ours),
        os.fdopen(theirs) as keyboard,
        subprocess.Popen(
            [sys.executable, "-m", "solemate", "chat"],
            cwd=ROOT,
            env={**environment, **changes},
            stdin=keyboard,
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        while not process.stdout.readline().startswith("Hi, "):
            assert process.poll() is None
        assert not port_is_free("127.0.0.1", port)
        process.terminate()
        assert process.wait(120) == 128 + signal.SIGTERM
    assert port_is_free("127.0.0.1", port)


def test_a_question_about_something_else_is_refused(
    environment: dict[str, str], running: str
) -> None:
    done = solemate(environment, "ask", "怎么做红烧肉？", "--json")
    assert json.loads(done.stdout)["outcome"] == "refused"


def test_a_start_has_the_audit_say_by_which_settings_it_learns(
    environment: dict[str, str], running: str
) -> None:
    file = environment["SOLEMATE__DATABASE__URL"].removeprefix("sqlite:///")
    query = "select who, detail from audit where subject = 'settings'"
    with closing(sqlite3.connect(file)) as database:
        ((who, detail),) = database.execute(query).fetchall()
    assert "@" in who
    assert "training.gate.accuracy" in json.loads(detail)["values"]


def test_ask_asks_the_running_solemate_and_a_second_up_is_refused(
    environment: dict[str, str], running: str
) -> None:
    asked = solemate(environment, "ask", "What is a Chelsea boot?", "--json")
    assert json.loads(asked.stdout)["language"] == "en", asked.stderr
    second = solemate(environment, "up")
    assert second.returncode == 1
    assert "cannot be used" in second.stderr
    elsewhere = solemate(environment, "up", SOLEMATE__WEB__PORT=str(free_port()))
    assert elsewhere.returncode == 1
    assert "already using" in elsewhere.stderr


async def test_a_thumb_is_stored_and_a_stopped_model_server_leads_to_a_quote(
    environment: dict[str, str], running: str
) -> None:
    async with httpx.AsyncClient(base_url=running, timeout=120) as client:
        answer = (await client.post("/chat", json={"message": "乐福鞋是什么鞋？"})).json()
        thumb = {
            "session_id": answer["session_id"],
            "message_id": answer["message_id"],
            "feedback": "thumbs_down",
            "correction": "乐福鞋没有鞋带。",
        }
        assert (await client.post("/feedback", json=thumb)).json()["status"] == "success"
        kill_server_at(environment["SOLEMATE__MODEL__BASE_URL"])
        quoted = (await client.post("/chat", json={"message": "德训鞋是什么鞋？"})).json()
        assert quoted["outcome"] == "quoted"
        assert not quoted["complete"]
        assert await model_is_back(client)


async def model_is_back(client: httpx.AsyncClient) -> bool:
    """Whether the model server is well again within two minutes."""
    async with asyncio.timeout(120):
        while (await client.get("/health")).json()["parts"]["model"]["status"] != "ok":  # noqa: ASYNC110
            await asyncio.sleep(0.5)
    return True


def kill_server_at(url: str) -> None:
    """Kill the `solemate serve` whose environment holds this address."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
            variables = (entry / "environ").read_bytes()
        except OSError:
            continue
        if b"serve" in command and url.encode() in variables:
            os.kill(int(entry.name), signal.SIGKILL)
            return
    pytest.fail(f"No model server serves at {url}.")


SLIDES = {"id": "slides", "content": "一字拖适合泳池边穿。"}


def settings_of(folder: Path, knowledge: Path) -> Settings:
    return load_settings(
        environment={
            "SOLEMATE__DATABASE__FOLDER": str(folder / "state"),
            "SOLEMATE__DATABASE__URL": f"sqlite:///{folder}/state/solemate.db",
            "SOLEMATE__RETRIEVAL__KNOWLEDGE": str(knowledge),
            "SOLEMATE__RETRIEVAL__EMBEDDING_MODEL": "",
        }
    )


def known_to(retriever: Retriever) -> list[str]:
    return [chunk.id for chunk in retriever.snapshot.index.chunks]


async def test_a_rebuilt_index_and_a_new_calibration_are_taken_up(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, write_objects(tmp_path, [SLIDES]))
    folder, retriever = await open_retriever(settings)
    used = on_disk(settings, folder)
    assert await take_up(settings, folder, retriever, used) == used
    await folder.add(write_objects(tmp_path, [{"id": "clogs", "content": "洞洞鞋。"}], "more.json"))
    newest = await take_up(settings, folder, retriever, used)
    assert known_to(retriever) == ["slides", "clogs"]
    (settings.state / "calibration.json").write_text("{}", "utf-8")
    assert await take_up(settings, folder, retriever, newest) != newest


async def test_a_damaged_index_leaves_the_one_in_use(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, write_objects(tmp_path, [SLIDES]))
    folder, retriever = await open_retriever(settings)
    used = on_disk(settings, folder)
    (settings.state / "index" / "current").write_text("nonsense 0", "utf-8")
    damaged = await take_up(settings, folder, retriever, used)
    assert known_to(retriever) == ["slides"]
    await folder.build(write_objects(tmp_path, [{**SLIDES, "id": "new"}]))
    await take_up(settings, folder, retriever, damaged)
    assert known_to(retriever) == ["new"]


async def test_a_full_disk_at_the_hour_of_forgetting_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(tmp_path, write_objects(tmp_path, [SLIDES]))
    async with Store(settings.database.address) as store:

        async def full(work: object) -> None:
            raise StoreError("The disk is full.")

        monkeypatch.setattr(store, "run", full)
        await forget(settings, store, Inbox(store, owner="test", depth=1))


async def test_an_old_backup_before_an_upgrade_is_deleted_within_the_hour(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, write_objects(tmp_path, [SLIDES]))
    async with Store(settings.database.address) as store:
        place = backed_up(settings)
        old = back_up_before_upgrade(place, now=time.time() - (KEPT_DAYS + 1) * 86_400)
        new = make_backup(place, settings.state / "backups")
        await forget(settings, store, Inbox(store, owner="test", depth=1))
    assert list(old.file.parent.iterdir()) == [new.file]


async def test_keys_of_what_came_are_kept_for_seven_days(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, write_objects(tmp_path, [SLIDES]))
    source, keys = (Platform.TELEGRAM, "telegram:1"), ["update-1"]
    async with Store(settings.database.address) as store:

        def at_day(day: float) -> Inbox:
            return Inbox(store, owner="test", depth=1, clock=lambda: day * 86_400)

        await at_day(0).note_seen(*source, keys)
        await forget(settings, store, at_day(6.9))
        assert await at_day(6.9).unseen(*source, keys) == set()
        await forget(settings, store, at_day(7.1))
        assert await at_day(7.1).unseen(*source, keys) == set(keys)


def without_training(environment: dict[str, str], program: str) -> subprocess.CompletedProcess[str]:
    """Run a program where nothing of the extra `train` is installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = project["optional-dependencies"]["train"]
    missing = [re.split("[^A-Za-z0-9-]", one)[0].replace("-", "_") for one in wanted]
    return subprocess.run(
        [sys.executable, "-c", f"import sys\nsys.modules |= dict.fromkeys({missing})\n{program}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_where_nothing_is_trained_the_doctor_says_what_is_missing(
    environment: dict[str, str],
) -> None:
    program = "import solemate\nsys.argv[1:] = ['doctor', '--json']\nsolemate.main()"
    done = without_training(environment, program)
    assert done.returncode == 0, done.stderr
    (found,) = (one for one in json.loads(done.stdout) if one["part"] == "training")
    assert found["health"] == "warning"
    assert "extra `train`" in found["advice"]


def test_where_nothing_is_trained_what_is_too_old_is_forgotten_all_the_same(
    environment: dict[str, str], tmp_path: Path
) -> None:
    program = """
import asyncio, solemate
from core.inbox import Inbox
from core.opening import open_store
from core.settings import load_settings

async def forget():
    settings = load_settings()
    async with open_store(settings) as store:
        await solemate.forget(settings, store, Inbox(store, owner="test", depth=1))

asyncio.run(forget())
"""
    database = f"sqlite:///{tmp_path}/solemate.db"
    done = without_training({**environment, "SOLEMATE__DATABASE__URL": database}, program)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "changes", "sentence"),
    [
        (["doctor"], {"SOLEMATE__WEB__PRT": "1"}, "did you mean 'port'"),
        (["--profile", "nowhere", "doctor"], {}, "no profile 'nowhere'"),
        (["ask"], {}, "Missing argument 'text'. See `solemate ask --help`."),
        (["ask", "鞋", "--foto", "x.jpg"], {}, "No such option: --foto"),
        (["aks"], {}, "No such command 'aks'. Did you mean 'ask'? See `solemate --help`."),
        (["kb", "eval", "--nonsense"], {}, "See `solemate kb eval --help`."),
        (["runs", "show"], {}, "Missing argument"),
        (["serve", "--port", "many"], {}, "Invalid value for '--port'"),
        (["kb", "search"], {}, "Give a question"),
        (["kb", "search", "--batch", "gone.jsonl"], {}, "in 'gone.jsonl': No such file or dir"),
        (["ask", "鞋", "--conversation", "../x"], {}, "--conversation must be 1 to 60 letters"),
        (["kb", "add", "missing.json"], {}, "missing.json"),
        (["tag", "missing.jpg"], {}, "missing.jpg"),
        (["tag", "missing.jpg", "gone.png"], {}, "gone.png"),
        (["ask", "鞋", "--photo", "1.jpg", "--photo", "2.jpg"], {}, "one photo at a time"),
        (
            ["serve", "--model", "missing"],
            {"SOLEMATE__MODEL__BASE_URL": f"http://127.0.0.1:{free_port()}/v1"},
            "missing",
        ),
        (["serve", "--adapter", "nonsense"], {}, "NAME=FOLDER"),
        (["ask", "鞋" * 5000], {}, "5000"),
    ],
)
def test_a_users_mistake_is_one_clear_sentence(
    environment: dict[str, str], arguments: list[str], changes: dict[str, str], sentence: str
) -> None:
    done = solemate(environment, *arguments, **changes)
    assert done.returncode == 1
    assert sentence in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_start_without_a_model_ends_in_one_clear_sentence(
    environment: dict[str, str], tmp_path: Path
) -> None:
    done = solemate(
        environment,
        "up",
        SOLEMATE__DATABASE__URL=f"sqlite:///{tmp_path}/solemate.db",
        SOLEMATE__WEB__PORT=str(free_port()),
        SOLEMATE__MODEL__BASE_URL=f"http://127.0.0.1:{free_port()}/v1",
        SOLEMATE__MODEL__EXPERT="data/nothing",
    )
    assert done.returncode == 1
    assert "solemate models build" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_missing_adapter_is_named_at_the_start_and_the_model_answers_without_it(
    environment: dict[str, str], tmp_path: Path
) -> None:
    nowhere = str(tmp_path / "nowhere")
    done = solemate(
        environment,
        *("ask", "帆布鞋怎么洗？", "--json"),
        SOLEMATE__DATABASE__URL=f"sqlite:///{tmp_path}/solemate.db",
        SOLEMATE__WEB__PORT=str(free_port()),
        SOLEMATE__MODEL__BASE_URL=f"http://127.0.0.1:{free_port()}/v1",
        SOLEMATE__MODEL__ADAPTER_PATH=nowhere,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["adapter"] in ("solemate", "")
    told = " ".join(done.stderr.split())
    assert f"There is no adapter in '{nowhere}'" in told
    assert "Mend model.adapter_path" in told


def test_a_mistake_is_one_line_however_narrow_the_terminal(environment: dict[str, str]) -> None:
    done = solemate(environment, "tag", f"{'a-long-name-' * 9}:x:.jpg", COLUMNS="40")
    assert done.stderr.count("\n") == 1
    assert ":x:.jpg" in done.stderr


def test_titles_are_listed_as_they_are_written(environment: dict[str, str], tmp_path: Path) -> None:
    path = write_objects(tmp_path, [{"id": "a", "title": "鞋 [red] :x:", "content": "鞋。"}])
    done = solemate(environment, "kb", "search", "鞋", "--knowledge", str(path))
    assert "鞋 [red] :x:" in done.stdout


def test_what_a_file_of_the_same_name_replaces_is_said(
    environment: dict[str, str], tmp_path: Path
) -> None:
    for name, count in (("one", 2), ("two", 1)):
        (tmp_path / name).mkdir()
        write_objects(tmp_path / name, [{"content": f"鞋 {name} {n}。"} for n in range(count)])
    path = write_objects(tmp_path / "two", [{"content": "靴。"}])
    apart = {"SOLEMATE__DATABASE__FOLDER": str(tmp_path / "state"), "COLUMNS": "200"}
    said = [
        solemate(environment, "kb", *words, **apart).stdout
        for words in (
            ("add", str(tmp_path / "one" / path.name)),
            ("add", str(path)),
            ("remove", str(path)),
        )
    ]
    for line, counts in zip(said, ("2 (before: 0)", "1 (before: 2)", "0 (before: 1)"), strict=True):
        assert f"Chunks of '{path.name}' in the index: {counts}" in line


def test_what_a_calibration_reached_is_said_in_words(
    environment: dict[str, str], tmp_path: Path
) -> None:
    done = solemate(environment, "kb", "calibrate", SOLEMATE__DATABASE__FOLDER=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "is no share of wrong answers" in done.stdout


def test_the_data_report_is_json(environment: dict[str, str]) -> None:
    assert json.loads(solemate(environment, "data", "report", "--json").stdout)["ok"]


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings with a state of their own, which a child process reads from its environment too."""
    changes = {
        "SOLEMATE__DATABASE__FOLDER": str(tmp_path),
        "SOLEMATE__LOGGING__FILE": "",
        "SOLEMATE__MODEL__BASE_URL": f"http://127.0.0.1:{free_port()}/v1",
        "SOLEMATE__MODEL__EXPERT": str(tmp_path / "nowhere"),
    }
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    return load_settings(environment=os.environ)


async def test_a_missing_model_is_named_with_what_to_do(alone: Settings) -> None:
    with pytest.raises(ConfigError, match=r"nowhere' holds no model: run `solemate models build`"):
        async with open_model(alone, embedded_server):
            pytest.fail("there is no model to open")


async def test_a_model_port_that_another_program_has_is_named(alone: Settings) -> None:
    async def page(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")
        writer.close()
        await writer.wait_closed()

    port = int(alone.model.base_url.rpartition(":")[2].removesuffix("/v1"))
    async with await asyncio.start_server(page, "127.0.0.1", port):
        with pytest.raises(ConfigError, match="does not serve the model 'solemate'"):
            async with open_model(alone, embedded_server):
                pytest.fail("it is no model server")


def test_a_full_disk_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(**_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/state/page-secret")

    monkeypatch.setattr("solemate.app", full)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    told = capsys.readouterr().err
    assert "No space left on device" in told
    assert "/state/page-secret" in told


def test_batch_search_ranks_any_knowledge_file(environment: dict[str, str], tmp_path: Path) -> None:
    knowledge = tmp_path / "shop.json"
    knowledge.write_text('[{"id": "hours", "content": "本店每天上午 10 点开门。"}]', "utf-8")
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"id": "q1", "question": "几点开门"}\n', "utf-8")
    done = solemate(
        environment,
        *("kb", "search", "--knowledge", str(knowledge), "--batch", str(questions), "--json"),
    )
    line = json.loads(done.stdout)
    assert line["id"] == "q1"
    assert line["results"][0]["id"] == "hours"
    assert {"id", "score"} == set(line["results"][0])


def test_doctor_names_every_part(environment: dict[str, str]) -> None:
    done = solemate(environment, "doctor", "--json")
    parts = {finding["part"]: finding["health"] for finding in json.loads(done.stdout)}
    assert {"store", "knowledge", "model", "page", "disk"} <= set(parts)
    assert "ill" not in parts.values()


async def test_a_training_cluster_that_is_away_is_named_at_the_start_and_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = load_settings(
        environment={
            "SOLEMATE__DATABASE__FOLDER": str(tmp_path),
            "SOLEMATE__DATABASE__URL": f"sqlite:///{tmp_path}/s.db",
            "SOLEMATE__TRAINING__LAUNCHER": "ray",
            "SOLEMATE__TRAINING__RAY_ADDRESS": f"http://127.0.0.1:{free_port()}",
        }
    )
    async with (
        Store(settings.database.address) as store,
        open_training(settings, store) as loop,
    ):
        assert loop is not None
    assert "Start the Ray head and the tunnel to it" in " ".join(capsys.readouterr().err.split())


async def test_a_model_server_that_is_away_is_named_at_the_start_and_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    settings = load_settings(
        environment={
            "SOLEMATE__DATABASE__FOLDER": str(tmp_path),
            "SOLEMATE__MODEL__EMBEDDED": "false",
            "SOLEMATE__MODEL__ADAPTER": "",
            "SOLEMATE__MODEL__BASE_URL": url,
        }
    )
    await warn_of_models(settings)
    said = " ".join(capsys.readouterr().err.split())
    assert (
        said == f"model: no answer from {url}. Start the model server, or correct model.base_url."
    )


async def test_a_redis_that_is_away_is_named_at_the_start_and_stops_nothing(
    alone: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    where = f"127.0.0.1:{free_port()}/0"
    async with RedisLink(f"redis://{where}") as link:
        await warn_of_others(alone, link)
    said = " ".join(capsys.readouterr().err.split())
    assert said.startswith(f"redis: {where} cannot be used. Redis does not answer")


async def test_the_embedded_server_is_one_and_not_several(alone: Settings) -> None:
    several = alone.model.model_copy(update={"base_url": "http://a:1/v1,http://b:1/v1"})
    with pytest.raises(ConfigError, match="model.embedded = false"):
        async with open_model(alone.model_copy(update={"model": several}), embedded_server):
            pytest.fail("nobody serves there")
