"""Posts: what was shown where comes back in order, and a later one stands for a lost one."""

import pytest

from core.posts import Post, Posts
from core.store import Store
from tests.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)


@pytest.fixture
def posts(store: Store, clock: Clock) -> Posts:
    return Posts(store, clock=clock)


async def test_an_answers_posts_come_back_in_order(posts: Posts) -> None:
    for post in (
        Post("chat", "9", position=1),
        Post("chat", "8"),
        Post("chat", "10", "correction"),
    ):
        await posts.add("c1", "m1", post)
    assert await posts.of("c1", "m1") == [Post("chat", "8"), Post("chat", "9", position=1)]
    assert await posts.of("c1", "m1", "correction") == [Post("chat", "10", "correction")]
    assert await posts.of("c1", "m2") == []


async def test_a_post_that_was_sent_anew_stands_for_the_lost_one(
    posts: Posts, clock: Clock
) -> None:
    await posts.add("c1", "m1", Post("chat", "8"))
    clock.now += 1
    await posts.add("c1", "m1", Post("chat", "9"))
    assert await posts.of("c1", "m1") == [Post("chat", "9")]
    assert await posts.knows("chat", "8")


async def test_what_is_forgotten_is_not_known(posts: Posts) -> None:
    await posts.add("c1", "m1", Post("chat", "8"))
    await posts.forget("c1", "m1")
    assert await posts.of("c1", "m1") == []
    assert not await posts.knows("chat", "8")
