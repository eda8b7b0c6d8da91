"""The loop shown in minutes: people correct answers, the model learns, the same questions again.

A `solemate up` of its own is started on a folder of its own, and talked to over HTTP as people do.
Only an operator's part is done on the store: holding the loop still, and approving the run.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from core.errors import TrainingFailed
from core.opening import open_store
from core.ports import free_port
from core.settings import (
    ENV_FILE_VARIABLE,
    PROFILE_VARIABLE,
    Settings,
    load_settings,
    own_variables,
)
from core.store import Store
from training.lineage import Lineage, lineage_of
from training.loop import operators_runs
from training.pairs import read_pairs
from training.pause import pause_file
from training.progress import ProgressReader
from training.rows import CorrectionRow, read_all
from training.runs import Run, RunState
from training.scores import rouge_l
from training.servers.process import model_server

WHO = "demo"
# An answer is the corrected one where it says little more and little else than the correction.
SAID = 60.0
_AT_ONCE = 6
_POLL_SECONDS = 0.5
_START_SECONDS = 180.0
_HOST = "127.0.0.1"
_PROFILE = "embedded"
# What a shop with a handful of testers would set: nobody is waited for, all get what was learnt.
_CHANGES = {
    "LIMITS__MESSAGES_PER_MINUTE": "10000",
    "FEEDBACK__REVIEW": "none",
    "FEEDBACK__QUARANTINE_HOURS": "0",
    "TRAINING__COOLDOWN_HOURS": "0",
    "TRAINING__CHECK_MINUTES": "0.05",
    "TRAINING__NICE": "0",
    "TRAINING__CANARY__SHARES": "[]",
}

Say = Callable[[str], None]
"""Hears what is going on, in a line."""


@dataclass(frozen=True, slots=True)
class Said:
    """An answer: who asked what, what came, and the adapter that wrote it ("" for a quote)."""

    session: str
    reply: str
    question: str
    text: str
    adapter: str

    def as_corrected(self, correction: str) -> bool:
        """Whether the model itself answered what the correction says."""
        return bool(self.adapter) and rouge_l(self.text, correction) >= SAID


@dataclass(frozen=True, slots=True)
class Lesson:
    """A correction, and the answers to its question and to the rephrased one, before and after."""

    row: CorrectionRow
    before: Said
    rephrased_before: Said
    after: Said
    rephrased_after: Said

    @property
    def learned(self) -> bool:
        """Whether the question that was corrected is answered the corrected way."""
        return self.after.as_corrected(self.row.correction)

    @property
    def rephrased_learned(self) -> bool:
        """Whether the question that nobody corrected is answered so as well."""
        return self.rephrased_after.as_corrected(self.row.correction)


@dataclass(frozen=True, slots=True)
class Shown:
    """All that the demo has to show.

    `seconds` is the wall time of the whole, `learning_seconds` that from the first thumbs-down
    until what it teaches was live, and `processor_seconds` what all processes computed in it.
    """

    lessons: Sequence[Lesson]
    run: Run
    lineage: Lineage | None
    seconds: float
    learning_seconds: float
    processor_seconds: float

    def summary(self) -> dict[str, Any]:
        """The figures that count, for a machine."""
        lessons = self.lessons
        live, new = self.golden
        return {
            "corrected_before": _share(
                one.before.as_corrected(one.row.correction) for one in lessons
            ),
            "corrected_learned": _share(one.learned for one in lessons),
            "rephrased_before": _share(
                one.rephrased_before.as_corrected(one.row.correction) for one in lessons
            ),
            "rephrased_learned": _share(one.rephrased_learned for one in lessons),
            "golden_before": round(100 * live, 1),
            "golden_after": round(100 * new, 1),
            "golden_delta": round(100 * (new - live), 1),
            "learning_seconds": round(self.learning_seconds, 1),
            "processor_seconds": round(self.processor_seconds, 1),
            "seconds": round(self.seconds, 1),
        }

    @property
    def golden(self) -> tuple[float, float]:
        """The share of the golden questions that the adapter before passed, and the new one."""
        figure = next(one for one in self.run.figures["gate"] if one["name"] == "G4 golden")
        return float(figure["live"]), float(figure["value"])


class NotLive(TrainingFailed):
    """The run was rejected or rolled back, so nothing went live.

    `learning_seconds` and `processor_seconds` are those from the first thumbs-down until then.
    """

    def __init__(self, why: str, learning_seconds: float, processor_seconds: float) -> None:
        super().__init__(why)
        self.learning_seconds = learning_seconds
        self.processor_seconds = processor_seconds


async def show_the_loop(settings: Settings, folder: Path, rows: Path, say: Say) -> Shown:
    """Run the loop once in `folder`, which nothing has used before.

    Raises `NotLive` where the run is rejected, with what the gate found.
    """
    started = time.monotonic()
    changes = _environment(folder)
    own = load_settings(environment=changes, profile=_PROFILE)
    corrections = read_all(rows, CorrectionRow)
    pause_file(own).parent.mkdir(parents=True, exist_ok=True)
    pause_file(own).touch()
    say("Starting a solemate of its own …")
    async with _solemate(own, changes) as client, open_store(own, exclusive=False) as store:
        say(f"Asking {2 * len(corrections)} questions …")
        before = await _ask_all(client, [row.question for row in corrections])
        rephrased = await _ask_all(client, [row.rephrased for row in corrections])
        say(f"Correcting {len(corrections)} of the answers …")
        begun, computed = time.monotonic(), processor_seconds()

        def taken() -> tuple[float, float]:
            return time.monotonic() - begun, processor_seconds() - computed

        for row, said in zip(corrections, before, strict=True):
            await _correct(client, said, row.correction)
        pause_file(own).unlink()
        try:
            run = await _trained(own, store, say)
            run = await _live(own, store, run, client, say)
        except TrainingFailed as exc:
            raise NotLive(str(exc), *taken()) from exc
        learning, computing = taken()
        say("Asking again …")
        after = await _ask_all(client, [row.question for row in corrections])
        rephrased_after = await _ask_all(client, [row.rephrased for row in corrections])
        lineage = await _one_way(store, before)
    lessons = [
        Lesson(*one)
        for one in zip(corrections, before, rephrased, after, rephrased_after, strict=True)
    ]
    return Shown(lessons, run, lineage, time.monotonic() - started, learning, computing)


def processor_seconds() -> float:
    """What all that this process has started has computed so far, also where it has ended."""
    ours = psutil.Process()
    total = _of_ended(ours)
    for process in ours.children(recursive=True):
        # One that ends just now is counted by whoever started it.
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + _of_ended(process)
    return total


def _of_ended(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.children_user + times.children_system)


def _environment(folder: Path) -> dict[str, str]:
    changes = {
        "DATABASE__URL": f"sqlite:///{folder.absolute() / 'solemate.db'}",
        "DATABASE__FOLDER": str(folder.absolute()),
        "LOGGING__FILE": str(folder.absolute() / "solemate.log"),
        "WEB__PORT": str(free_port(_HOST)),
        "MODEL__BASE_URL": f"http://{_HOST}:{free_port(_HOST)}/v1",
        **_CHANGES,
    }
    return {f"SOLEMATE__{key}": value for key, value in changes.items()}


@asynccontextmanager
async def _solemate(
    settings: Settings, changes: Mapping[str, str]
) -> AsyncIterator[httpx.AsyncClient]:
    """A running `solemate up` with these changes in its environment, and a client of it."""
    url = f"http://{_HOST}:{settings.web.port}"
    command = [sys.executable, "-m", "solemate", "up"]
    async with httpx.AsyncClient(base_url=url, timeout=120.0) as client:

        async def healthy() -> bool:
            try:
                return (await client.get("/health")).status_code == httpx.codes.OK
            except httpx.HTTPError:
                return False

        log_file = settings.state / "up.log"
        # No token, profile or setting of the real one: the demo talks to nobody but itself.
        none = dict.fromkeys(own_variables())
        only = {ENV_FILE_VARIABLE: "", PROFILE_VARIABLE: _PROFILE}
        async with model_server(
            command,
            healthy=healthy,
            log_file=log_file,
            start_seconds=_START_SECONDS,
            environment={**none, **only, **changes},
        ):
            yield client


async def _ask_all(client: httpx.AsyncClient, questions: Sequence[str]) -> list[Said]:
    """Each question by somebody of their own, a few at a time."""
    places = asyncio.Semaphore(_AT_ONCE)

    async def ask(question: str) -> Said:
        async with places:
            answer = await client.post("/chat", json={"message": question})
        answer.raise_for_status()
        said = answer.json()
        return Said(
            said["session_id"], said["message_id"], question, said["message"], said["adapter"]
        )

    return list(await asyncio.gather(*(ask(question) for question in questions)))


async def _correct(client: httpx.AsyncClient, said: Said, correction: str) -> None:
    body = {
        "session_id": said.session,
        "message_id": said.reply,
        "feedback": "thumbs_down",
        "reason": "did_not_answer",
        "correction": correction,
    }
    (await client.post("/feedback", json=body)).raise_for_status()


async def _trained(settings: Settings, store: Store, say: Say) -> Run:
    """The scheduled run, when it has passed the gate or waits for somebody."""
    runs = operators_runs(settings, store)
    told = ""
    while True:
        found = await runs.all()
        run = found[0] if found else None
        line = _standing(run) if run else "Waiting for the scheduled run …"
        if line != told:
            say(line)
            told = line
        if run and run.ended and run.state is not RunState.PROMOTED:
            failed = [one["name"] for one in run.figures.get("gate", ()) if one["passed"] is False]
            why = run.problem or f"the gate refused it: {', '.join(failed)}"
            raise TrainingFailed(f"The run {run.id} was {run.state}: {why}.")
        if run and (run.evaluated or run.ended):
            return run
        await asyncio.sleep(_POLL_SECONDS)


def _standing(run: Run) -> str:
    log = run.attempt / "train.log"
    if run.state is RunState.TRAINING and log.exists():
        steps = list(ProgressReader().feed(log.read_bytes()))
        if steps:
            return f"{run.id}: training, step {steps[-1].steps} of {steps[-1].total}"
    return f"{run.id}: {run.state}"


async def _live(
    settings: Settings, store: Store, run: Run, client: httpx.AsyncClient, say: Say
) -> Run:
    """The run when its adapter is live and answers; as an operator, approve what waits for one."""
    runs = operators_runs(settings, store)
    if run.state is RunState.AWAITING_APPROVAL:
        say("Too few pairs to measure with: an operator looks at the figures, and approves.")
        await runs.move(run, RunState.CANARY, who=WHO, now=time.time())
    while True:
        run = await runs.get(run.id)
        if run.state is RunState.PROMOTED:
            break
        if run.ended:
            raise TrainingFailed(f"The run {run.id} was {run.state}: {run.problem}.")
        await asyncio.sleep(_POLL_SECONDS)
    say(f"{run.adapter} is live.")
    wanted = f"{run.adapter} answers."
    while True:
        if (await _health(client))["adapter"].get("detail") == wanted:
            return run
        await asyncio.sleep(_POLL_SECONDS)


async def _health(client: httpx.AsyncClient) -> dict[str, Any]:
    parts: dict[str, Any] = (await client.get("/health")).json()["parts"]
    return parts


async def _one_way(store: Store, corrected: Sequence[Said]) -> Lineage | None:
    """The way of the first thumbs-down that became a pair."""
    replies = {said.reply for said in corrected}
    found = await read_pairs(store)
    pair = next((pair for pair in found if pair.reply_id in replies), None)
    return await lineage_of(store, pair) if pair else None


def _share(true: Any) -> float:
    found = list(true)
    return round(sum(found) / len(found), 3) if found else 0.0
