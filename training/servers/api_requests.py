"""The requests of the OpenAI-compatible API: what a body may hold, and how much of it is read."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.requests import ClientDisconnect, Request

from training.servers import decoding
from training.servers.api_errors import ApiError, bad_request
from training.servers.lora import LoraWeights

MAX_BODY_BYTES = 1_000_000

_Body = TypeVar("_Body", bound=BaseModel)


class _TextPart(BaseModel):
    type: Literal["text"]
    text: str


class _Message(BaseModel):
    role: Literal["system", "user", "assistant"]
    content: str | list[_TextPart]

    @property
    def text(self) -> str:
        parts = [self.content] if isinstance(self.content, str) else [p.text for p in self.content]
        return "\n".join(parts)


class _StreamOptions(BaseModel):
    include_usage: bool = False


_Stop = Annotated[str, Field(min_length=1, max_length=256)]
# Fields that would change the answer, and that this server does not have.
_UNSUPPORTED = (
    "tools",
    "functions",
    "logprobs",
    "logit_bias",
    "presence_penalty",
    "frequency_penalty",
    "response_format",
    "top_k",
    "min_p",
)


class ChatRequest(BaseModel):
    """The body of `/v1/chat/completions`; fields that nobody knows are ignored, as in vLLM."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    model: str
    messages: list[_Message] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=2)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    n: Literal[1] | None = None
    stop: _Stop | Annotated[list[_Stop], Field(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None

    @model_validator(mode="after")
    def _has_nothing_unsupported(self) -> ChatRequest:
        if self.stream_options and not self.stream:
            raise ValueError("Stream options can only be defined when `stream=True`.")
        for name in _UNSUPPORTED:
            if (self.model_extra or {}).get(name):
                raise ValueError(f"`{name}` is not supported by this server.")
        return self

    def decoding_request(
        self, tokens: tuple[int, ...], room: int, weights: LoraWeights | None
    ) -> decoding.Request:
        """What the decoder needs; the answer gets what is left of the context at most."""
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return decoding.Request(
            tokens=tokens,
            max_tokens=min(self.max_completion_tokens or self.max_tokens or room, room),
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=self.top_p or 1.0,
            repetition_penalty=self.repetition_penalty or 1.0,
            seed=self.seed,
            stop=stop,
            weights=weights,
        )


class LoadRequest(BaseModel):
    """The body of `/v1/load_lora_adapter`: a folder, and the name that is to answer with it.

    `load_inplace` lets a loaded name be replaced.
    """

    lora_name: str = ""
    lora_path: str = ""
    load_inplace: bool = False


class UnloadRequest(BaseModel):
    """The body of `/v1/unload_lora_adapter`."""

    lora_name: str = ""


async def read_body(request: Request, kind: type[_Body]) -> _Body:
    """The request's JSON as `kind`.

    Raises `ApiError`: 413 as soon as more than `MAX_BODY_BYTES` came, 400 if it is wrong.
    """
    read = bytearray()
    try:
        async for part in request.stream():
            read += part
            if len(read) > MAX_BODY_BYTES:
                raise ApiError(
                    413,
                    "RequestEntityTooLarge",
                    f"The request is longer than {MAX_BODY_BYTES} bytes.",
                )
    except ClientDisconnect as exc:
        raise bad_request("The request was not sent to its end.") from exc
    try:
        return kind.model_validate_json(bytes(read))
    except ValidationError as exc:
        wrong = exc.errors()[0]
        where = ".".join(str(part) for part in wrong["loc"])
        raise bad_request(f"{where or 'body'}: {wrong['msg']}", param=where or None) from exc
