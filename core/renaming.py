"""Gives conversations other names, wherever the store has their names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from core.store import Store
from core.tables import conversations, inbox, pairs, photos, posts, starts, turns
from core.transactions import lock

# What has a conversation's name, or its place's, and what is there once for each.
_NAMED: tuple[tuple[sa.Column[str], tuple[str, ...]], ...] = (
    (turns.c.conversation_id, ("message_id",)),
    (photos.c.conversation_id, ("message_id", "position")),
    (inbox.c.conversation_id, ("message_id",)),
    (posts.c.conversation_id, ()),
    (posts.c.place, ("post_id",)),
    (starts.c.place, ("number",)),
    (pairs.c.conversation_id, ()),
)


@dataclass(frozen=True, slots=True)
class Renaming:
    """Which names are to change, and into what.

    They begin with `prefix`, and with none of `settled` (patterns of LIKE), which are as they are
    to be. `renamed` gets names of conversations and of places, and may return what it got.
    """

    prefix: str
    settled: tuple[str, ...]
    renamed: Callable[[str], str]

    def of(self, connection: Connection, column: sa.Column[str]) -> dict[str, str]:
        """The new name for each old one in a column."""
        which = (
            column.startswith(self.prefix, autoescape=True),
            *(column.not_like(pattern) for pattern in self.settled),
        )
        found = connection.execute(sa.select(column).distinct().where(*which)).scalars()
        return {old: new for old in found if (new := self.renamed(old)) != old}


async def rename_conversations(store: Store, renaming: Renaming) -> int:
    """Rename them everywhere; how many conversations there were.

    A row that is there under its new name already stays where it is.
    """
    done = await store.run(lambda connection: _rename(connection, renaming))
    await store.forget_rounds(done)
    return len(done)


def _rename(connection: Connection, renaming: Renaming) -> list[str]:
    lock(connection, f"names:{renaming.prefix}")
    names = renaming.of(connection, conversations.c.id)
    for old, new in names.items():
        _copy_conversation(connection, old, new)
    for column, keys in _NAMED:
        for old, new in renaming.of(connection, column).items():
            _move(connection, column, keys, old, new)
            if column is inbox.c.conversation_id:
                _rename_letters(connection, new)
    for old in names:
        rest = sa.exists().where(turns.c.conversation_id == old)
        connection.execute(sa.delete(conversations).where(conversations.c.id == old, ~rest))
    return list(names)


def _copy_conversation(connection: Connection, old: str, new: str) -> None:
    """Let the conversation be there under its new name, too: its turns hang on it."""
    others = [column for column in conversations.c if column is not conversations.c.id]
    there = sa.exists().where(conversations.c.id == new).correlate(None)
    row = sa.select(sa.literal(new), *others).where(conversations.c.id == old, ~there)
    names = ["id", *(column.name for column in others)]
    connection.execute(sa.insert(conversations).from_select(names, row))


def _move(
    connection: Connection, column: sa.Column[str], keys: Sequence[str], old: str, new: str
) -> None:
    table = column.table
    assert isinstance(table, sa.Table)
    update = sa.update(table).where(column == old).values({column.name: new})
    if keys:
        other = table.alias()
        same = [other.c[key] == table.c[key] for key in keys]
        update = update.where(~sa.exists().where(other.c[column.name] == new, *same))
    connection.execute(update)


def _rename_letters(connection: Connection, name: str) -> None:
    """Let messages in the inbox say the same as their rows."""
    query = sa.select(inbox.c.id, inbox.c.message).where(inbox.c.conversation_id == name)
    for row in connection.execute(query).all():
        # Of what is done only the key is left.
        if row.message:
            message = {**row.message, "conversation_id": name}
            connection.execute(sa.update(inbox).where(inbox.c.id == row.id).values(message=message))
