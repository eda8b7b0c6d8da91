"""The registry of trained adapters: immutable folders, and who of them answers people."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from core.audit import append
from core.errors import AdapterRejected, ConfigError, NotFound
from core.lora import CONFIG, WEIGHTS, check_adapter, digest_of
from core.messages import Adapter
from core.privacy import lock_words
from core.routes import Route, State, change_route, last_route, lock_routes, set_state
from core.store import Store
from core.tables import adapters, run_pairs, runs
from training.lineage import Taught, runs_with_erased, taught_in

MANIFEST = "manifest.json"
RETIRE_SECONDS = 30 * 86400.0
"""How long an adapter may still answer that was trained on what an erased person said.

One month is what the GDPR gives for an erasure (article 12, 3).
"""

_PREFIX = "shoes-v"


@dataclass(frozen=True, slots=True)
class NewAdapter:
    """What a training left, to be registered under a name of its own.

    `base` is the model it was trained on, `parent` who was live meanwhile. `manifest` says where it
    comes from: dataset, recipe, versions, the gate's figures.
    """

    run_id: str
    output: Path
    base: str
    parent: str
    manifest: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Registered:
    """An adapter that has a name for good; `flagged_at` is when somebody in its data was erased."""

    name: str
    run_id: str
    parent: str
    path: Path
    base: str
    digest: str
    manifest: Mapping[str, Any]
    state: State
    created_at: float
    flagged_at: float | None

    @property
    def adapter(self) -> Adapter:
        """What a model server is given."""
        return Adapter(self.name, self.path, self.base, self.digest)


@dataclass(frozen=True, slots=True)
class Lineage:
    """Where an adapter comes from: its run, and the pairs that are still there."""

    run: str
    stage: str
    why: str
    dataset: str
    pairs: tuple[Taught, ...]


class Adapters:
    """The registered adapters, and the route that says who of them answers."""

    def __init__(self, store: Store, folder: Path, default: str = "") -> None:
        """Each gets a folder in `folder`. `default` answers while no route was ever committed."""
        self._store = store
        self._folder = folder.absolute()
        self._default = default

    async def register(self, new: NewAdapter, *, who: str, now: float) -> Registered:
        """Copy a trained adapter into the registry; the same run again gives the same one.

        Only the configuration and the weights are taken along. Raises `AdapterRejected` where they
        are not what they have to be.
        """
        found = Adapter("", new.output, new.base)
        await asyncio.to_thread(check_adapter, found)
        digest = await asyncio.to_thread(digest_of, new.output)
        named = await self._store.run(lambda connection: self._name(connection, new, digest, now))
        if named.state != "copying":
            return named
        await asyncio.to_thread(_copy, new.output, named)

        def finish(connection: Connection) -> None:
            set_state(connection, [named.name], "ready")
            _note(connection, named, "copying", "ready", who=who, now=now)

        await self._store.run(finish)
        return replace(named, state="ready")

    async def all(self) -> list[Registered]:
        """Every one, the newest first."""
        query = sa.select(adapters).order_by(adapters.c.created_at.desc(), adapters.c.name.desc())
        rows = await self._store.run(lambda connection: connection.execute(query).all())
        return [_to_registered(row) for row in rows]

    async def get(self, name: str) -> Registered:
        """The adapter of this name; `NotFound` where there is none."""
        query = sa.select(adapters).where(adapters.c.name == name)
        row = await self._store.run(lambda connection: connection.execute(query).one_or_none())
        if row is None:
            raise NotFound(f"There is no adapter {name!r}. See `solemate adapters list`.")
        return _to_registered(row)

    async def lineage(self, registered: Registered) -> Lineage:
        """The run of an adapter and its pairs; those of erased people are gone."""

        def work(connection: Connection) -> Lineage:
            run = connection.execute(
                sa.select(runs).where(runs.c.id == registered.run_id)
            ).one_or_none()
            taught = taught_in(connection, registered.run_id)
            if run is None:
                return Lineage(registered.run_id, "", "", "", taught)
            return Lineage(run.id, run.stage, run.why, run.dataset, taught)

        return await self._store.run(work)

    async def route(self) -> Route:
        """Who answers."""
        return await self._store.run(self.current)

    async def promote(self, name: str, *, who: str, now: float, why: str = "by hand") -> Route:
        """Let an adapter answer everybody; the route from now on.

        Raises `AdapterRejected` for one that somebody's erasure has flagged.
        """
        return await self._store.run(
            lambda connection: self.promote_in(connection, name, who=who, why=why, now=now)
        )

    async def roll_back(self, *, who: str, now: float, why: str = "by hand") -> Route:
        """End the canary, or where there is none put back who was live before.

        Raises `ConfigError` where there is nothing to go back to.
        """
        return await self._store.run(
            lambda connection: self.roll_back_in(connection, who=who, why=why, now=now)
        )

    async def try_out(self, name: str, share: float, *, who: str, now: float) -> Route:
        """Let an adapter answer this share of people as a canary."""
        return await self._store.run(
            lambda connection: self.try_out_in(
                connection, name, share, who=who, why="begun", now=now
            )
        )

    async def retire_flagged(self, *, now: float) -> list[str]:
        """Take adapters out whose data was erased a month ago, with their files; their names."""

        def work(connection: Connection) -> list[Registered]:
            lock_routes(connection)
            query = sa.select(adapters).where(adapters.c.flagged_at <= now - RETIRE_SECONDS)
            due = [_to_registered(row) for row in connection.execute(query)]
            for one in due:
                if one.state != "erased":
                    self._leave(connection, one.name, now)
                    set_state(connection, [one.name], "erased")
                    _note(connection, one, one.state, "erased", who="erasure", now=now)
            return due

        due = await self._store.run(work)
        for one in due:
            # Also what an earlier call was killed before.
            await asyncio.to_thread(shutil.rmtree, one.path, True)
        return [one.name for one in due if one.state != "erased"]

    def current(self, connection: Connection) -> Route:
        """The route that counts, for whoever is in a transaction already."""
        return last_route(connection) or Route(self._default)

    def flagged_in(self, connection: Connection, name: str) -> bool:
        """Whether somebody whose words it was trained on has been erased since."""
        flagged = sa.select(adapters.c.flagged_at).where(adapters.c.name == name)
        return connection.execute(flagged).scalar() is not None

    def promote_in(
        self, connection: Connection, name: str, *, who: str, why: str, now: float
    ) -> Route:
        """`promote` in a transaction that is under way."""
        lock_routes(connection)
        before = self.current(connection)
        self._check_usable(connection, name)
        if name == before.live and not before.canary:
            return before
        after = before.promoting(name)
        set_state(connection, [before.live, before.canary], "retired")
        set_state(connection, [name], "live")
        change_route(connection, before, after, subject=name, who=who, why=why, now=now)
        return after

    def roll_back_in(self, connection: Connection, *, who: str, why: str, now: float) -> Route:
        """`roll_back` in a transaction that is under way."""
        lock_routes(connection)
        before = self.current(connection)
        # Without an adapter of the settings, the base model itself was live before the first one.
        first = before.previous == "" and (self._default or not before.live)
        if first and not before.canary:
            raise ConfigError(
                f"There is nothing to go back to: {before.live or 'the base model'} is live, and "
                "nobody was before. Promote another with `solemate adapters promote NAME`."
            )
        bad, after = before.canary or before.live, before.back()
        set_state(connection, [bad], "rolled_back")
        set_state(connection, [after.live], "live")
        change_route(connection, before, after, subject=bad, who=who, why=why, now=now)
        return after

    def try_out_in(
        self, connection: Connection, name: str, share: float, *, who: str, why: str, now: float
    ) -> Route:
        """`try_out` in a transaction that is under way."""
        lock_routes(connection)
        before = self.current(connection)
        self._check_usable(connection, name)
        if before.canary and before.canary != name:
            raise ConfigError(
                f"{before.canary!r} is being tried already. Promote it or roll it back first."
            )
        if name == before.live:
            raise ConfigError(f"{name!r} is live: there is nothing to try.")
        after = before.trying(name, share)
        if after == before:
            return before
        set_state(connection, [name], "canary")
        change_route(connection, before, after, subject=name, who=who, why=why, now=now)
        return after

    def _name(self, connection: Connection, new: NewAdapter, digest: str, now: float) -> Registered:
        """The run's adapter, or a new one with the next number, whose files are not there yet."""
        # Whoever is erased from here on has the adapter flagged by that.
        lock_words(connection)
        lock_routes(connection)
        known = connection.execute(
            sa.select(adapters).where(adapters.c.run_id == new.run_id, adapters.c.digest == digest)
        ).first()
        if known is not None:
            return _to_registered(known)
        names = connection.execute(sa.select(adapters.c.name)).scalars()
        numbers = [int(found[1]) for name in names if (found := re.fullmatch(r"\D+(\d+)", name))]
        name = f"{_PREFIX}{max(numbers, default=0) + 1}"
        row = {
            "name": name,
            "run_id": new.run_id,
            "parent": new.parent,
            "path": str(self._folder / name),
            "base": new.base,
            "digest": digest,
            "manifest": {
                "name": name,
                "run": new.run_id,
                "parent": new.parent,
                "base": new.base,
                "digest": digest,
                "created_at": now,
                **new.manifest,
            },
            "state": "copying",
            "created_at": now,
            "flagged_at": now if _holds_erased(connection, new.run_id) else None,
        }
        connection.execute(sa.insert(adapters).values(row))
        return _to_registered(
            connection.execute(sa.select(adapters).where(adapters.c.name == name)).one()
        )

    def _check_usable(self, connection: Connection, name: str) -> None:
        if name in ("", self._default):
            return
        row = connection.execute(sa.select(adapters).where(adapters.c.name == name)).one_or_none()
        if row is None or row.state == "copying":
            raise NotFound(f"There is no adapter {name!r}. See `solemate adapters list`.")
        if row.flagged_at is not None:
            raise AdapterRejected(
                f"{name!r} was trained on words of somebody who has been erased since. Promote "
                "another, or train a new one."
            )

    def _leave(self, connection: Connection, name: str, now: float) -> None:
        """Route people away from an adapter, back to the one before or to the default."""
        before = self.current(connection)
        after = before
        if after.canary == name:
            after = after.back()
        if after.previous == name:
            after = replace(after, previous="")
        if after.live == name:
            after = replace(after, live=after.previous or self._default, previous="")
        if after != before:
            change_route(
                connection, before, after, subject=name, who="erasure", why="erased", now=now
            )


