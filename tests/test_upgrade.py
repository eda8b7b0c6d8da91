"""A database of another version: who refuses it, who upgrades it, and what is kept before."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from core.backup import KEPT_UPGRADES, Place, back_up, check_backup
from core.database import newest_revision
from core.errors import StoreError
from core.opening import open_store
from core.restore import restore
from core.settings import Settings, load_settings
from solemate import app
from tests.core.old_tables import make_newer_tables, make_older_tables, state_of

ROOT = Path(__file__).parents[1]
COMMANDS = [
    ("runs", "list"),
    ("adapters", "list"),
    ("pairs", "list"),
    ("inbox", "dead"),
    ("person", "export", "web:ann"),
    ("ask", "How do I wash canvas shoes?"),
]


def settings_of(folder: Path, url: str) -> Settings:
    own = {"SOLEMATE__DATABASE__FOLDER": str(folder / "state"), "SOLEMATE__DATABASE__URL": url}
    return load_settings(environment=own)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    ("make", "says"),
    [(make_older_tables, "`solemate up` backs"), (make_newer_tables, "Upgrade the program")],
    ids=["older", "newer"],
)
def test_a_command_refuses_tables_of_another_version_and_leaves_them(
    make: object, says: str, words: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(make)
    url = f"sqlite:///{tmp_path}/s.db"
    asyncio.run(make(url))
    before = state_of(url)
    own = {"DATABASE__FOLDER": str(tmp_path), "DATABASE__URL": url, "LOGGING__FILE": ""}
    # Nobody is running there.
    own |= {"WEB__PORT": "9", "MODEL__BASE_URL": "http://127.0.0.1:9/v1"}
    # Its handlers would outlive the streams of this test.
    monkeypatch.setattr("core.opening.configure_logs", lambda *_: None)
    for name, value in own.items():
        monkeypatch.setenv(f"SOLEMATE__{name}", value)
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, StoreError), done.output
    assert says in str(done.exception)
    assert state_of(url) == before


@pytest.mark.parametrize("version", ["-1", "0001"])
async def test_the_start_upgrades_older_tables_and_keeps_them_in_a_backup(
    tmp_path: Path, store_url: str, version: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await make_older_tables(store_url, version)
    old = state_of(store_url)
    settings = settings_of(tmp_path, store_url)
    async with open_store(settings, upgrade=True):
        pass
    (kept,) = (settings.state / "backups").iterdir()
    assert check_backup(kept).revision == old[0]
    assert state_of(store_url) == (newest_revision(), old[1])
    said = " ".join(capsys.readouterr().err.split())
    assert "of an older solemate, and are upgraded" in said
    async with open_store(settings, upgrade=True):
        pass
    assert list((settings.state / "backups").iterdir()) == [kept]


async def test_an_upgrade_that_fails_at_each_start_does_not_fill_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    await make_older_tables(url)
    settings, old, moments = settings_of(tmp_path, url), state_of(url), itertools.count(2e9)
    monkeypatch.setattr("core.backup.time.time", lambda: next(moments))

    def fail(*_: object) -> None:
        raise StoreError("The upgrade broke.")

    monkeypatch.setattr("core.database.command.upgrade", fail)
    for _ in range(KEPT_UPGRADES + 2):
        with pytest.raises(StoreError, match="broke"):
            async with open_store(settings, upgrade=True):
                pass
    kept = list((settings.state / "backups").iterdir())
    assert len(kept) == KEPT_UPGRADES
    assert {check_backup(file).revision for file in kept} == {old[0]}


async def test_a_postgresql_that_cannot_be_dumped_is_upgraded_with_a_warning(
    tmp_path: Path,
    postgres_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    await make_older_tables(postgres_url)
    monkeypatch.setenv("PATH", "")
    async with open_store(settings_of(tmp_path, postgres_url), upgrade=True):
        pass
    assert state_of(postgres_url)[0] == newest_revision()
    assert "without a backup: pg_dump is not installed" in " ".join(capsys.readouterr().err.split())


async def test_newer_tables_are_refused_at_the_start(tmp_path: Path, store_url: str) -> None:
    await make_newer_tables(store_url)
    with pytest.raises(StoreError, match="of a newer solemate"):
        async with open_store(settings_of(tmp_path, store_url), upgrade=True):
            pass
    assert not (tmp_path / "state").exists()


# Ends the process before the statement of that number; prints how many there were.
KILLED = """
import os, sys
import sqlalchemy as sa
from core.database import migrate, open_database

url, last = sys.argv[1], int(sys.argv[2])
engine, count = open_database(sa.make_url(url)), 0

def before(*_):
    global count
    count += 1
    if count == last:
        os._exit(9)

sa.event.listen(engine, "before_cursor_execute", before)
migrate(engine, lambda: None)
print(count)
"""


def upgraded_until(url: str, last: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", KILLED, url, str(last)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.nightly), 17])
async def test_an_upgrade_that_is_killed_is_undone_and_done_by_the_next_start(
    store_url: str, step: int
) -> None:
    await make_older_tables(store_url, "0001")
    last = 2
    while (done := upgraded_until(store_url, last)).returncode == 9:
        assert state_of(store_url) == ("0001", 1)
        last += step
    assert done.returncode == 0, done.stderr
    assert last > 2
    assert state_of(store_url) == (newest_revision(), 1)


async def test_a_restored_backup_of_an_older_version_is_upgraded(
    tmp_path: Path, store_url: str
) -> None:
    await make_older_tables(store_url)
    place = Place(store_url, tmp_path / "state")
    made = await back_up(place, tmp_path / "backups")
    await restore(place, made.file)
    assert state_of(store_url) == (newest_revision(), 1)
