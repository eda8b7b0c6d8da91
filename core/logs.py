"""Structured JSON logs: ids and figures, never texts, and nothing that looks like a token."""

from __future__ import annotations

import logging
import logging.handlers
import re
import sys
from contextlib import suppress
from pathlib import Path

import stamina.instrumentation
import structlog

from core.errors import ConfigError

log = structlog.get_logger()

# Libraries that would log whole URLs, Telegram's with the bot's token in them.
CHATTY = ("httpx", "httpx2", "httpcore", "telegram", "slack_sdk", "slack_bolt", "openai")
# Of these one also logs whole messages, where it cannot read them; what is wrong it raises as well.
_SILENT = "telegram"
_TOKEN = re.compile(
    r"\d{6,}:[A-Za-z0-9_-]{30,}"  # Telegram
    r"|x(?:ox[a-z]|app)-[A-Za-z0-9-]{8,}"  # Slack
    r"|\b(?:sk|hf|gh[opsu]|github_pat)[-_][A-Za-z0-9_-]{16,}"  # OpenAI and others
    r"|\beyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]+)+"  # JSON web tokens
    r"|(?i:bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"
    r"|(?<![A-Za-z0-9/_+-])(?=[A-Za-z0-9/_+-]*\d)(?=[A-Za-z0-9/_+-]*[A-Z])[A-Za-z0-9_+-]{40,}={0,2}"
    r"|(?<=://)[^/\s:@\"]*:[^/\s\"]+(?=@)"  # a password in a URL
)
BLANK = "[secret]"


def configure_logs(level: str, file: Path | None) -> None:
    """Send every log line as JSON to `file` (rotated at 10 MB), or to stderr without one.

    Raises `ConfigError` when the file cannot be written.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    if file is None:
        handler: logging.Handler = logging.StreamHandler(sys.stderr)
    else:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.open("ab").close()
        except OSError as exc:
            raise ConfigError(
                f"logging.file {str(file)!r} cannot be written ({exc.strerror}): name another, or "
                '"" for stderr.'
            ) from exc
        handler = _LogFile(
            file,
            maxBytes=10_000_000,
            backupCount=3,
            encoding="utf-8",
            delay=True,
            errors="backslashreplace",
        )
    handler.setFormatter(
        _Blanking(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(ensure_ascii=False),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Libraries warn their developers: nothing for a user's terminal.
    logging.captureWarnings(True)
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger(_SILENT).setLevel(logging.CRITICAL + 1)
    stamina.instrumentation.set_on_retry_hooks([_note_retry])


def blank_tokens(text: str) -> str:
    """The text with everything token-shaped replaced."""
    return _TOKEN.sub(BLANK, text)


def _note_retry(details: stamina.instrumentation.RetryDetails) -> None:
    """Log a retry; by itself the library logs what the error says, a refused token among it."""
    log.warning(
        "tried_again",
        error=type(details.caused_by).__name__,
        number=details.retry_num,
        wait_seconds=round(details.wait_for, 2),
    )


class _LogFile(logging.handlers.RotatingFileHandler):
    """Says once on stderr that it cannot be written, and is quiet about it until it works again."""

    _failing = False
    _failed_now = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line, in a file opened anew after a failure."""
        self._failed_now = False
        super().emit(record)
        self._failing = self._failed_now

    def handleError(self, record: logging.LogRecord) -> None:
        """Complain about a disk in one line; a line that cannot be made is our own mistake."""
        problem = sys.exc_info()[1]
        if not isinstance(problem, OSError):
            super().handleError(record)
            return
        self._failed_now = True
        if not self._failing:
            with suppress(OSError):
                sys.stderr.write(
                    f"The log file {self.baseFilename!r} cannot be written ({problem.strerror}); "
                    "lines are lost until it can.\n"
                )
        # What is left in the stream's buffer would fail again, and grow with every line.
        stream, self.stream = self.stream, None
        with suppress(OSError):
            if stream is not None:
                stream.close()


class _Blanking(structlog.stdlib.ProcessorFormatter):
    """Blanks the finished line, so that no field, message or traceback slips through."""

    def format(self, record: logging.LogRecord) -> str:
        return blank_tokens(super().format(record))
