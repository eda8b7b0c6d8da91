"""A hundred messages a second over all channels: every one is answered, once.

More than one process may be able to keep up with; how long people wait is the bench's business.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from bench.channels import slack_echo, solemate
from bench.crowd import crowd
from bench.delivery import GOAL_RATE, MIX, MODEL_SECONDS
from bench.effort import QUICK
from bench.expert import Expert
from bench.loopback import in_child
from bench.stub_server import stub_server
from core.settings import at_root, load_settings

MESSAGES = 2 * GOAL_RATE
PATIENCE_SECONDS = 240.0


def expert(folder: Path) -> Expert:
    settings = load_settings(environment={})
    return Expert(settings, folder, QUICK, at_root(settings.model.expert))


async def test_at_a_hundred_a_second_nothing_is_lost_and_nothing_is_said_twice(
    tmp_path: Path,
) -> None:
    measured = expert(tmp_path)
    questions = measured.some_questions(MESSAGES)
    async with (
        in_child(partial(stub_server, MODEL_SECONDS)) as model_url,
        crowd() as people,
        in_child(partial(solemate, measured, people.platforms, model_url)) as address,
    ):
        outcome = await people.ask(
            people.people(questions, MIX),
            address,
            rate=GOAL_RATE,
            patience_seconds=PATIENCE_SECONDS,
        )
    assert len(questions) == MESSAGES
    assert (len(outcome.seconds), outcome.lost, outcome.twice) == (MESSAGES, 0, 0)


async def test_a_crowd_notices_what_a_bot_does_not_answer(tmp_path: Path) -> None:
    async with crowd() as people, in_child(partial(slack_echo, people.platforms)) as address:
        outcome = await people.ask(
            people.people(["canvas?"] * 4, ["slack", "telegram"]),
            address,
            rate=GOAL_RATE,
            patience_seconds=1.0,
            rated=False,
        )
    assert outcome.lost >= 2
