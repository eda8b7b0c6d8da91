"""Every call fails in every way, and nothing that anybody could read holds one of our secrets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from bots.web.api import ApiOptions, create_api
from bots.web.desk import Desk
from core.privacy import export
from tests.bots import slack_fake, slack_world, telegram_fake, telegram_world
from tests.bots.slack_fake import APP_TOKEN, BOT_TOKEN, SECRET, FakeSlack
from tests.bots.telegram_fake import BOT_ID, TOKEN, FakeTelegram

QUESTION = "How do I wash canvas shoes?"
WRONG = "a-refused-token-for-tests"
SECRETS = (TOKEN.partition(":")[2], WRONG, BOT_TOKEN, APP_TOKEN, SECRET)
TELEGRAM_FAILURES = (
    None,
    telegram_fake.flood(1),
    telegram_fake.Refusal(500, "Internal Server Error"),
    telegram_fake.Refusal(401, "Unauthorized"),
    telegram_fake.Refusal(404, "Not Found"),
    telegram_fake.Refusal(409, "Conflict: terminated by other getUpdates request"),
    telegram_fake.Refusal(400, "Bad Request: no"),
)
SLACK_FAILURES = (
    None,
    slack_fake.too_fast(1),
    slack_fake.Refusal("internal_error", 500),
    slack_fake.Refusal("invalid_auth"),
    slack_fake.Refusal("missing_scope"),
)

pytestmark = pytest.mark.filterwarnings("ignore::telegram.warnings.PTBDeprecationWarning")


def leaks(places: Mapping[str, bytes]) -> set[tuple[str, str]]:
    """The secrets that are found, and where."""
    return {
        (name, secret)
        for name, data in places.items()
        for secret in SECRETS
        if secret.encode() in data
    }


def files_in(folder: Path) -> Iterator[tuple[str, bytes]]:
    for file in folder.rglob("*"):
        if file.is_file():
            yield file.name, file.read_bytes()


@asynccontextmanager
async def looked_at(folder: Path, desk: Desk, user_id: str) -> AsyncIterator[dict[str, bytes]]:
    """All that can be read, once the block has ended: files, logs, health, figures, an export."""
    found: dict[str, bytes] = {}
    yield found
    app = create_api(desk, parts={}, options=ApiOptions("solemate", 200, "http://127.0.0.1:8080"))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8080"
    ) as http:
        for path in ("/health", "/metrics"):
            found[path] = (await http.get(path)).content
    found["export"] = repr(await export(desk.store, user_id)).encode()
    found.update(files_in(folder))


async def fail_on_telegram(folder: Path) -> dict[str, bytes]:
    async with FakeTelegram().serving() as fake:
        fake.patience_seconds = 240
        wrong = telegram_world.opened(folder, fake, token=f"{BOT_ID}:{WRONG}")
        async with wrong as world, telegram_world.running(world):
            await fake.until(lambda: len(fake.called("getMe")) >= 2)
            complaint = world.polling.status.complaint
        async with telegram_world.opened(folder, fake) as world:
            # Polling pauses longer with every failure, so these are fewer.
            fake.refuse("getMe", *TELEGRAM_FAILURES[:4])
            fake.refuse("getUpdates", *TELEGRAM_FAILURES[-4:])
            for method in ("getFile", "sendMessage", "editMessageText"):
                fake.refuse(method, *TELEGRAM_FAILURES)
            async with telegram_world.running(world):
                await fake.sends_photo(telegram_world.jpeg(), caption=QUESTION)
                await fake.sends_photo(b"no photo", user=12, chat=12)
                await fake.until(lambda: not fake.waiting)
                for method in ("sendMessage", "editMessageText", "getFile"):
                    fake.relent(method)
                fake.files.clear()
                await fake.update(message={"message_id": "not a number", "date": 0})
                await fake.says(QUESTION, user=13, chat=13)
                await fake.until(lambda: any("up:" in str(one.data) for one in fake.shown))
                await world.telegram.errands.finished()
            async with looked_at(folder, world.desk, telegram_world.person(13)) as found:
                found["status"] = f"{complaint}{world.polling.status.complaint}".encode()
    return found


async def fail_on_slack(folder: Path) -> dict[str, bytes]:
    async with FakeSlack().serving() as fake:
        fake.patience_seconds = 240
        async with slack_world.opened(folder, fake, app_token=f"xapp-{WRONG}") as world:
            for method in ("auth.test", "chat.postMessage", "chat.startStream", "chat.stopStream"):
                fake.refuse(method, *SLACK_FAILURES)
            taking = asyncio.create_task(world.intake.run())
            await fake.until(lambda: len(fake.called("apps.connections.open")) >= 2)
            complaint = world.intake.status.complaint
            taking.cancel()
            await asyncio.wait({taking})
        async with slack_world.solemate(folder, fake) as world:
            fake.refuse("apps.connections.open", *SLACK_FAILURES)
            files = [fake.file(b"<html>sign in</html>", "text/html"), fake.file(b"no photo")]
            files.append({**files[0], "url_private_download": f"{fake.address}/files/gone.jpg"})
            for number, file in enumerate(files):
                channel = f"DU{number}"
                await fake.says(
                    "", user=f"U{number}", channel=channel, subtype="file_share", files=[file]
                )
            await fake.drop_sockets()
            await fake.says(QUESTION)
            await fake.answered()
            await world.slack.errands.finished()
            async with looked_at(folder, world.desk, slack_world.person()) as found:
                found["status"] = f"{complaint}{world.intake.status.complaint}".encode()
    return found


async def test_no_secret_is_found_whatever_goes_wrong_with_telegram(
    tmp_path: Path, log_file: Path
) -> None:
    found = await fail_on_telegram(tmp_path)
    assert leaks(found) == set()
    assert b"canvas" in found["solemate.db"] + found.get("solemate.db-wal", b"")
    assert b"telegram" in found[log_file.name]


async def test_no_secret_is_found_whatever_goes_wrong_with_slack(
    tmp_path: Path, log_file: Path
) -> None:
    found = await fail_on_slack(tmp_path)
    assert leaks(found) == set()
    assert b"canvas" in found["solemate.db"] + found.get("solemate.db-wal", b"")
    assert b"slack" in found[log_file.name]


async def test_a_secret_that_somebody_plants_is_found(tmp_path: Path, log_file: Path) -> None:
    """The control: whoever writes one into the chat has it in the store."""
    async with FakeSlack().serving() as fake, slack_world.solemate(tmp_path, fake) as world:
        await fake.says(f"canvas {SECRET}?")
        await fake.answered()
        async with looked_at(tmp_path, world.desk, slack_world.person()) as found:
            pass
    assert {secret for _, secret in leaks(found)} == {SECRET}
    assert (log_file.name, SECRET) not in leaks(found)
