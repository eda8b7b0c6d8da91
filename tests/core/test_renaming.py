"""Conversations get other names: nothing is lost, and nothing is left under the old ones."""

from __future__ import annotations

import itertools

from core.inbox import Inbox
from core.messages import Feedback, Outcome, Platform, Rating, Reply, Turn, UserMessage
from core.posts import Post, Posts
from core.renaming import Renaming, rename_conversations
from core.store import Store
from core.tables import metadata

OLD, NEW, OTHER = "t:1:7", "t:1:x", "t:1:-9:0:0"
RENAMING = Renaming("t:", ("t:%:x%", "t:%:-%"), lambda name: name.replace(OLD, NEW))


_numbers = itertools.count(1)


def turn_of(conversation: str, message: str) -> Turn:
    """A turn whose question was asked after all others."""
    number = next(_numbers)
    return Turn(
        reply=Reply(f"r{number}", conversation, "An answer.", Outcome.ANSWERED, "en"),
        message_id=message,
        user_id="ann",
        platform=Platform.TELEGRAM,
        question="canvas?",
        query="canvas?",
        prompt=(),
        passages=(),
        sampling={},
        asked_at=float(number),
    )


async def everything(store: Store) -> str:
    """All rows there are, as one text."""
    return await store.run(
        lambda connection: str(
            [connection.execute(table.select()).all() for table in metadata.sorted_tables]
        )
    )


async def test_a_renamed_conversation_keeps_all_it_has(store: Store) -> None:
    inbox, posts = Inbox(store, owner="me", depth=5), Posts(store)
    conversation = f"{OLD}:0:5"
    await store.start_anew(f"{OLD}:0", 5)
    turn = turn_of(conversation, "m1")
    await store.add_turn(turn, [b"jpeg"])
    await store.add_turn(turn_of(OTHER, "m1"))
    await posts.add(conversation, "m1", Post(OLD, "99"))
    await store.add_feedback(Feedback(turn.reply.id, "ann", Rating.DOWN))
    await inbox.put(UserMessage("m2", Platform.TELEGRAM, conversation, "ann", "canvas?"))

    assert await rename_conversations(store, RENAMING) == 1
    assert OLD not in await everything(store)
    renamed = f"{NEW}:0:5"
    assert [turn.message_id for turn in await store.history(renamed, rounds=9)] == ["m1"]
    assert await store.photos_of(renamed, "m1") == [b"jpeg"]
    assert len(await store.history(OTHER, rounds=9)) == 1
    assert await posts.reply_of(NEW, "99", "answer") == turn.reply.id
    assert await store.last_start(f"{NEW}:0", 6) == 5
    assert await store.verdict(turn.reply.id, "ann") is not None
    letter = await inbox.lease()
    assert letter is not None
    assert letter.message.conversation_id == renamed
    assert await rename_conversations(store, RENAMING) == 0


async def test_what_came_under_both_names_is_there_under_both(store: Store) -> None:
    old, new = f"{OLD}:0:0", f"{NEW}:0:0"
    for name, message in ((old, "m1"), (new, "m1"), (old, "m2")):
        await store.add_turn(turn_of(name, message))
    await rename_conversations(store, RENAMING)
    assert [turn.message_id for turn in await store.history(new, rounds=9)] == ["m1", "m2"]
    assert [turn.message_id for turn in await store.history(old, rounds=9)] == ["m1"]
