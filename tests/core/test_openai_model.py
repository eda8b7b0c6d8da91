"""The model client against a server that does everything wrong a server can do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, suppress
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from core import openai_model
from core.breaker import Breaker
from core.errors import AdapterRejected, ModelMissing, ModelUnavailable, NoHotLoad, NotFound
from core.messages import ChatMessage
from core.model import Piece, Sampling
from core.openai_model import OpenAIChatModel

PROMPT = (ChatMessage("user", "42码多长？"),)
SAMPLING = Sampling(max_tokens=50, temperature=0.0)

Behave = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class FaultyServer:
    """Speaks HTTP by hand on a real socket; each request is answered by the next behaviour."""

    def __init__(self) -> None:
        self.behaviours: list[Behave] = []
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.closed_by_client = asyncio.Event()
        self.connections = 0

    async def __aenter__(self) -> FaultyServer:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    @property
    def url(self) -> str:
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"http://{host}:{port}/v1"

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self.read_request(reader)
            last = len(self.behaviours) == 1
            await (self.behaviours[0] if last else self.behaviours.pop(0))(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def read_request(self, reader: asyncio.StreamReader) -> None:
        """Wait for the next request and note it."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = [x.split(":")[1] for x in head.lower().split("\r\n") if "content-length:" in x]
        body = await reader.readexactly(int(length[0])) if length else b"{}"
        self.requests.append((head.split(" ")[1], json.loads(body)))

    def reply(self, *raw: bytes) -> None:
        """Add a behaviour: send this and close the connection."""

        async def send(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"".join(raw))
            await writer.drain()

        self.behaviours.append(send)

    def keep_open(self) -> None:
        """Add a behaviour: answer this request and all that follow over the connection."""
        whole = event("Yes.", "stop") + DONE

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                writer.write(CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(whole), whole))
                await self.read_request(reader)

        self.behaviours.append(answer)

    def stall(self, *raw: bytes) -> None:
        """Add a behaviour: send this and then nothing, until the client hangs up."""

        async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"".join(raw))
            await writer.drain()
            await reader.read()
            self.closed_by_client.set()

        self.behaviours.append(send)

    def drip(self, part: bytes, seconds: float) -> None:
        """Add a behaviour: begin a stream and send this part for ever, at intervals."""

        async def send(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(SSE)
            while True:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(seconds)

        self.behaviours.append(send)


SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)
DONE = b"data: [DONE]\n\n"


def event(text: str | None = None, finish: str | None = None, model: str = "solemate") -> bytes:
    delta = {} if text is None else {"content": text}
    return data(
        {
            "id": "1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": model,
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        }
    )


def data(content: object) -> bytes:
    return f"data: {json.dumps(content)}\n\n".encode()


