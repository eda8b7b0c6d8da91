"""Forty requests of all sorts: exactly those that Slack has signed just now are taken."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from core.tables import inbox
from tests.bots.slack_fake import FakeSlack, Json
from tests.bots.slack_world import opened, running

WORDS = "words-that-nobody-may-log"
SIGNATURE, TIMESTAMP = "X-Slack-Signature", "X-Slack-Request-Timestamp"

Request = tuple[bytes, dict[str, str | bytes]]


def signed(fake: FakeSlack, age: float = 0.0, **options: str) -> Request:
    body: Json = fake.message(WORDS)
    return fake.signed(body, time.time() - age, **options)


def other(request: Request, header: str, value: str | bytes | None) -> Request:
    """The request with another header, or without it."""
    body, headers = request
    rest = {name: old for name, old in headers.items() if name != header}
    return body, rest if value is None else rest | {header: value}


def good(fake: FakeSlack) -> Iterator[Request]:
    for age in (0, 1, 60, 240, -1, -60, -240):
        yield signed(fake, age)
    body, headers = signed(fake)
    yield body, {name.lower(): value for name, value in headers.items()}


def bad(fake: FakeSlack) -> Iterator[Request]:
    for age in (301, 3600, 1e9, -600, -3600, -1e9):
        yield signed(fake, age)
    for moment in ("soon", "1e9", "1.5", "-1", "0", "", "nan", "inf", "0x5f", "1_0", "9" * 400):
        yield other(signed(fake), TIMESTAMP, moment)
    yield other(signed(fake), TIMESTAMP, "١٢٣".encode())
    yield other(signed(fake), TIMESTAMP, None)
    mac = str(signed(fake)[1][SIGNATURE])
    for signature in ("", "v0=", "v0=" + "0" * 64, "0" * 64, f"{mac}0", "v0=é".encode(), b"\xff"):
        yield other(signed(fake), SIGNATURE, signature)
    yield other(signed(fake), SIGNATURE, None)
    request = signed(fake)
    right = str(request[1][SIGNATURE])
    for forged in (right[:-1], right.removeprefix("v0="), right.replace("v0", "v1"), right.upper()):
        yield other(request, SIGNATURE, forged)
    yield other(request, TIMESTAMP, str(int(str(request[1][TIMESTAMP])) + 1))
    yield signed(fake, secret="somebody-elses")
    yield request[0] + b" ", request[1]
    yield b"", request[1]
    yield b"\xff\xfe", request[1]


async def test_exactly_what_slack_has_signed_just_now_is_taken(tmp_path: Path) -> None:
    async with (
        FakeSlack().serving() as fake,
        opened(tmp_path, fake, mode="http") as world,
        running(world, answering=False),
    ):
        valid, invalid = list(good(fake)), list(bad(fake))
        with capture_logs() as logged:
            statuses = [(await world.post(*one)).status_code for one in invalid]
            assert await world.rows(inbox.c.message_id) == []
            taken = [(await world.post(*one)).status_code for one in valid]
        stored = await world.rows(inbox.c.message_id)
    assert len(valid) + len(invalid) >= 40
    assert statuses == [401] * len(invalid)
    assert taken == [200] * len(valid)
    assert len(stored) == len(valid)
    assert WORDS not in str(logged)
    assert [line for line in logged if line.get("exc_info")] == []


@pytest.mark.parametrize("header", [SIGNATURE, TIMESTAMP])
async def test_a_header_that_comes_twice_is_nobodys(tmp_path: Path, header: str) -> None:
    async with FakeSlack().serving() as fake, opened(tmp_path, fake, mode="http") as world:
        body, headers = signed(fake)
        value = headers[header]
        twice = f"{value!s}, {value!s}"
        assert (await world.post(*other((body, headers), header, twice))).status_code == 401
