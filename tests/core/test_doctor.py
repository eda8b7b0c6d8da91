"""What `solemate doctor` finds where something is ill, and what it says to do."""

from __future__ import annotations

import importlib.metadata
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import sqlalchemy as sa

from core import doctor
from core.database import migrate, revision_of
from core.doctor import Finding, Health, examine
from core.settings import load_settings
from core.store import Store
from core.tables import adapters, routes
from tests.collector import collecting
from tests.conftest import RedisServer
from tests.core.lora_folders import write_adapter, write_base


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield probe.getsockname()[1]


async def findings(folder: Path, **changes: str) -> dict[str, Finding]:
    """What is found about each part with a state of its own and these settings."""
    environment = {
        "SOLEMATE__DATABASE__FOLDER": str(folder),
        "SOLEMATE__DATABASE__URL": f"sqlite:///{folder}/solemate.db",
        # Nobody serves at port 9.
        "SOLEMATE__WEB__PORT": "9",
        "SOLEMATE__MODEL__BASE_URL": "http://127.0.0.1:9/v1",
        **{f"SOLEMATE__{name}": value for name, value in changes.items()},
    }
    return {one.part: one for one in await examine(load_settings(environment=environment))}


@pytest.mark.parametrize(
    ("part", "setting", "value", "advice"),
    [
        ("knowledge", "RETRIEVAL__KNOWLEDGE", "missing.json", "missing.json"),
        ("tags", "VISION__TAGS", "missing.txt", "restore it"),
        ("embeddings", "RETRIEVAL__EMBEDDING_MODEL", "data/missing", "retrieval.embedding_model"),
        ("vision", "VISION__MODEL", "./missing", "vision.model"),
        ("model", "MODEL__EXPERT", "data/missing", "solemate models build"),
        ("model", "MODEL__EMBEDDED", "false", "Start the model server"),
        ("store", "DATABASE__URL", "sqlite:////proc/missing/solemate.db", "cannot be used"),
    ],
)
async def test_an_ill_part_is_named_with_what_to_do(
    tmp_path: Path, part: str, setting: str, value: str, advice: str
) -> None:
    found = await findings(tmp_path, **{setting: value})
    assert found[part].health is Health.ILL
    assert advice in found[part].advice


async def test_a_model_of_a_hub_is_no_illness(tmp_path: Path) -> None:
    found = await findings(tmp_path, RETRIEVAL__EMBEDDING_MODEL="BAAI/bge-large-zh-v1.5")
    assert found["embeddings"].health is Health.WARNING


@pytest.mark.parametrize(
    ("changes", "found", "advice"),
    [
        ({"MODEL__ADAPTER_PATH": "data/missing"}, "cannot be used", 'model.adapter = ""'),
        ({"MODEL__EMBEDDED": "false"}, "has no solemate-spoken", "Start that server with it"),
    ],
)
async def test_an_adapter_that_does_not_answer_is_only_a_warning(
    tmp_path: Path, changes: dict[str, str], found: str, advice: str
) -> None:
    finding = (await findings(tmp_path, **changes))["adapter"]
    assert finding.health is Health.WARNING
    assert found in finding.found
    assert advice in finding.advice


async def test_no_adapter_at_all_is_no_illness(tmp_path: Path) -> None:
    finding = (await findings(tmp_path, MODEL__ADAPTER=""))["adapter"]
    assert finding.health is Health.OK


