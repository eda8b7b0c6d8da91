"""Generates text for many requests at once: continuous batching in one thread of its own.

Every request is a row of one batch that shares a key-value cache, padded on the left. A row joins
after its prompt has been read and leaves as soon as it has ended or its client has left; the
others go on undisturbed. Rows may use different adapters.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import structlog
import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

from core.errors import Busy, ModelUnavailable
from training.servers.lora import LoraWeights, RowAdapters

log = structlog.get_logger()

FinishReason = Literal["stop", "length"]

LOOP_TOKENS = 24
"""So many tokens that only repeat what stood before them are a loop ..."""
LOOP_TIMES = 4
"""... if they are at least so many rounds of it ..."""
LONGEST_LOOP = 32
"""... and a round is no longer than this."""
_BROKEN = "\ufffd"


@dataclass(frozen=True, slots=True)
class Request:
    """What to continue and how; `weights` is the adapter, None the base model."""

    tokens: tuple[int, ...]
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    weights: LoraWeights | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """Text that became certain, and how many tokens have been generated so far."""

    text: str
    tokens: int
    finish_reason: FinishReason | None = None


class Generation:
    """A request under way: its chunks arrive here, and it can be given up."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.cancelled = False
        self._loop = asyncio.get_running_loop()
        self._arrived: asyncio.Queue[Chunk | Exception] = asyncio.Queue()

    async def chunks(self) -> AsyncIterator[Chunk]:
        """The chunks in order, the last with a `finish_reason`; `ModelUnavailable` on failure."""
        while True:
            chunk = await self._arrived.get()
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk
            if chunk.finish_reason:
                return

    def cancel(self) -> None:
        """Give it up: its slot is free before the next word is generated."""
        self.cancelled = True

    def send(self, chunk: Chunk | Exception) -> None:
        """Hand a chunk over from the decoding thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._arrived.put_nowait, chunk)


class TextStream:
    """Turns tokens into text as they come: never half a character, never past a stop string."""

    def __init__(self, decode: Callable[[list[int]], str], stops: Sequence[str]) -> None:
        self._decode = decode
        self._stops = stops
        self._context: list[int] = []
        self._told = ""
        self._pending: list[int] = []
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """The text that this token made certain."""
        self._pending.append(token)
        text = self._decode(self._context + self._pending)
        if text.endswith(_BROKEN):
            return ""
        fresh = text[len(self._told) :].replace(_BROKEN, "")
        # What came last stays as context: it decides whether the next token begins with a space,
        # and bytes are only read in the company of the bytes before them.
        self._context, self._pending = self._pending, []
        self._told = self._decode(self._context)
        return self._release(self._held + fresh)

    def flush(self) -> str:
        """What was held back because it might have become a stop string."""
        text, self._held = self._held, ""
        return text

    def _release(self, text: str) -> str:
        ends = [at for at in (text.find(stop) for stop in self._stops) if at >= 0]
        if ends:
            self.stopped = True
            self._held = ""
            return text[: min(ends)]
        kept = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]


class _Sampler:
    """Picks one row's next token from its logits."""

    def __init__(self, request: Request, vocabulary: int) -> None:
        self._request = request
        self._random = torch.Generator()
        if request.seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(request.seed)
        self._seen = torch.zeros(vocabulary, dtype=torch.bool)
        self._seen[list(request.tokens)] = True

    def pick(self, logits: Tensor) -> int:
        """A token for `logits`, of shape `(vocabulary,)`; raises `ModelUnavailable` for NaN."""
        if not math.isfinite(float(logits.max())):
            raise ModelUnavailable("The model computed values that are no numbers.")
        token = self._draw(self._penalised(logits))
        self._seen[token] = True
        return token

    def _penalised(self, logits: Tensor) -> Tensor:
        """The repetition penalty of CTRL (arXiv 1909.05858), over prompt and answer as in vLLM."""
        penalty = self._request.repetition_penalty
        if penalty == 1.0:
            return logits
        lowered = torch.where(logits > 0, logits / penalty, logits * penalty)
        return torch.where(self._seen, lowered, logits)

    def _draw(self, logits: Tensor) -> int:
        if self._request.temperature == 0:
            return int(logits.argmax())
        chances, tokens = torch.softmax(logits / self._request.temperature, -1).sort(
            descending=True
        )
        # The nucleus (arXiv 1904.09751) ends with the token that crosses top_p.
        outside = chances.cumsum(-1) - chances >= self._request.top_p
        outside[0] = False
        chances[outside] = 0.0
        return int(tokens[torch.multinomial(chances, 1, generator=self._random)])


