"""The models that are compared (base, SFT, DPO), each behind a server that can be asked.

Two servers of the shipped models are started for it, one after the other; or a server that runs
already (an A100's vLLM, say) is asked for its models by name.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from core.breaker import Breaker
from core.errors import ConfigError
from core.model import ChatModel
from core.openai_model import OpenAIChatModel
from core.ports import free_port
from training.servers.process import model_server

Label = Literal["base", "sft", "dpo", "live", "candidate"]
LABELS: tuple[Label, ...] = ("base", "sft", "dpo")

# An evaluation measures answers; a slow machine makes it slow, and nothing else.
START_SECONDS = 600.0
FIRST_TOKEN_SECONDS = 120.0
DEADLINE_SECONDS = 600.0

_HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Served:
    """A model that can be asked: `label` in the tables, `name` on its server."""

    label: Label
    name: str
    chat: ChatModel


class Lineup(Protocol):
    """Whoever has the models."""

    def missing(self, labels: Sequence[Label]) -> dict[Label, str]:
        """Those of the models that will be left out, and a sentence on why."""
        ...

    def models(self, labels: Sequence[Label]) -> AsyncGenerator[Served, None]:
        """The others, one by one; each can be asked while it is the current one."""
        ...


@dataclass(frozen=True, slots=True)
class Shipped:
    """The models in these folders; `command` starts a server, given the options of its own."""

    base: Path
    expert: Path
    adapter: Path
    command: Sequence[str]
    served_name: str
    log_file: Path
    api_key: str = ""

    def missing(self, labels: Sequence[Label]) -> dict[Label, str]:
        """Those that are not on disk."""
        return {
            label: f"{label} is left out: there is no {file.name} in {str(file.parent)!r}."
            for label in labels
            for file in self._files(label)
            if not file.exists()
        }

    async def models(self, labels: Sequence[Label]) -> AsyncGenerator[Served, None]:
        """Those on disk; SFT and DPO share a server, where DPO is an adapter."""
        missing = self.missing(labels)
        there = [label for label in labels if label not in missing]
        if "base" in there:
            async with self._server(self.base) as chat:
                yield Served("base", self.served_name, chat)
        if "sft" in there or "dpo" in there:
            adapter = ("--adapter", f"dpo={self.adapter}") if "dpo" in there else ()
            async with self._server(self.expert, *adapter) as chat:
                if "sft" in there:
                    yield Served("sft", self.served_name, chat)
                if "dpo" in there:
                    yield Served("dpo", "dpo", chat)

    def _files(self, label: Label) -> tuple[Path, ...]:
        """What must be there for a model to be served."""
        if label == "base":
            return (self.base / "config.json",)
        expert = self.expert / "config.json"
        return (expert,) if label == "sft" else (expert, self.adapter / "adapter_config.json")

    @asynccontextmanager
    async def _server(self, model: Path, *options: str) -> AsyncIterator[OpenAIChatModel]:
        command = [*self.command, "--model", str(model), *options]
        async with (
            serving(command, self.log_file, self.api_key) as url,
            _client(url, self.api_key) as chat,
        ):
            yield chat


@asynccontextmanager
async def serving(command: Sequence[str], log_file: Path, api_key: str = "") -> AsyncIterator[str]:
    """Run `solemate serve …` on a free port while this is open; its base URL."""
    port = str(free_port(_HOST))
    url = f"http://{_HOST}:{port}/v1"
    async with (
        _client(url, api_key) as chat,
        model_server(
            [*command, "--host", _HOST, "--port", port],
            healthy=chat.healthy,
            log_file=log_file,
            start_seconds=START_SECONDS,
        ),
    ):
        yield url


@dataclass(frozen=True, slots=True)
class Remote:
    """The models that a running server has under these names."""

    base_url: str
    names: Mapping[Label, str]
    api_key: str = ""
    admin_key: str = ""

    def missing(self, labels: Sequence[Label]) -> dict[Label, str]:
        """Those that were not named."""
        return {
            label: f"{label} is left out: --{label} did not name it."
            for label in labels
            if label not in self.names
        }

    def client(self) -> OpenAIChatModel:
        """A client of the server, to be opened with `async with`."""
        return _client(self.base_url, self.api_key, self.admin_key)

    async def models(self, labels: Sequence[Label]) -> AsyncGenerator[Served, None]:
        """Those that were named; raises `ConfigError` for a name that the server does not have.

        The engine would ask its base model in place of an adapter that is gone, and so measure
        another one than was meant.
        """
        async with self.client() as chat:
            known = await chat.models()
            for label in labels:
                if label in self.names:
                    yield Served(label, _known(self.names[label], known, self.base_url), chat)


class _NeverOpen(Breaker):
    """A model that says nothing fifty times in a row is a figure here, not a reason to stop."""

    def _too_many(self) -> bool:
        return False


def _client(base_url: str, api_key: str, admin_key: str = "") -> OpenAIChatModel:
    return OpenAIChatModel(
        base_url,
        api_key,
        admin_key=admin_key,
        base_model="",
        first_token_seconds=FIRST_TOKEN_SECONDS,
        deadline_seconds=DEADLINE_SECONDS,
        breaker=_NeverOpen(),
    )


def _known(name: str, known: Sequence[str], base_url: str) -> str:
    if name not in known:
        raise ConfigError(
            f"The server at {base_url!r} has no model {name!r}; it has: {', '.join(known)}."
        )
    return name
