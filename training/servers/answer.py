"""An answer on its way to the client, whole or as events, until it ends or the client leaves."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from core.errors import ModelUnavailable
from core.tracing import Span
from training.servers.api_errors import server_error
from training.servers.api_requests import ChatRequest
from training.servers.decoding import Chunk, Generation


class Answer:
    """One completion, to be taken whole or as events; its end is noted in `span`.

    Whoever takes it calls `cancel` at last.
    """

    def __init__(
        self,
        asked: ChatRequest,
        generation: Generation,
        chunks: AsyncIterator[Chunk],
        span: Span,
    ) -> None:
        self._span = span
        self._asked = asked
        self._generation = generation
        self._chunks = _noted(span, chunks)
        self._head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": asked.model,
        }

    def cancel(self) -> None:
        """Free the answer's slot, and end its span; harmless once it is complete."""
        self._generation.cancel()
        self._span.end()

    async def whole(self) -> Response:
        """One JSON body once the answer is complete; raises `ApiError` when it fails."""
        try:
            chunks = [chunk async for chunk in self._chunks]
        except ModelUnavailable as failure:
            raise server_error(str(failure)) from failure
        message = {"role": "assistant", "content": "".join(chunk.text for chunk in chunks)}
        choice = {"index": 0, "message": message, "finish_reason": chunks[-1].finish_reason}
        return JSONResponse(
            {
                **self._head,
                "object": "chat.completion",
                "choices": [choice],
                "usage": self._usage(chunks[-1]),
            }
        )

    async def events(self) -> AsyncIterator[str]:
        """Server-sent events; a failure is an error object, so that it is not taken for an end."""
        yield self._event({"role": "assistant", "content": ""}, None)
        try:
            async for chunk in self._chunks:
                if chunk.text or chunk.finish_reason:
                    yield self._event({"content": chunk.text}, chunk.finish_reason)
        except ModelUnavailable as failure:
            yield _sse(server_error(str(failure)).body())
        else:
            if self._asked.stream_options and self._asked.stream_options.include_usage:
                yield _sse(self._chunk([], usage=self._usage(chunk)))
        yield "data: [DONE]\n\n"

    def _event(self, delta: dict[str, str], finish_reason: str | None) -> str:
        return _sse(self._chunk([{"index": 0, "delta": delta, "finish_reason": finish_reason}]))

    def _chunk(self, choices: list[dict[str, Any]], **more: object) -> dict[str, Any]:
        return {**self._head, "object": "chat.completion.chunk", "choices": choices, **more}

    def _usage(self, last: Chunk) -> dict[str, int]:
        read = len(self._generation.request.tokens)
        return {
            "prompt_tokens": read,
            "completion_tokens": last.tokens,
            "total_tokens": read + last.tokens,
        }


async def _noted(span: Span, chunks: AsyncIterator[Chunk]) -> AsyncIterator[Chunk]:
    """The chunks, with what is worth knowing of them noted."""
    async for chunk in chunks:
        if chunk.finish_reason:
            span.note(answer_tokens=chunk.tokens, finish_reason=chunk.finish_reason)
        yield chunk


class EventStream(StreamingResponse):
    """Streams an answer, and frees its slot however the connection ends."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.events(), media_type="text/event-stream")
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answer.cancel()


async def whole_answer(request: Request, answer: Answer) -> Response:
    """The whole answer, given up as soon as its client leaves; raises `ApiError` when it fails."""
    work = asyncio.create_task(answer.whole())
    gone = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        return await work if work.done() else Response(status_code=499)
    finally:
        answer.cancel()
        work.cancel()
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _sse(content: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"
