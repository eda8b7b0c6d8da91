"""Everything that can go wrong, in one tree; each message says what happened and what to do.

SolemateError
├── ConfigError          config.toml or the environment is wrong; names every key
├── DataError            a data file is wrong; names file, line and field
│   └── IndexMissing     nothing has been indexed yet, or the index file is damaged
├── MessageRejected      a text we cannot take: empty, too long
├── ImageRejected        a picture we cannot read, or that is too large
├── Busy                 too many messages at once, or too many from one person
├── NotFound             no such reply, conversation, adapter or file
├── StoreError           the database cannot be opened or written
│   └── NoRoom           so many messages of one conversation wait that one more has to come again
├── PlatformAway         a chat platform cannot be reached; what it is to show is shown later
├── RedisUnavailable     Redis does not answer; what it does is done without it
├── ModelUnavailable     the model server is unreachable, too slow, or refuses
│   ├── AnswerIncomplete the model's answer is truncated, empty or not from the model we asked
│   ├── AnswerUnsupported  the model's answer holds something that its passages do not
│   └── ModelMissing     the model server does not have the model or adapter that was asked for
├── TrainingFailed       a training run ended badly; names the log file
│   └── TrainingKilled   it was ended from outside, as for want of memory; may be tried again
├── ClusterUnavailable   the training cluster is unreachable, or refuses
└── AdapterRejected      the adapter did not pass its checks
    └── NoHotLoad        the model server takes no adapters while it runs
"""

from __future__ import annotations

import math


class SolemateError(Exception):
    """Anything we can explain to the person in one sentence.

    `code` names that sentence in `wording.py`, `values` fill its blanks, and `status` is the HTTP
    status that says the same; the error's own words are for the log and the terminal.
    """

    code = "failed"
    status = 500

    def __init__(self, message: str, **values: object) -> None:
        super().__init__(message)
        self.values = values


class ConfigError(SolemateError):
    """`config.toml`, a profile, the environment or `.env` is wrong."""


class DataError(SolemateError):
    """A data file is wrong; the message names file, line and field."""

    code = "unavailable"
    status = 503


class IndexMissing(DataError):
    """Nothing has been indexed yet, or the index on disk is damaged."""


class MessageRejected(SolemateError):
    """A text we cannot take."""

    def __init__(self, message: str, *, code: str, status: int = 400, **values: object) -> None:
        super().__init__(message, **values)
        self.code = code
        self.status = status


class ImageRejected(SolemateError):
    """A picture we cannot read."""

    def __init__(self, message: str, *, code: str, status: int = 415) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class Busy(SolemateError):
    """Too much at once; `retry_after_seconds` says when to come back, `values` of what."""

    def __init__(
        self,
        message: str,
        *,
        retry_after_seconds: float,
        status: int = 429,
        code: str = "busy",
        **values: object,
    ) -> None:
        waits = {"seconds": retry_after_seconds, "hours": retry_after_seconds / 3600}
        rounded = {unit: math.ceil(wait) for unit, wait in waits.items()}
        super().__init__(message, **rounded, **values)
        self.code = code
        self.retry_after_seconds = retry_after_seconds
        self.status = status


class NotFound(SolemateError):
    """There is no such reply, conversation, adapter or file."""

    code = "not_found"
    status = 404


class StoreError(SolemateError):
    """The database cannot be opened or written; nothing was acknowledged."""

    code = "not_saved"
    status = 503


class NoRoom(StoreError):
    """So many messages of one conversation wait that no more is taken; it has to come again."""


class PlatformAway(SolemateError):
    """A chat platform cannot be reached, or takes nothing: no fault of what it was to show."""


class RedisUnavailable(SolemateError):
    """Redis does not answer. Whoever asks it catches this: nobody waits for Redis."""


class ModelUnavailable(SolemateError):
    """The model server is unreachable, too slow, or refuses.

    `unasked` where it never got the question, so that another server may be asked at no cost.
    """

    code = "unavailable"
    status = 503
    unasked = False


class AnswerIncomplete(ModelUnavailable):
    """The model's answer is truncated, empty, or not what we asked for."""


class AnswerUnsupported(ModelUnavailable):
    """The model's answer holds a number, name or sentence that its passages do not."""


class ModelMissing(ModelUnavailable):
    """The model server does not have the model or adapter that was asked for."""


class TrainingFailed(SolemateError):
    """A training run ended badly; the message names its log file."""


class TrainingKilled(TrainingFailed):
    """A process of LLaMA-Factory was ended from outside, as by who needed the memory."""


class ClusterUnavailable(SolemateError):
    """The training cluster is unreachable, or refuses; a job there may be well all the same."""


class AdapterRejected(SolemateError):
    """An adapter did not pass its checks."""


class NoHotLoad(AdapterRejected):
    """The model server takes no adapters while it runs: only its own start can load one."""