class _Row:
    """One request's place in the batch; `length` is how many of its positions are cached."""

    def __init__(
        self, generation: Generation, decode: Callable[[list[int]], str], vocabulary: int
    ) -> None:
        self.generation = generation
        self.request = generation.request
        self.length = len(self.request.tokens)
        self.answer: list[int] = []
        self._sampler = _Sampler(self.request, vocabulary)
        self._text = TextStream(decode, self.request.stop)

    def advance(self, logits: Tensor, ends: frozenset[int]) -> bool:
        """Take the next token from its logits; false when the answer has ended."""
        try:
            token = self._sampler.pick(logits)
        except ModelUnavailable as failure:
            self.generation.send(failure)
            return False
        if token in ends:
            return self._finish(self._text.flush(), "stop")
        self.answer.append(token)
        text = self._text.push(token)
        if self._text.stopped:
            return self._finish(text, "stop")
        if len(self.answer) >= self.request.max_tokens or loops(self.answer):
            return self._finish(text + self._text.flush(), "length")
        if text or len(self.answer) == 1:
            self.generation.send(Chunk(text, len(self.answer)))
        return True

    def _finish(self, text: str, reason: FinishReason) -> bool:
        self.generation.send(Chunk(text, len(self.answer), reason))
        return False


class _Batch:
    """The rows that are being decoded and their common cache, `width` positions wide."""

    def __init__(self) -> None:
        self.rows: list[_Row] = []
        self.cache = DynamicCache()

    def add(self, row: _Row, cache: DynamicCache) -> None:
        self.cache = _joined(self.cache, cache) if self.rows else cache
        self.rows.append(row)

    def keep(self, numbers: Sequence[int]) -> None:
        """Drop every row that is not named, and the padding that nobody needs any more."""
        if len(numbers) == len(self.rows):
            return
        self.rows = [self.rows[number] for number in numbers]
        width = max((row.length for row in self.rows), default=0)
        chosen = torch.tensor(numbers, dtype=torch.long)
        self.cache = DynamicCache(
            [
                tuple(side[chosen][:, :, side.shape[2] - width :] for side in layer)
                for layer in _layers(self.cache)
            ]
        )

    def inputs(self) -> dict[str, Any]:
        """The model's arguments for one step: each row's newest token at its own position."""
        lengths = torch.tensor([row.length for row in self.rows])
        width = self.cache.get_seq_length()
        padding = width - lengths[:, None]
        padded = bool((padding > 0).any())
        return {
            "input_ids": torch.tensor([[row.answer[-1]] for row in self.rows]),
            "position_ids": lengths[:, None],
            "attention_mask": (torch.arange(width + 1) >= padding).long() if padded else None,
            "past_key_values": self.cache,
        }