def status(code: int, body: str, kind: str = "application/json", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {code} X", f"content-type: {kind}", f"content-length: {len(body)}"]
    return "\r\n".join([*lines, "connection: close", *headers, "", body]).encode()


def error(code: int, *headers: str) -> bytes:
    body = json.dumps({"error": {"message": "It broke.", "type": "x", "code": code}})
    return status(code, body, "application/json", *headers)


@pytest.fixture
async def server() -> AsyncIterator[FaultyServer]:
    async with FaultyServer() as server:
        yield server


Connect = Callable[..., Awaitable[OpenAIChatModel]]


@pytest.fixture
async def connect(server: FaultyServer) -> AsyncIterator[Connect]:
    async with AsyncExitStack() as stack:

        async def make(
            first_token: float = 5.0, deadline: float = 20.0, breaker: Breaker | None = None
        ) -> OpenAIChatModel:
            return await stack.enter_async_context(
                OpenAIChatModel(
                    server.url,
                    "key",
                    base_model="solemate",
                    first_token_seconds=first_token,
                    deadline_seconds=deadline,
                    breaker=breaker,
                )
            )

        yield make


async def ask(
    model: OpenAIChatModel,
    adapter: str = "",
    sampling: Sampling = SAMPLING,
    seen: list[Piece] | None = None,
) -> list[Piece]:
    """The answer's pieces; they are also in `seen`, should the answer fail."""
    pieces = [] if seen is None else seen
    async for piece in model.stream(PROMPT, adapter, sampling):
        pieces.append(piece)
    return pieces


def text(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


async def test_a_complete_answer_arrives_piece_by_piece(server, connect) -> None:
    server.reply(SSE, event(""), event("26 "), event("cm"), event(None, "stop"), DONE)
    pieces = await ask(await connect())
    assert pieces == [Piece("26 "), Piece("cm"), Piece("", "stop")]


async def test_an_answer_that_was_cut_says_so(server, connect) -> None:
    server.reply(SSE, event("26 cm", "length"), DONE)
    assert await ask(await connect()) == [Piece("26 cm", "length")]


async def test_the_request_holds_prompt_adapter_and_sampling(server, connect) -> None:
    server.reply(SSE, event("Yes.", "stop", model="shoe-v2"), DONE)
    sampling = Sampling(50, 0.5, seed=7, stop=("\n",), repetition_penalty=1.2)
    await ask(await connect(), "shoe-v2", sampling)
    path, body = server.requests[0]
    assert path == "/v1/chat/completions"
    assert body == {
        "model": "shoe-v2",
        "messages": [{"role": "user", "content": "42码多长？"}],
        "stream": True,
        "max_tokens": 50,
        "temperature": 0.5,
        "seed": 7,
        "stop": ["\n"],
        "repetition_penalty": 1.2,
    }


async def test_an_end_that_was_announced_is_enough(server, connect) -> None:
    server.stall(SSE, event("Yes.", "stop"))
    assert text(await ask(await connect())) == "Yes."


async def test_the_next_question_goes_over_the_same_connection(server, connect) -> None:
    server.keep_open()
    model = await connect()
    for _ in range(3):
        await ask(model)
    assert (len(server.requests), server.connections) == (3, 1)


async def test_a_connection_that_the_server_may_be_closing_is_not_asked_over(
    server, connect
) -> None:
    server.keep_open()
    model = await connect()
    await ask(model)
    # uvicorn closes after five: at four, one that is still open here may be gone there.
    await asyncio.sleep(4)
    await ask(model)
    assert (len(server.requests), server.connections) == (2, 2)


async def test_control_characters_are_left_out(server, connect) -> None:
    server.reply(SSE, event("a\x00b\x1b[31m\tc\nd\ud83de\x9f", "stop"), DONE)
    assert text(await ask(await connect())) == "ab[31m\tc\nde"


BROKEN_ANSWERS = {
    "ends without a finish reason": [SSE, event("26 c")],
    "ends without a finish reason but with done": [SSE, event("26 c"), DONE],
    "is cut inside a chunk": [
        CHUNKED,
        b"%x\r\n" % len(event("26 c")),
        event("26 c"),
        b"\r\nff\r\ndata: {",
    ],
    "holds malformed JSON": [SSE, event("26 c"), b"data: {oops\n\n"],
    "holds broken UTF-8": [SSE, event("26 c"), b'data: {"a": "\xff\xfe"}\n\n'],
    "holds an error object": [SSE, event("26 c"), data({"error": {"message": "no memory"}})],
    "stops with no content": [SSE, event(None, "stop"), DONE],
    "is white space only": [SSE, event(" \n", "stop"), DONE],
    "has no choices": [SSE, data({"model": "solemate", "choices": []}), DONE],
    "has null choices": [SSE, data({"model": "solemate", "choices": None}), DONE],
    "has null content": [SSE, data({"choices": [{"delta": {"content": None}}]}), DONE],
    "has a number for content": [SSE, data({"choices": [{"delta": {"content": 26}}]}), DONE],
    "is a bare number": [SSE, data(26), DONE],
    "is an HTML page": [status(200, "<html>Welcome</html>", "text/html")],
    "is one JSON object": [status(200, '{"choices": []}')],
    "comes from another model": [SSE, event("26 cm", "stop", model="other"), DONE],
    "ends with a filter": [SSE, event("26 c"), event(None, "content_filter"), DONE],
    "is a megabyte": [SSE, event("x" * 1_000_000, "stop"), DONE],
    "is endless small pieces": [SSE, event("x") * 100_000],
    "is an empty response": [SSE],
}


@pytest.mark.parametrize("raw", BROKEN_ANSWERS.values(), ids=BROKEN_ANSWERS.keys())
async def test_a_broken_answer_is_never_taken_for_a_complete_one(server, connect, raw) -> None:
    server.reply(*raw)
    model = await connect()
    seen: list[Piece] = []
    with pytest.raises(ModelUnavailable):
        await ask(model, seen=seen)
    assert all(piece.finish_reason is None for piece in seen)
    assert len(text(seen)) <= 16 * SAMPLING.max_tokens


@pytest.mark.parametrize("raw", BROKEN_ANSWERS.values(), ids=BROKEN_ANSWERS.keys())
async def test_a_broken_answer_is_asked_for_once(server, connect, raw) -> None:
    server.reply(*raw)
    with pytest.raises(ModelUnavailable):
        await ask(await connect())
    assert len(server.requests) == 1


async def test_a_silent_server_is_given_up_at_the_first_token_deadline(server, connect) -> None:
    server.stall()
    with pytest.raises(ModelUnavailable, match="silent"):
        await ask(await connect(first_token=0.1))
    await server.closed_by_client.wait()


async def test_chunks_without_text_do_not_count_as_a_first_token(server, connect) -> None:
    server.drip(event(""), 0.01)
    with pytest.raises(ModelUnavailable, match="silent"):
        await ask(await connect(first_token=0.1))


async def test_a_server_that_falls_silent_is_given_up(server, connect, monkeypatch) -> None:
    monkeypatch.setattr(openai_model, "GAP_SECONDS", 0.1)
    server.stall(SSE, event("26 c"))
    with pytest.raises(ModelUnavailable, match="silent"):
        await ask(await connect())
    await server.closed_by_client.wait()


async def test_a_slow_drip_ends_at_the_total_deadline(server, connect) -> None:
    server.drip(event("x"), 0.01)
    model = await connect(deadline=0.2)
    with pytest.raises(ModelUnavailable, match="silent"):
        await ask(model)


@pytest.mark.parametrize("fault", [error(500), error(503), error(429), b""])
async def test_a_passing_fault_is_tried_once_more(server, connect, fault) -> None:
    server.reply(fault)
    server.reply(SSE, event("Yes.", "stop"), DONE)
    assert text(await ask(await connect())) == "Yes."
    assert len(server.requests) == 2


@pytest.mark.parametrize("fault", [error(400), error(404), error(429, "retry-after: 300")])
async def test_a_lasting_fault_is_not_tried_again(server, connect, fault) -> None:
    server.reply(fault)
    with pytest.raises(ModelUnavailable, match="It broke"):
        await ask(await connect())
    assert len(server.requests) == 1


async def test_nothing_is_tried_again_when_too_little_time_is_left(server, connect) -> None:
    server.reply(error(500))
    with pytest.raises(ModelUnavailable):
        await ask(await connect(deadline=7.0))
    assert len(server.requests) == 1


async def test_nothing_is_tried_again_once_text_was_shown(server, connect) -> None:
    server.reply(CHUNKED, b"%x\r\n" % len(event("26 c")), event("26 c"), b"\r\nff\r\n")
    with pytest.raises(ModelUnavailable):
        await ask(await connect())
    assert len(server.requests) == 1


async def test_a_server_that_is_not_there_is_named(connect, server) -> None:
    model = await connect()
    await server.__aexit__()
    with pytest.raises(ModelUnavailable, match="Is the model server running"):
        await ask(model)


async def test_a_failing_server_is_asked_little_more_than_once_a_question(server, connect) -> None:
    server.reply(error(500))
    now = [0.0]
    model = await connect(breaker=Breaker(lambda: now[0]))
    for second in range(60):
        now[0] = float(second)
        with pytest.raises(ModelUnavailable):
            await ask(model)
    assert len(server.requests) <= 1.1 * 60
    assert len(server.requests) <= 5 + 60 / 10


async def test_service_resumes_after_the_server_recovers(server, connect) -> None:
    now = [0.0]
    model = await connect(breaker=Breaker(lambda: now[0]))
    for _ in range(6):
        server.reply(error(500))
    for _ in range(5):
        with pytest.raises(ModelUnavailable):
            await ask(model)
    server.behaviours.clear()
    server.reply(SSE, event("Yes.", "stop"), DONE)
    now[0] = 10.0
    assert text(await ask(model)) == "Yes."
    assert text(await ask(model)) == "Yes."


async def test_a_client_that_leaves_closes_its_connection(server, connect) -> None:
    server.stall(SSE, event("26 "))
    async with aclosing((await connect()).stream(PROMPT, "", SAMPLING)) as pieces:
        await anext(pieces)
    await server.closed_by_client.wait()


async def test_a_cancelled_task_closes_its_connection(server, connect) -> None:
    server.stall(SSE, event("26 "))
    model = await connect()
    begun = asyncio.Event()

    async def listen() -> None:
        async for _ in model.stream(PROMPT, "", SAMPLING):
            begun.set()

    task = asyncio.create_task(listen())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await server.closed_by_client.wait()


def open_sockets() -> int:
    """How many sockets this process holds."""
    names = []
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            names.append(str(link.readlink()))
    return sum(name.startswith("socket:") for name in names)


async def ask_and_leave(server: FaultyServer, connect: Connect, calls: int) -> list[int]:
    """Ask so often, and leave every fifth answer in its middle; the sockets that stay open.

    They are counted after a tenth of the calls and after all of them.
    """
    begun, rest = event("26 "), event("cm", "stop") + DONE

    async def answer_everything(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            for part in (begun, rest):
                writer.write(b"%x\r\n%b\r\n" % (len(part), part))
                await writer.drain()
            writer.write(b"0\r\n\r\n")
            await server.read_request(reader)
            server.requests.clear()
            writer.write(CHUNKED)

    async def first_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED)
        await answer_everything(reader, writer)

    server.behaviours.append(first_answer)
    model = await connect()
    counted = []
    for number in range(1, calls + 1):
        async with aclosing(model.stream(PROMPT, "", SAMPLING)) as pieces:
            async for _ in pieces:
                if number % 5 == 0:
                    break
        if number in (calls // 10, calls):
            counted.append(open_sockets())
    return counted


async def test_answers_that_are_left_leave_nothing_open(server, connect) -> None:
    early, late = await ask_and_leave(server, connect, 200)
    # The server's ends of the last ones may still be open.
    assert late <= early + 4


@pytest.mark.nightly
@pytest.mark.timeout(3600)
async def test_fifty_thousand_answers_leave_nothing_behind(server, connect) -> None:
    await ask_and_leave(server, connect, 1000)
    server.behaviours.clear()
    before = psutil.Process().memory_info().rss
    early, late = await ask_and_leave(server, connect, 50_000)
    assert late <= early + 4
    assert psutil.Process().memory_info().rss - before <= 5_000_000


async def test_the_library_takes_a_truncated_answer_for_a_complete_one(server) -> None:
    server.reply(SSE, event("26 c"))
    async with openai.AsyncOpenAI(base_url=server.url, api_key="key", max_retries=0) as library:
        chunks = await library.chat.completions.create(
            model="solemate", messages=[{"role": "user", "content": "?"}], stream=True
        )
        said = [chunk.choices[0].delta.content async for chunk in chunks]
    assert said == ["26 c"]


async def test_a_missing_adapter_does_not_open_the_breaker(server, connect) -> None:
    server.reply(error(404))
    breaker = Breaker(lambda: 0.0)
    model = await connect(breaker=breaker)
    for _ in range(10):
        with pytest.raises(ModelMissing):
            await ask(model, "gone")
    assert breaker.closed


async def test_the_models_are_listed(server, connect) -> None:
    listed = {"object": "list", "data": [{"id": "solemate"}, {"id": "shoe-v2"}]}
    server.reply(status(200, json.dumps(listed)))
    assert await (await connect()).models() == ["solemate", "shoe-v2"]


async def test_a_page_in_place_of_the_models_is_a_failure(server, connect) -> None:
    server.reply(status(200, "<html></html>", "text/html"))
    with pytest.raises(ModelUnavailable, match="did not list"):
        await (await connect()).models()


async def test_an_adapter_is_loaded_by_name_and_path(server, connect) -> None:
    server.reply(status(200, "Success", "text/plain"))
    await (await connect()).load_adapter("shoe-v2", Path("/adapters/2"))
    assert server.requests == [
        ("/v1/load_lora_adapter", {"lora_name": "shoe-v2", "lora_path": "/adapters/2"})
    ]


async def test_a_refused_adapter_is_rejected_with_the_servers_reason(server, connect) -> None:
    server.reply(error(500))
    with pytest.raises(AdapterRejected, match="It broke"):
        await (await connect()).load_adapter("shoe-v2", Path("/adapters/2"))


@pytest.mark.parametrize(
    "refusal",
    [
        status(404, '{"detail": "Not Found"}'),
        status(404, '{"error": {"message": "Not Found", "type": "NotFoundError", "code": 404}}'),
        status(404, "<html>nothing here</html>", "text/html"),
        status(405, '{"detail": "Method Not Allowed"}'),
    ],
)
async def test_a_server_without_the_loading_path_takes_no_adapters(
    server, connect, refusal
) -> None:
    server.reply(refusal)
    with pytest.raises(NoHotLoad, match="takes no adapters while it runs"):
        await (await connect()).load_adapter("shoe-v2", Path("/adapters/2"))


async def test_a_folder_that_the_server_lacks_is_a_refusal_of_that_adapter_alone(
    server, connect
) -> None:
    body = {"error": {"message": "No adapter found for /adapters/2", "code": 404}}
    server.reply(status(404, json.dumps(body)))
    with pytest.raises(AdapterRejected, match="No adapter found") as refused:
        await (await connect()).load_adapter("shoe-v2", Path("/adapters/2"))
    assert not isinstance(refused.value, NoHotLoad)


async def test_unloading_an_unknown_adapter_is_not_found(server, connect) -> None:
    server.reply(error(404))
    with pytest.raises(NotFound, match="shoe-v2"):
        await (await connect()).unload_adapter("shoe-v2")


async def test_health_is_asked_beside_the_api(server, connect) -> None:
    server.reply(status(200, "", "text/plain"))
    assert await (await connect()).healthy()
    assert server.requests[0][0] == "/health"


async def test_a_server_without_a_health_path_is_asked_for_its_models(server, connect) -> None:
    server.reply(error(404))
    server.reply(status(200, '{"object": "list", "data": []}'))
    assert await (await connect()).healthy()


async def test_a_server_that_fails_is_not_healthy(server, connect) -> None:
    server.reply(error(500))
    assert not await (await connect()).healthy()