@pytest.fixture
def model_server() -> Iterator[str]:
    """A server that lists the model and takes adapters with a key each, or one for both."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.headers["Authorization"] in ("Bearer right", "Bearer both")
            self.send_response(200 if known else 401)
            self.end_headers()
            self.wfile.write(b'{"data": [{"id": "solemate"}]}')

        def do_POST(self) -> None:
            known = self.headers["Authorization"] in ("Bearer loop", "Bearer both")
            self.send_response(404 if known else 401)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


@pytest.mark.parametrize(
    ("key", "found", "advice"),
    [("right", "serves solemate", ""), ("wrong", "answers 401", "Check MODEL_API_KEY")],
)
async def test_each_of_several_model_servers_is_named(
    tmp_path: Path, model_server: str, key: str, found: str, advice: str
) -> None:
    environment = {
        "MODEL_API_KEY": key,
        "MODEL_ADMIN_KEY": "loop",
        "SOLEMATE__DATABASE__FOLDER": str(tmp_path),
        "SOLEMATE__DATABASE__URL": f"sqlite:///{tmp_path}/solemate.db",
        "SOLEMATE__MODEL__BASE_URL": f"{model_server}, http://127.0.0.1:9/v1",
        "SOLEMATE__MODEL__EMBEDDED": "false",
        "SOLEMATE__MODEL__ADAPTER": "",
    }
    every = await examine(load_settings(environment=environment))
    there, away = [one for one in every if one.part == "model"]
    assert model_server in there.found
    assert found in there.found
    assert advice in there.advice
    assert away.found == "no answer from http://127.0.0.1:9/v1"
    assert away.health is Health.ILL


@pytest.mark.parametrize(
    ("key", "health", "advice"),
    [("loop", Health.OK, ""), ("another", Health.WARNING, "Check MODEL_ADMIN_KEY")],
)
async def test_the_key_that_loads_adapters_is_tried_and_loads_none(
    tmp_path: Path, model_server: str, key: str, health: Health, advice: str
) -> None:
    environment = {
        "MODEL_API_KEY": "right",
        "MODEL_ADMIN_KEY": key,
        "SOLEMATE__DATABASE__FOLDER": str(tmp_path),
        "SOLEMATE__DATABASE__URL": f"sqlite:///{tmp_path}/solemate.db",
        "SOLEMATE__MODEL__BASE_URL": model_server,
    }
    every = await examine(load_settings(environment=environment))
    (found,) = [one for one in every if one.part == "model"]
    assert found.health is health
    assert advice in found.advice


@pytest.mark.parametrize("key", ["", "loop"])
async def test_a_server_that_wants_a_key_for_adapters_is_no_good_without_one(
    tmp_path: Path, model_server: str, key: str
) -> None:
    environment = {
        "MODEL_API_KEY": "right",
        **({"MODEL_ADMIN_KEY": key} if key else {}),
        "SOLEMATE__DATABASE__FOLDER": str(tmp_path),
        "SOLEMATE__DATABASE__URL": f"sqlite:///{tmp_path}/solemate.db",
        "SOLEMATE__MODEL__BASE_URL": model_server,
    }
    every = await examine(load_settings(environment=environment))
    (found,) = [one for one in every if one.part == "model"]
    assert found.health is (Health.OK if key else Health.WARNING)
    assert key or "Set MODEL_ADMIN_KEY" in found.advice


async def test_a_server_with_one_key_for_all_wants_no_other(
    tmp_path: Path, model_server: str
) -> None:
    environment = {
        "MODEL_API_KEY": "both",
        "SOLEMATE__DATABASE__FOLDER": str(tmp_path),
        "SOLEMATE__DATABASE__URL": f"sqlite:///{tmp_path}/solemate.db",
        "SOLEMATE__MODEL__BASE_URL": model_server,
    }
    every = await examine(load_settings(environment=environment))
    (found,) = [one for one in every if one.part == "model"]
    assert (found.health, found.advice) == (Health.OK, "")


async def promote(url: str, name: str, *, path: Path | str = "", base: str = "") -> None:
    """This adapter was the last to be promoted; it is registered where it has a folder."""

    def work(connection: sa.Connection) -> None:
        if path:
            row = {"name": name, "path": str(path), "base": base, "digest": "", "manifest": {}}
            connection.execute(sa.insert(adapters).values(**row, state="live", created_at=1.0))
        route = {"live": name, "previous": "", "canary": "", "share": 0.0, "routed_at": 1.0}
        connection.execute(sa.insert(routes).values(route))

    async with Store(url, exclusive=False) as store:
        await store.run(work)


async def test_the_adapter_that_was_promoted_is_looked_at(tmp_path: Path, store_url: str) -> None:
    theirs = write_adapter(tmp_path / "theirs", write_base(tmp_path / "their-base"))
    assert theirs.path is not None
    await promote(store_url, "v7", path=theirs.path, base=theirs.base_model)
    found = (await findings(tmp_path, DATABASE__URL=store_url))["adapter"]
    assert (found.health, found.found) == (Health.WARNING, "v7 cannot be used")
    assert "their-base" in found.advice
    assert "adapters rollback" in found.advice
    await promote(store_url, "")
    found = (await findings(tmp_path, DATABASE__URL=store_url))["adapter"]
    assert (found.health, found.found) == (Health.OK, "none: the model answers as it is")


async def test_a_promoted_adapter_whose_folder_is_not_here_is_named(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/solemate.db"
    await promote(url, "v7", path="/nonexistent/v7", base="/some/base")
    found = (await findings(tmp_path, MODEL__EMBEDDED="false"))["adapter"]
    assert found.health is Health.WARNING
    assert found.found == "v7 of /some/base: no folder /nonexistent/v7 here"


async def test_a_promoted_adapter_whose_folder_was_lost_is_named(tmp_path: Path) -> None:
    await promote(f"sqlite:///{tmp_path}/solemate.db", "v7", path="/nonexistent/v7", base="base")
    found = (await findings(tmp_path))["adapter"]
    assert (found.health, found.found) == (Health.WARNING, "v7 cannot be used")
    assert "no adapter in '/nonexistent/v7'" in found.advice
    assert "Without v7 the one before it, or the model, answers." in found.advice


async def test_a_promoted_adapter_that_nobody_registered_is_named(tmp_path: Path) -> None:
    await promote(f"sqlite:///{tmp_path}/solemate.db", "v7")
    found = (await findings(tmp_path))["adapter"]
    assert (found.health, found.found) == (Health.WARNING, "nobody registered v7")


def cached(home: Path, *files: str) -> None:
    """A model of a hub in the cache, as far as these files of it came."""
    model = home / "models--some--model"
    for name in files:
        file = model / "snapshots" / "abc" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text('{"weight_map": {"a": "part-1.safetensors", "b": "part-2.safetensors"}}')
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("abc")


@pytest.mark.parametrize(
    ("files", "health"),
    [
        (("config.json",), Health.WARNING),
        (("config.json", "model.safetensors"), Health.OK),
        (("config.json", "pytorch_model.bin"), Health.OK),
        (("config.json", "model.safetensors.index.json", "part-1.safetensors"), Health.WARNING),
        (
            (
                "config.json",
                "model.safetensors.index.json",
                "part-1.safetensors",
                "part-2.safetensors",
            ),
            Health.OK,
        ),
    ],
)
async def test_a_model_without_its_weights_is_not_downloaded_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: tuple[str, ...], health: Health
) -> None:
    cached(tmp_path / "hub", *files)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    found = await findings(tmp_path, RETRIEVAL__EMBEDDING_MODEL="some/model")
    assert found["embeddings"].health is health


@pytest.mark.parametrize(
    ("program", "health", "said"),
    [
        ("", Health.WARNING, "pg_dump is not installed"),
        ("echo pg_dump '(PostgreSQL)' 9.6.24", Health.WARNING, "Install PostgreSQL's client"),
        ("echo pg_dump '(PostgreSQL)' 99.1 '(Debian 99.1-1)'", Health.OK, ""),
    ],
)
async def test_what_backs_postgresql_up_is_looked_for(
    tmp_path: Path,
    postgres_url: str,
    monkeypatch: pytest.MonkeyPatch,
    program: str,
    health: Health,
    said: str,
) -> None:
    if program:
        (tmp_path / "pg_dump").write_text(f"#!/bin/sh\n{program}\n")
        (tmp_path / "pg_dump").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = (await findings(tmp_path, DATABASE__URL=postgres_url))["backup"]
    assert found.health is health
    assert said in found.advice
    assert "backup" not in await findings(tmp_path)


@pytest.fixture
def running_solemate() -> Iterator[str]:
    """The port of a solemate that says it cannot use its database."""
    body = b'{"service": "solemate", "status": "down", "parts": {"store": {"status": "down"}}}'

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(503)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield str(server.server_address[1])
        server.shutdown()


async def test_a_running_solemate_that_is_down_makes_nothing_well(
    tmp_path: Path, running_solemate: str
) -> None:
    found = await findings(tmp_path, WEB__PORT=running_solemate)
    assert found["store"].health is Health.ILL
    assert found["page"].health is Health.ILL
    assert "without store" in found["page"].found


async def test_postgresql_is_asked_whatever_a_running_solemate_says(
    tmp_path: Path, running_solemate: str, postgres_url: str
) -> None:
    found = await findings(tmp_path, WEB__PORT=running_solemate, DATABASE__URL=postgres_url)
    assert found["store"].health is Health.OK
    away = "postgresql+psycopg://nobody@127.0.0.1:1/none"
    found = await findings(tmp_path, WEB__PORT=running_solemate, DATABASE__URL=away)
    assert found["store"].health is Health.ILL


async def test_an_adapter_of_another_base_model_is_named(tmp_path: Path) -> None:
    theirs = write_adapter(tmp_path / "theirs", write_base(tmp_path / "their-base"))
    finding = (await findings(tmp_path, MODEL__ADAPTER_PATH=str(theirs.path)))["adapter"]
    assert finding.health is Health.WARNING
    assert "cannot be used" in finding.found
    assert "their-base" in finding.advice
    assert 'model.adapter = ""' in finding.advice


async def test_an_adapter_with_the_models_own_name_is_ill(tmp_path: Path) -> None:
    finding = (await findings(tmp_path, MODEL__ADAPTER="solemate"))["adapter"]
    assert finding.health is Health.ILL
    assert "a name of its own" in finding.advice


@pytest.mark.parametrize(
    ("served", "health"), [("solemate-spoken", Health.OK), ("another", Health.WARNING)]
)
async def test_the_adapter_is_looked_for_where_the_model_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, served: str, health: Health
) -> None:
    async def names(_: object, url: str) -> list[str]:
        return ["solemate", served]

    monkeypatch.setattr(doctor, "_served", names)
    assert (await findings(tmp_path))["adapter"].health is health


async def test_a_taken_port_and_a_store_in_use_are_ill(tmp_path: Path, taken_port: int) -> None:
    async with Store(f"sqlite:///{tmp_path}/solemate.db"):
        found = await findings(tmp_path, WEB__PORT=str(taken_port))
    assert "taken" in found["page"].found
    assert found["page"].health is Health.ILL
    assert "Another solemate" in found["store"].advice


async def test_little_room_on_the_disk_is_ill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "ENOUGH_BYTES", 10**18)
    assert (await findings(tmp_path))["disk"].health is Health.ILL


@pytest.mark.parametrize(
    ("absent", "health"), [({"faiss-cpu", "faiss-gpu"}, Health.ILL), ({"faiss-gpu"}, Health.OK)]
)
async def test_one_of_two_packages_that_do_the_same_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absent: set[str], health: Health
) -> None:
    def version(package: str) -> str:
        if package in absent:
            raise importlib.metadata.PackageNotFoundError(package)
        return "1.0"

    monkeypatch.setattr(doctor.importlib.metadata, "version", version)
    assert (await findings(tmp_path))["packages"].health is health


async def test_a_hub_model_that_was_downloaded_before_is_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_is_cached", lambda name: name == "BAAI/bge-large-zh-v1.5")
    found = await findings(tmp_path, RETRIEVAL__EMBEDDING_MODEL="BAAI/bge-large-zh-v1.5")
    assert found["embeddings"].health is Health.OK


@pytest.mark.parametrize(
    ("cards", "faiss", "health", "advice"),
    [
        ([], "", Health.ILL, "retrieval.device and vision.device"),
        (["A100"], "", Health.WARNING, "faiss-gpu"),
        (["A100"], "1.14", Health.OK, ""),
    ],
)
async def test_a_card_that_the_settings_want_is_looked_for(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cards: list[str],
    faiss: str,
    health: Health,
    advice: str,
) -> None:
    known = doctor._version
    monkeypatch.setattr(doctor, "cards", lambda: cards)
    monkeypatch.setattr(
        doctor, "_version", lambda name: faiss if name == "faiss-gpu" else known(name)
    )
    found = await findings(tmp_path, RETRIEVAL__DEVICE="cuda", VISION__DEVICE="cuda:0")
    assert found["device"].health is health
    assert advice in found["device"].advice


async def test_no_card_is_looked_for_where_none_is_wanted(tmp_path: Path) -> None:
    assert (await findings(tmp_path))["device"].health is Health.OK


async def test_an_old_database_is_named_and_left_as_it_is(tmp_path: Path, store_url: str) -> None:
    engine = sa.create_engine(store_url)
    migrate(engine)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0002'"))
    found = (await findings(tmp_path, DATABASE__URL=store_url))["store"]
    assert found.health is Health.WARNING
    assert "version 0002" in found.found
    assert "solemate backup" in found.advice
    with engine.connect() as connection:
        assert revision_of(connection) == "0002"
    engine.dispose()


async def test_a_database_of_a_newer_program_is_ill(tmp_path: Path, store_url: str) -> None:
    engine = sa.create_engine(store_url)
    migrate(engine)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    found = (await findings(tmp_path, DATABASE__URL=store_url))["store"]
    assert found.health is Health.ILL
    assert "newer solemate" in found.advice
    assert "Upgrade the program" in found.advice


async def test_an_absent_postgresql_is_ill_and_its_password_hidden(tmp_path: Path) -> None:
    url = "postgresql+psycopg://me:sesame@127.0.0.1:1/none"
    found = (await findings(tmp_path, DATABASE__URL=url))["store"]
    assert found.health is Health.ILL
    assert "sesame" not in repr(found)


async def test_redis_is_looked_at_where_it_is_set(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    assert "redis" not in await findings(tmp_path)
    found = (await findings(tmp_path, REDIS__URL=redis_server.url))["redis"]
    assert (found.health, found.found) == (Health.OK, f"127.0.0.1:{redis_server.port}/0")
    redis_server.stop()
    found = (await findings(tmp_path, REDIS__URL=redis_server.url))["redis"]
    assert found.health is Health.WARNING
    assert "redis.url" in found.advice


async def test_a_collector_is_looked_for_where_spans_are_sent(tmp_path: Path) -> None:
    assert "tracing" not in await findings(tmp_path)
    with collecting() as collector:
        found = (await findings(tmp_path, TRACING__ENDPOINT=collector.address))["tracing"]
        assert (found.health, found.found) == (Health.OK, collector.address)
        assert collector.spans == []
    found = (await findings(tmp_path, TRACING__ENDPOINT=collector.address))["tracing"]
    assert found.health is Health.WARNING
    assert "correct tracing.endpoint" in found.advice


async def test_a_server_that_takes_no_spans_is_named(tmp_path: Path, model_server: str) -> None:
    found = (await findings(tmp_path, TRACING__ENDPOINT=model_server))["tracing"]
    assert found.health is Health.WARNING
    assert "answers 401" in found.found
    assert "port 4318" in found.advice


async def test_tracing_without_its_packages_is_ill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    found = (await findings(tmp_path, TRACING__ENDPOINT="http://127.0.0.1:9"))["tracing"]
    assert found.health is Health.ILL
    assert "extra `tracing`" in found.advice
