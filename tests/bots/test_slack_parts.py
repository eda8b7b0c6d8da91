"""Slack's parts by themselves: what is alive in a text, where a token goes, who is welcome."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from bots.courier import Courier, Unreachable, Wait
from bots.slack.files import origin_of, origins_for
from bots.slack.people import Guests
from bots.slack.text import NO_WIDTH, escaped, plain, rendered, so_far
from core.corrections import Correction, Fate, corrections_of
from core.messages import (
    Feedback,
    Outcome,
    Platform,
    Rating,
    Reply,
    Source,
    UserMessage,
)
from core.tables import pairs
from tests.bots.desks import learn, open_desk
from tests.bots.injections import INJECTIONS

ROOT = Path(__file__).resolve().parents[2]
# What Slack would follow: anything in angle brackets, an emoji's name, a link, an address.
ALIVE = re.compile(
    r"<|>|:[a-z0-9_+-]+:|(?<!\\)\]\(|https?://|www\.|@(?:here|channel|everyone)", re.IGNORECASE
)


def answer(text: str, *sources: Source) -> Reply:
    return Reply("r", "c", text, Outcome.ANSWERED, "en", sources=sources)


def shown(text: str, *sources: Source) -> str:
    return "\n\n".join(rendered(answer(text, *sources)))


def streamed(text: str, cuts: list[int]) -> str:
    """What a stream shows of a text that comes in pieces cut here, its whole at last."""
    out = ""
    for cut in sorted(cuts):
        more = so_far(text[:cut], "en")
        assert more.startswith(out)
        out = more
    return out


@pytest.mark.parametrize("text", INJECTIONS)
def test_nothing_the_model_says_is_alive(text: str) -> None:
    assert ALIVE.findall(shown(text)) == []
    assert ALIVE.findall(escaped(text)) == [] or "://" in text or "www." in text


@pytest.mark.parametrize("text", INJECTIONS)
def test_nothing_comes_alive_in_a_stream_wherever_it_is_cut(text: str) -> None:
    text = f"Well, {text} and so on. "
    for cut in range(len(text) + 1):
        assert ALIVE.findall(so_far(text[:cut], "en")) == []


# Pieces that texts are made of, so that marks meet each other often.
PIECES = st.sampled_from(
    [*"ab *_`~[]()<>&!#:@-\n", "**", "```", "```\n", "帆布", "：", "https://", ".com", "x ", "\n\n"]
)


@settings(max_examples=100, deadline=None)
@given(st.lists(PIECES, max_size=40).map("".join), st.lists(st.integers(0, 120), max_size=5))
def test_a_stream_only_ever_grows_into_the_whole(text: str, cuts: list[int]) -> None:
    out = streamed(text, cuts)
    assert ALIVE.findall(out) == []
    if text.strip():
        assert shown(text).startswith(out)


def test_an_answer_of_nothing_but_marks_can_be_shown() -> None:
    assert shown("![](https://evil.example/p.png)") == "…"


def test_styles_become_slacks_markdown() -> None:
    text = "## Care\n- **brush**\n- dry\n\n`a < b` 2 * 3 snake_case"
    assert shown(text) == "**Care**\n• **brush**\n• dry\n\n`a &lt; b` 2 \\* 3 snake\\_case"


def test_bold_ends_where_commonmark_sees_it() -> None:
    assert shown("**注意：**不要暴晒") == "**注意**：不要暴晒"


def test_an_address_is_shown_where_a_used_passage_has_it() -> None:
    source = Source("1", "Care", "Read https://shop.example/care?a=1 first.", "ours")
    text = shown("See https://shop.example/care?a=1. Not https://shop.example/other.", source)
    assert "https://shop.example/care?a=1." in text
    assert "other" not in text
    assert "(link left out)." in text


def test_numbers_and_abbreviations_are_no_addresses() -> None:
    text = "25.5 cm, e.g. size 8.5, v1.2, Dr.Martens, shoes.Dry them"
    assert shown(text) == text


def test_sources_are_quoted_and_as_dead_as_the_rest() -> None:
    source = Source("1", "<!channel> care", "…", "file:tada:.md")
    assert shown("Wash.", source).splitlines()[2:] == [
        "> Sources (1)",
        f"> • &lt;!channel&gt; care · file:{NO_WIDTH}tada:.md",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<@UBOT> canvas?", "canvas?"),
        ("Hi <@U2|ben>, <#C1|general> <!here>", "Hi ben, general @here"),
        ("<https://a.b/c|this> &lt;3 &amp;lt;", "this <3 &lt;"),
        ("<https://a.b/c>", "https://a.b/c"),
        ("<!subteam^S1|@team> ok", "@team ok"),
    ],
)
def test_what_people_write_is_read_as_they_see_it(text: str, words: str) -> None:
    assert plain(text, "UBOT") == words


@pytest.mark.parametrize(
    ("address", "trusted"),
    [
        ("https://files.slack.com/files-pri/T1-F1/a.jpg", True),
        ("https://files-origin.slack.com/a.jpg", True),
        ("https://files.slack.com:443/a.jpg", True),
        ("http://files.slack.com/a.jpg", False),
        ("https://files.slack.com:8443/a.jpg", False),
        ("https://files.slack.com.evil.example/a.jpg", False),
        ("https://evil.example/files.slack.com", False),
        ("https://evil-files.slack.com/a.jpg", False),
        ("https://files.slack.com@evil.example/a.jpg", False),
        ("https://evil.example\\@files.slack.com/a.jpg", False),
        ("https://someone@files.slack.com/a.jpg", False),
        ("https://169.254.169.254/latest", False),
        ("file:///etc/passwd", False),
        ("https://files.slack.com:port/", False),
        ("//files.slack.com/a.jpg", False),
        ("", False),
    ],
)
def test_the_token_goes_to_slacks_file_hosts_alone(address: str, trusted: bool) -> None:
    assert (origin_of(address) in origins_for("https://slack.com/api/")) is trusted


def test_with_empty_lists_everybody_is_welcome() -> None:
    assert Guests().welcome("U1", "T1", "C1")


def test_lists_name_workspaces_and_channels() -> None:
    guests = Guests(frozenset({"T1"}), frozenset({"C1"}), frozenset({"UOP"}))
    assert guests.welcome("U1", "T1", "C1")
    assert guests.welcome("U1", "T1", "D1")
    assert not guests.welcome("U1", "T1", "C2")
    assert not guests.welcome("U1", "T2", "C1")
    assert not guests.welcome("U1", "T2", "D1")
    assert guests.welcome("UOP", "T2", "C2")


class Trouble(Exception):
    def __init__(self, meaning: Wait | Unreachable | None) -> None:
        super().__init__()
        self.meaning = meaning


def courier(slept: list[float]) -> Courier:
    now = [0.0]

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    return Courier(
        lambda exc: exc.meaning if isinstance(exc, Trouble) else None,
        sleep=sleep,
        clock=lambda: now[0],
    )


async def test_what_may_have_arrived_is_not_sent_again() -> None:
    async def call() -> None:
        calls.append(1)
        raise Trouble(Unreachable(arrived=True))

    calls: list[int] = []
    with pytest.raises(Trouble):
        await courier([]).deliver("lane", call, repeatable=False)
    assert len(calls) == 1


async def test_an_offer_is_dropped_in_a_lane_that_waits_and_only_there() -> None:
    async def busy() -> None:
        raise Trouble(Wait(9))

    async def fine() -> str:
        return "done"

    patient = courier([])
    assert await patient.offer("a", busy) is None
    assert await patient.offer("a", fine) is None
    assert await patient.offer("b", fine) == "done"


async def test_a_delivery_waits_as_long_as_it_is_told() -> None:
    async def call() -> str:
        if answers:
            raise answers.pop()
        return "done"

    answers, slept = [Trouble(Wait(9)), Trouble(Wait(7))], list[float]()
    assert await courier(slept).deliver("a", call, repeatable=False) == "done"
    assert slept == [7, 9]


async def test_a_correction_has_the_fate_of_its_pair(tmp_path: Path) -> None:
    message = UserMessage("m", Platform.SLACK, "slack:T:D:1", "slack:ann", "canvas?")
    async with open_desk(tmp_path) as desk:
        [*_, done] = [event async for event in desk.engine.answer(message)]
        reply = done.reply  # type: ignore[union-attr]
        for text in ("Soak them.", "Brush them."):
            feedback = Feedback(reply.id, "slack:ann", Rating.DOWN, correction=text)
            await desk.engine.rate(feedback)

        async def fate() -> list[Correction]:
            return await corrections_of(desk.store, "slack:ann", limit=5)

        assert await fate() == [Correction("canvas?", "Brush them.", Fate.NOTED)]
        pair = {
            "id": "p",
            "reply_id": reply.id,
            "user_id": "slack:ann",
            "conversation_id": reply.conversation_id,
            "origin": "correction",
            "prompt": [],
            "passages": [],
            "chosen": "Brush them.",
            "rejected": reply.text,
            "adapter": "",
            "language": "en",
            "state": "accepted",
            "refusal": "",
            "accepted_by": [],
            "created_at": 1.0,
        }
        await desk.store.run(lambda connection: connection.execute(pairs.insert().values(pair)))
        assert [one.fate for one in await fate()] == [Fate.ACCEPTED]
        await learn(desk.store, "p")
        assert [one.fate for one in await fate()] == [Fate.LIVE]


def test_the_manifest_asks_for_what_is_used_and_for_no_more() -> None:
    manifest = yaml.safe_load((ROOT / "deploy" / "slack" / "manifest.yaml").read_text("utf-8"))
    assert set(manifest["oauth_config"]["scopes"]["bot"]) == {
        "app_mentions:read",
        "assistant:write",
        "channels:history",
        "chat:write",
        "files:read",
        "groups:history",
        "im:history",
        "mpim:history",
        "reactions:read",
        "users:read",
    }
    assert set(manifest["settings"]["event_subscriptions"]["bot_events"]) == {
        "app_home_opened",
        "app_mention",
        "message.channels",
        "message.groups",
        "message.im",
        "message.mpim",
        "reaction_added",
        "reaction_removed",
    }
    home = manifest["features"]["app_home"]
    assert home["home_tab_enabled"]
    assert home["messages_tab_enabled"]
    assert not home["messages_tab_read_only_enabled"]
    assert manifest["settings"]["interactivity"]["is_enabled"]
