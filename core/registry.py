"""Which adapter answers whom, and whether the model server has it loaded."""

from __future__ import annotations

import asyncio
import filecmp
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Literal

import structlog
from pydantic import BaseModel, Field, ValidationError
from safetensors import SafetensorError, safe_open

from core.errors import AdapterRejected, ConfigError, ModelUnavailable, NoHotLoad
from core.messages import Adapter
from core.model import OpenAIChatModel
from core.settings import Model, at_root

log = structlog.get_logger()

RECONCILE_SECONDS = 10.0
RETRY_SECONDS = 300.0
"""How long an adapter that was refused is left alone: somebody has to mend it first."""

_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}
_PREFIX = "base_model.model."

_Shape = tuple[int, ...]


class Registry:
    """Chooses who answers a person: the live adapter, or the base model while that is away."""

    def __init__(
        self,
        model: OpenAIChatModel,
        base_model: str,
        live: Adapter | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`base_model` is the served name of the model without an adapter."""
        self._model = model
        self._base_model = base_model
        self._live = live
        self._clock = clock
        self._loaded = False
        self._load_from = -math.inf
        self._stale = asyncio.Event()

    @property
    def live(self) -> Adapter | None:
        """The adapter that should answer, if any."""
        return self._live

    @property
    def complete(self) -> bool:
        """Whether every adapter that should answer can; without any, nothing is missing."""
        return self._live is None or self._loaded

    async def choose(self, user_id: str) -> str:
        """The served name to ask for this person."""
        return self._live.name if self._live is not None and self._loaded else self._base_model

    def report_missing(self, name: str) -> None:
        """The model server did not know this adapter: ask for the base model until it does."""
        if self._live is not None and self._live.name == name:
            self._loaded = False
            self._stale.set()

    async def reconcile(self) -> None:
        """Ask the model server what it has, and have it load the live adapter if that is missing.

        Never raises for a server or an adapter that fails. A server that cannot be asked is taken
        to have what it had: if it lost it, the next question will say so.
        """
        if self._live is None:
            return
        with suppress(ModelUnavailable):
            served = await self._model.models()
            self._loaded = self._live.name in served or await self._load(self._live)

    @asynccontextmanager
    async def reconciling(self) -> AsyncIterator[None]:
        """Reconcile now, and while this is open every few seconds and whenever one is missing.

        Model servers keep adapters in memory: a restarted one has forgotten what it was given.
        """
        await self.reconcile()
        keeper = asyncio.create_task(self._keep())
        try:
            yield
        finally:
            keeper.cancel()
            with suppress(asyncio.CancelledError):
                await keeper

    async def _keep(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(RECONCILE_SECONDS):
                    await self._stale.wait()
            self._stale.clear()
            await self.reconcile()

    async def _load(self, adapter: Adapter) -> bool:
        """Whether the server has taken the adapter; one that was refused is left alone a while."""
        if self._clock() < self._load_from:
            return False
        try:
            await self._offer(adapter)
        except AdapterRejected as exc:
            wait = math.inf if isinstance(exc, NoHotLoad) else RETRY_SECONDS
            self._load_from = self._clock() + wait
            log.warning("adapter_not_loaded", adapter=adapter.name, problem=str(exc))
            return False
        log.info("adapter_loaded", adapter=adapter.name)
        return True

    async def _offer(self, adapter: Adapter) -> None:
        if adapter.path is None:
            raise AdapterRejected(
                f"The model server has no adapter {adapter.name!r}. Start it with that adapter, "
                'name its folder in model.adapter_path, or set model.adapter = "".'
            )
        # A folder of another machine is that machine's to check.
        if adapter.path.is_dir():
            await asyncio.to_thread(check_adapter, adapter)
        await self._model.load_adapter(adapter.name, adapter.path)


def live_adapter(wanted: Model) -> Adapter | None:
    """The adapter that the settings name, if any; `ConfigError` when it has the model's name.

    A folder of this project is for the shipped model alone. Another server is only given one that
    was named in full: it might load a foreign adapter into a corner of larger weights.
    """
    if not wanted.adapter:
        return None
    if wanted.adapter == wanted.base_model:
        raise ConfigError(
            f"model.adapter and model.base_model are both {wanted.adapter!r}; "
            "give the adapter a name of its own."
        )
    ours = wanted.embedded or Path(wanted.adapter_path).is_absolute()
    return Adapter(
        name=wanted.adapter,
        path=at_root(wanted.adapter_path) if wanted.adapter_path and ours else None,
        base_model=str(at_root(wanted.expert)) if wanted.embedded else wanted.base_model,
    )


def check_adapter(adapter: Adapter) -> None:
    """Raise `AdapterRejected` unless the folder holds a plain LoRA that fits its base model.

    Files, names and shapes are looked at; the numbers themselves are left to the model server.
    Where the base model is no folder on this disk, only the ranks are.
    """
    assert adapter.path is not None
    folder, base = adapter.path, Path(adapter.base_model)
    config = _read_config(folder)
    weights = _shapes(_weights_file(folder))
    if not weights:
        raise AdapterRejected(f"{str(folder)!r} holds no weights. Was its training cut short?")
    layers: dict[str, _Shape] = {}
    if base.is_dir():
        _check_base(folder, config.base_model_name_or_path, base)
        layers = {
            name: shape
            for file in base.glob("*.safetensors")
            for name, shape in _shapes(file).items()
        }
    for name, shape in weights.items():
        _check_shape(folder, name, shape, config.r, layers)


class _Config(BaseModel):
    """What `adapter_config.json` says about the adapter as a whole."""

    peft_type: Literal["LORA"]
    r: int = Field(ge=1)
    base_model_name_or_path: str | None = None


def _read_config(folder: Path) -> _Config:
    file = folder / _CONFIG
    try:
        return _Config.model_validate_json(file.read_bytes())
    except OSError as exc:
        raise AdapterRejected(
            f"There is no adapter in {str(folder)!r}: {_CONFIG} cannot be read."
        ) from exc
    except ValidationError as exc:
        wrong = exc.errors()[0]
        field = ".".join(str(part) for part in wrong["loc"]) or "its JSON"
        raise AdapterRejected(
            f"{str(file)!r} describes no LoRA adapter: {field}: {wrong['msg']}."
        ) from exc


def _weights_file(folder: Path) -> Path:
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix.lower() in _PICKLES)
    if pickles:
        raise AdapterRejected(
            f"{str(folder)!r} holds {pickles[0]!r}, a pickle that could run code. "
            f"Keep {_CONFIG} and {_WEIGHTS} only."
        )
    return folder / _WEIGHTS


def _shapes(file: Path) -> dict[str, _Shape]:
    """The shape of every tensor in a safetensors file, from its header alone."""
    try:
        with safe_open(file, framework="np") as tensors:
            names = tensors.keys()
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in names}
    except (SafetensorError, OSError) as exc:
        raise AdapterRejected(f"{str(file)!r} cannot be read as safetensors: {exc}.") from exc


def _check_base(folder: Path, named: str | None, base: Path) -> None:
    """A base that lies on this disk must be the served one; of another, only shapes can tell."""
    other = at_root(named) if named else base
    if not other.is_dir() or other.resolve() == base.resolve():
        return
    names = [file.name for file in base.glob("*.safetensors")]
    same, _, _ = filecmp.cmpfiles(other, base, names, shallow=False)
    if sorted(same) != sorted(names):
        raise AdapterRejected(
            f"{str(folder)!r} was trained on {named!r}, whose weights differ from {str(base)!r}."
        )


def _check_shape(
    folder: Path, name: str, shape: _Shape, rank: int, layers: dict[str, _Shape]
) -> None:
    """A is (rank, in) and B (out, rank) for a layer whose own weight is (out, in)."""
    layer, _, leg = name.removeprefix(_PREFIX).rpartition(".lora_")
    if leg not in ("A.weight", "B.weight") or len(shape) != 2:
        raise AdapterRejected(f"{str(folder)!r} is no plain LoRA: it holds {name!r}.")
    expected = list(layers.get(f"{layer}.weight", ()) if layers else shape)
    if len(expected) != 2:
        raise AdapterRejected(
            f"{str(folder)!r} holds {name!r}, for which its base model has no layer."
        )
    expected[0 if leg == "A.weight" else 1] = rank
    if shape != tuple(expected):
        raise AdapterRejected(
            f"{str(folder)!r} does not fit its base model: {name!r} is {shape} where "
            f"{tuple(expected)} belongs."
        )
