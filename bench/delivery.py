"""Messages on Telegram, Slack and the web at once, and what one costs beside a bare echo bot.

The platforms are the ones that the tests use; people ask whether or not they are kept up with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial

from bench.channels import Platforms, slack_echo, solemate, telegram_echo
from bench.crowd import Channel, Crowd, Outcome, crowd
from bench.expert import Expert
from bench.figures import Figure, Goal, median, percentile
from bench.loopback import in_child
from bench.stub_server import stub_server

PART = "delivery"
MODEL_SECONDS = 0.5
GOAL_RATE = 100
# Telegram takes 30 messages a second of one bot.
MIX: tuple[Channel, ...] = ("telegram", "web", "slack", "web")
ECHOES: Mapping[Channel, Callable[[Platforms], AbstractAsyncContextManager[str]]] = {
    "telegram": telegram_echo,
    "slack": slack_echo,
}
_PATIENCE_SECONDS = 60.0
_CALM_RATE = 10.0


async def measure(expert: Expert) -> list[Figure]:
    """The cost of a message on each platform, and what becomes of many a second in one process."""
    figures: list[Figure] = []
    async with (
        in_child(partial(stub_server, MODEL_SECONDS)) as model_url,
        crowd() as people,
        in_child(partial(solemate, replace(expert), people.platforms, model_url)) as address,
    ):
        ours = {}
        for channel in ECHOES:
            outcome, ours[channel] = await _calm(expert, people, address, channel, rated=True)
            if channel == "slack":
                figures.append(_taken(outcome))
        for rate in expert.effort.rates:
            questions = _questions(expert, rate * expert.effort.crowd_seconds)
            figures += _figures(rate, *await _ask(people, address, questions, MIX, rate))
    for channel, echo in ECHOES.items():
        async with crowd() as people, in_child(partial(echo, people.platforms)) as address:
            _, theirs = await _calm(expert, people, address, channel, rated=False)
        what = f"{channel}: processor time a message"
        figures += [
            Figure(PART, what, 1000 * ours[channel], "ms"),
            Figure(PART, f"{what}, a bare echo bot", 1000 * theirs, "ms"),
            Figure(PART, f"{what} / a bare echo bot's", ours[channel] / theirs, "×"),
        ]
    return figures


async def _calm(
    expert: Expert, people: Crowd, address: str, channel: Channel, *, rated: bool
) -> tuple[Outcome, float]:
    """What becomes of messages where nobody waits for anybody, and the processor's seconds each."""
    warm_up = _questions(expert, expert.effort.warm_up)
    await _ask(people, address, warm_up, [channel], _CALM_RATE, rated=rated)
    questions = _questions(expert, expert.effort.calm_messages)
    outcome, seconds = await _ask(people, address, questions, [channel], _CALM_RATE, rated=rated)
    assert not outcome.lost, f"{outcome.lost} of {len(questions)} were lost in a calm"
    return outcome, seconds


async def _ask(
    people: Crowd,
    address: str,
    questions: Sequence[str],
    channels: Sequence[Channel],
    rate: float,
    *,
    rated: bool = True,
) -> tuple[Outcome, float]:
    """What becomes of the questions, and the seconds on the processor that each took."""
    asking = people.people(questions, channels)
    before = await people.processor_seconds(address)
    outcome = await people.ask(
        asking, address, rate=rate, patience_seconds=_PATIENCE_SECONDS, rated=rated
    )
    return outcome, (await people.processor_seconds(address) - before) / len(questions)


def _taken(outcome: Outcome) -> Figure:
    """Slack sends again what is not acknowledged within three seconds."""
    milliseconds = [1000 * seconds for seconds in outcome.taken_seconds]
    return Figure(PART, "slack: acknowledged, p99", percentile(milliseconds, 0.99), "ms", Goal(300))


def _questions(expert: Expert, number: int) -> list[str]:
    return [expert.questions[place % len(expert.questions)] for place in range(number)]


def _figures(rate: int, outcome: Outcome, processor_seconds: float) -> list[Figure]:
    what = f"{rate} messages a second"
    seconds = outcome.seconds or [float("inf")]
    goal = Goal(2) if rate == GOAL_RATE else None
    return [
        Figure(PART, f"{what}: answered, p50", median(seconds), "s"),
        Figure(PART, f"{what}: answered, p95", percentile(seconds, 0.95), "s", goal),
        Figure(PART, f"{what}: lost", outcome.lost, "", Goal(0)),
        Figure(PART, f"{what}: answered twice", outcome.twice, "", Goal(0)),
        Figure(PART, f"{what}: processor time each", 1000 * processor_seconds, "ms"),
    ]
