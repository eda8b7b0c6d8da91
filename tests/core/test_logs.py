"""Log lines are JSON, hold ids, and never anything that looks like a token."""

import json
import logging
import resource
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import structlog

from core.errors import ConfigError
from core.logs import BLANK, blank_tokens, configure_logs

TOKENS = (
    "123456789:AAE-abcdefghijklmnopqrstuvwxyz012345",
    "xoxb-123456789012-abcdefGHIJKL",
    "xapp-1-A012345-678901-abcdef",
    "sk-proj-abcdefghijklmnop1234",
    "hf_abcdefghijklmnopqrstuv",
    "ghp_abcdefghijklmnopqrstuv0123456789",
    "github_pat_11ABCDEFG0abcdefghijkl",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
    "AbCdEfGhIjKlMnOpQrStUvWxYz0123456789AbCdEfGh",
)
IDS = (
    "9f86d081884c7d659a2feaa0c55ad015",
    "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "550e8400-e29b-41d4-a716-446655440000",
    "solemate-dpo-2026-11-22",
    "C0123ABC:1700000000.123456",
    "/srv/solemate/data/state/index/0001.faiss",
)


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("token", TOKENS)
def test_a_token_is_blanked_in_messages_fields_and_tracebacks(log_file: Path, token: str) -> None:
    structlog.get_logger().info(f"event {token}", field=token, nested={"deep": [token]})
    logging.getLogger("library").warning("calling %s", token)
    try:
        raise ValueError(token)
    except ValueError:
        structlog.get_logger().exception("failed")
        logging.getLogger("library").exception("failed")
    text = log_file.read_text(encoding="utf-8")
    assert len(lines(log_file)) == 4
    assert text.count(BLANK) >= 6
    assert token not in text
    assert text.count("Traceback") == 2


@pytest.mark.parametrize("text", ["Authorization: Bearer abcdef123456", "basic dXNlcjpwYXNz"])
def test_credentials_in_headers_are_blanked(text: str) -> None:
    assert "abcdef" not in blank_tokens(text)
    assert "dXNlcjpwYXNz" not in blank_tokens(text)


def test_a_password_in_an_address_is_blanked() -> None:
    blanked = blank_tokens("postgresql+psycopg://me:p@ss:w0rd@host:5432/db")
    assert blanked == f"postgresql+psycopg://{BLANK}@host:5432/db"


@pytest.mark.parametrize("name", IDS)
def test_ids_and_paths_stay(log_file: Path, name: str) -> None:
    structlog.get_logger().info("answered", reply=name)
    assert lines(log_file)[0]["reply"] == name


def test_a_line_is_json_with_time_level_and_logger(log_file: Path) -> None:
    structlog.get_logger("core.engine").warning("model_failed", own_ms=1.5)
    (line,) = lines(log_file)
    assert (line["event"], line["level"], line["own_ms"]) == ("model_failed", "warning", 1.5)
    assert {"timestamp", "logger"} <= set(line)


@pytest.mark.parametrize("name", ["httpx", "httpx2", "slack_sdk"])
def test_libraries_that_log_addresses_only_warn(log_file: Path, name: str) -> None:
    logging.getLogger(f"{name}.client").info("GET https://api/bot123/getMe")
    logging.getLogger(name).warning("slow")
    assert [line["event"] for line in lines(log_file)] == ["slow"]


def test_a_library_that_logs_what_it_cannot_read_says_nothing(log_file: Path) -> None:
    logging.getLogger("telegram.Bot").critical("Received data was %r", {"text": "my address"})
    logging.getLogger("telegram.request.BaseRequest").error("invalid JSON data: my address")
    assert lines(log_file) == []


def test_a_library_s_warning_goes_to_the_log_and_not_to_the_terminal(
    log_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warnings.filterwarnings("always", "A bomb")
    warnings.warn("A bomb of a photo.", UserWarning, stacklevel=1)
    assert capsys.readouterr().err == ""
    (line,) = lines(log_file)
    assert line["level"] == "warning"
    assert "A bomb of a photo." in str(line["event"])


def test_the_level_is_obeyed(log_file: Path) -> None:
    structlog.get_logger().debug("detail")
    structlog.get_logger().info("event")
    assert [line["event"] for line in lines(log_file)] == ["event"]


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where the folder should be", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"logging.file '.*solemate.log' cannot be written"):
        configure_logs("info", tmp_path / "logs" / "solemate.log")


def test_half_a_surrogate_is_logged_all_the_same(log_file: Path) -> None:
    structlog.get_logger().info("event", name="\ud800")
    assert "event" in log_file.read_text(encoding="utf-8")


@contextmanager
def no_room() -> Iterator[None]:
    """No file can grow, as on a full disk."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def test_a_full_disk_is_told_once_until_it_has_room_again(
    log_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = structlog.get_logger()
    log.info("before")
    for name in ("again", "and_again"):
        with no_room():
            for _ in range(5):
                log.info("lost", filler="x" * 10_000)
        log.info(name)
    told = capsys.readouterr().err.splitlines()
    assert [line["event"] for line in lines(log_file)] == ["before", "again", "and_again"]
    assert len(told) == 2
    assert told[0] == told[1]
    assert told[0].startswith(f"The log file {str(log_file)!r} cannot be written (File too large)")