def check_whole(registered: Registered) -> None:
    """Raise `AdapterRejected` unless folder and manifest are as they were registered."""
    check_adapter(registered.adapter)
    file = registered.path / MANIFEST
    try:
        manifest = json.loads(file.read_bytes())
    except (OSError, ValueError) as exc:
        raise AdapterRejected(f"{str(file)!r} cannot be read: {exc}.") from exc
    if manifest != json.loads(json.dumps(registered.manifest)):
        raise AdapterRejected(f"{str(file)!r} is not the manifest of {registered.name!r}.")


def _copy(output: Path, registered: Registered) -> None:
    """Put the files in their place whole or not at all, never to be written again."""
    place = registered.path
    # It takes its place whole, so that a manifest there means that all is there.
    if (place / MANIFEST).exists() and digest_of(place) == registered.digest:
        return
    shutil.rmtree(place, ignore_errors=True)
    fresh = place.with_name(f".{uuid.uuid4().hex}")
    fresh.mkdir(parents=True)
    try:
        for name in (CONFIG, WEIGHTS):
            shutil.copyfile(output / name, fresh / name, follow_symlinks=False)
        manifest = json.dumps(registered.manifest, indent=1, ensure_ascii=False)
        (fresh / MANIFEST).write_text(manifest, "utf-8")
        for file in fresh.iterdir():
            file.chmod(0o444)
            _sync(file)
        _sync(fresh)
        if digest_of(fresh) != registered.digest:
            raise AdapterRejected(f"{str(output)!r} changed while it was copied. Try again.")
        fresh.rename(place)
        _sync(place.parent)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _sync(path: Path) -> None:
    """Have the disk keep what was written, before anybody relies on it."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _note(
    connection: Connection,
    registered: Registered,
    before: str,
    after: str,
    *,
    who: str,
    now: float,
) -> None:
    append(
        connection,
        who=who,
        subject=registered.name,
        before=before,
        after=after,
        at=now,
        detail={"run": registered.run_id, "digest": registered.digest},
    )


def _holds_erased(connection: Connection, run_id: str) -> bool:
    query = runs_with_erased().where(run_pairs.c.run_id == run_id)
    return connection.execute(query).first() is not None


def _to_registered(row: Any) -> Registered:
    return Registered(
        name=row.name,
        run_id=row.run_id or "",
        parent=row.parent or "",
        path=Path(row.path),
        base=row.base,
        digest=row.digest,
        manifest=row.manifest,
        state=row.state,
        created_at=row.created_at,
        flagged_at=row.flagged_at,
    )