class Decoder:
    """Runs a causal language model for many requests; `with` starts and stops its thread.

    At most `slots` requests are decoded together and `waiting` more wait their turn. `decode`
    turns tokens into text. The model must not be used elsewhere in the meantime.
    """

    def __init__(
        self,
        model: Any,
        decode: Callable[[list[int]], str],
        ends: frozenset[int],
        *,
        slots: int = 8,
        waiting: int = 32,
    ) -> None:
        self._model = model
        self._decode = decode
        self._ends = ends
        self._slots = slots
        self._room = waiting
        self._adapters = RowAdapters(model)
        self._batch = _Batch()
        self._waiting: deque[Generation] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="decoder", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._thread.join()

    def stop(self) -> None:
        """End every request with `ModelUnavailable` after the current step, and take no more."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    @property
    def alive(self) -> bool:
        """Whether requests are taken and worked on."""
        return self._thread.is_alive() and not self._stopping

    @property
    def running(self) -> int:
        """How many requests are being decoded."""
        return len(self._batch.rows)

    @property
    def waiting(self) -> int:
        """How many requests wait for a slot."""
        return len(self._waiting)

    def submit(self, request: Request) -> Generation:
        """Queue a request; raises `Busy` when too many wait already."""
        generation = Generation(request)
        with self._changed:
            if self._stopping:
                raise Busy("The model server is stopping.", retry_after_seconds=10.0, status=503)
            if self.running + self.waiting >= self._slots + self._room:
                raise Busy(
                    f"{self.waiting} requests wait already; ask again in a moment.",
                    retry_after_seconds=1.0,
                    status=503,
                )
            self._waiting.append(generation)
            self._changed.notify()
        return generation

    @torch.inference_mode()
    def _run(self) -> None:
        while self._work_to_do():
            try:
                self._drop_cancelled()
                self._admit()
                self._step()
            except Exception as exc:
                log.exception("decoding_failed", rows=len(self._batch.rows))
                self._fail(f"The model failed: {type(exc).__name__}.")
        self._fail("The model server was stopped before the answer ended.")

    def _work_to_do(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._waiting or self._batch.rows)
            return not self._stopping

    def _drop_cancelled(self) -> None:
        rows = self._batch.rows
        self._batch.keep([at for at, row in enumerate(rows) if not row.generation.cancelled])

    def _admit(self) -> None:
        """Read the prompt of one waiting request, so that running answers wait for one only."""
        generation = self._next_waiting()
        if generation is None:
            return
        row = _Row(generation, self._decode, self._model.config.vocab_size)
        try:
            logits, cache = self._read(row.request)
        except RuntimeError as exc:
            log.warning("prompt_failed", error=str(exc))
            generation.send(ModelUnavailable(f"The model failed: {type(exc).__name__}."))
            return
        if row.advance(logits, self._ends):
            self._batch.add(row, cache)

    def _next_waiting(self) -> Generation | None:
        with self._changed:
            while self._waiting and len(self._batch.rows) < self._slots:
                generation = self._waiting.popleft()
                if not generation.cancelled:
                    return generation
        return None

    def _read(self, request: Request) -> tuple[Tensor, DynamicCache]:
        cache = DynamicCache()
        with self._adapters.applied([request.weights]):
            result = self._model(
                input_ids=torch.tensor([request.tokens]), past_key_values=cache, logits_to_keep=1
            )
        return result.logits[0, -1].float(), cache

    def _step(self) -> None:
        """Generate one token for every row."""
        rows = self._batch.rows
        if not rows:
            return
        with self._adapters.applied([row.request.weights for row in rows]):
            logits = self._model(**self._batch.inputs()).logits[:, -1].float()
        for row in rows:
            row.length += 1
        going_on = [row.advance(mine, self._ends) for row, mine in zip(rows, logits, strict=True)]
        self._batch.keep([at for at, goes_on in enumerate(going_on) if goes_on])

    def _fail(self, sentence: str) -> None:
        with self._changed:
            failed = [row.generation for row in self._batch.rows]
            if self._stopping:
                failed += self._waiting
                self._waiting.clear()
            self._batch = _Batch()
        for generation in failed:
            generation.send(ModelUnavailable(sentence))


def loops(tokens: Sequence[int]) -> bool:
    """Whether the tokens have ended in the same few, again and again."""
    for period in range(1, LONGEST_LOOP + 1):
        span = max(LOOP_TOKENS, LOOP_TIMES * period)
        if len(tokens) < span + period:
            return False
        if tokens[-span:] == tokens[-span - period : -period]:
            return True
    return False


def _joined(batch: DynamicCache, one: DynamicCache) -> DynamicCache:
    width = max(batch.get_seq_length(), one.get_seq_length())
    return DynamicCache(
        [
            tuple(
                torch.cat([_widened(old, width), _widened(new, width)])
                for old, new in zip(before, added, strict=True)
            )
            for before, added in zip(_layers(batch), _layers(one), strict=True)
        ]
    )


def _widened(states: Tensor, width: int) -> Tensor:
    """Keys or values, `(rows, heads, positions, size)`, padded on the left to `width` positions."""
    return pad(states, (0, 0, width - states.shape[2], 0))


def _layers(cache: DynamicCache) -> list[tuple[Tensor, Tensor]]:
    return [(layer.keys, layer.values) for layer in cache.layers]


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that begins `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
