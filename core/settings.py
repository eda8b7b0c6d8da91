"""config.toml, a profile and the environment -> `Settings`; alone in reading the environment."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from dotenv import dotenv_values
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    IPvAnyNetwork,
    SecretStr,
    TypeAdapter,
    ValidationError,
)

from core.errors import ConfigError
from core.logs import blank_tokens
from core.spelling import Spelled, requirement

ROOT = Path(__file__).resolve().parent.parent
ENV_PREFIX = "SOLEMATE__"
PROFILE_VARIABLE = "SOLEMATE_PROFILE"
ENV_FILE_VARIABLE = "SOLEMATE_ENV_FILE"
"""Names the file that is read as `.env`; where it is empty, none is."""

Port = Annotated[int, Field(ge=1, le=65535)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    # Strict, or `port = true` would be port 1.
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )


class Web(_Section):
    host: str
    port: Port
    public_url: str
    allowed_origins: list[str]
    trusted_proxies: list[IPvAnyNetwork]

    @property
    def address(self) -> str:
        """Where it listens, as this machine reaches it."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


Address = Spelled(r"https?://.*", "an address that begins with http:// or https://")
AddressOrNone = Spelled(rf"({Address.pattern})?", f"empty or {Address.words}")
Addresses = Spelled(
    r"https?://[^\s,]+(\s*,\s*https?://[^\s,]+)*",
    f"{Address.words}, or several with commas between them",
)
DatabaseAddress = Spelled(
    r"(sqlite:///|postgresql\+psycopg://).*",
    "sqlite:/// and a file, or postgresql+psycopg:// and user@host/name",
)
RedisAddress = Spelled(
    r"(rediss?://([^:@/]+@)?[^@]+)?",
    "empty or redis://host:port/number, without a password (which belongs in REDIS_PASSWORD)",
)
# Lax, because a variable's list of ids arrives as a list of texts.
ChatId = Annotated[int, Field(strict=False)]


class Telegram(_Section):
    mode: Literal["polling", "webhook"]
    webhook_url: Annotated[str, AddressOrNone]
    base_url: Annotated[str, Address]
    base_file_url: Annotated[str, Address]
    allowed_users: list[ChatId]
    allowed_chats: list[ChatId]
    operators: list[ChatId]


class Slack(_Section):
    mode: Literal["socket", "http"]
    base_url: Annotated[str, Spelled(r"https?://.*/", f"{Address.words}, and ends with /")]
    allowed_teams: list[str]
    allowed_channels: list[str]
    operators: list[str]


class Model(_Section):
    base_url: Annotated[str, Addresses]
    base_model: Annotated[str, Field(min_length=1)]
    max_tokens: Count
    temperature: Annotated[float, Field(ge=0, le=2)]
    repetition_penalty: Annotated[float, Field(gt=0, le=2)]
    context_tokens: Annotated[int, Field(ge=256)]
    first_token_seconds: Positive
    deadline_seconds: Positive
    min_support: Share
    history_rounds: Annotated[int, Field(ge=0, le=100)]
    embedded: bool
    expert: str
    adapter: str
    adapter_path: str

    @property
    def replicas(self) -> list[str]:
        """The model servers; what is tried out is tried out on the first."""
        return [url.strip().rstrip("/") for url in self.base_url.split(",")]


class Retrieval(_Section):
    knowledge: str
    embedding_model: str
    device: str
    top_k: Annotated[int, Field(ge=1, le=20)]
    min_relevance: Share
    dense_weight: Share
    fusion: Literal["weighted", "rrf"]
    reranker: str
    rewrite: Literal["carry", "model", "off"]


class Vision(_Section):
    model: str
    device: str
    tags: str
    max_tags: Annotated[int, Field(ge=0, le=20)]
    min_score: Share
    max_pixels: Count
    max_bytes: Count


class Conversation(_Section):
    rounds: Annotated[int, Field(ge=0, le=100)]
    expire_minutes: Positive
    max_characters: Count


class Limits(_Section):
    messages_per_minute: Count
    photos_per_minute: Count
    messages_per_day: Count
    lanes: Count
    lane_depth: Count


class Database(_Section):
    url: Annotated[str, DatabaseAddress]
    folder: Annotated[str, Field(min_length=1)]

    @property
    def address(self) -> str:
        """The URL with a SQLite file's relative path starting at the project's root."""
        kind, slashes, path = self.url.partition(":///")
        return f"{kind}{slashes}{at_root(path)}" if kind == "sqlite" else self.url


class Redis(_Section):
    # A password in a file that people copy around would be no secret.
    url: Annotated[str, RedisAddress]


class Duels(_Section):
    share: Share
    disliked_share: Share
    per_person_per_day: Annotated[int, Field(ge=0)]


class Feedback(_Section):
    review: Literal["all", "sample", "none"]
    typed_accepts: Annotated[int, Field(ge=1, le=5)]
    pairs_per_person: Count
    quarantine_hours: Annotated[float, Field(ge=0)]
    regenerate: Annotated[int, Field(ge=0, le=16)]
    judge_model: str
    judge_url: Annotated[str, AddressOrNone]
    tell_people: bool
    duels: Duels


class Gate(_Section):
    min_pairs: Count
    accuracy: Share
    golden_rows: Annotated[int, Field(ge=0)]
    golden_loss: Share
    length: Positive
    drift: Positive
    max_rank: Count
    strengths: list[Positive]


class Canary(_Section):
    shares: list[Annotated[float, Field(gt=0, lt=1, strict=False)]]
    stage_hours: Annotated[float, Field(ge=0)]
    stage_ratings: Annotated[int, Field(ge=0)]
    limit_hours: Positive
    undecided: Literal["promote", "keep"]
    liked: Annotated[float, Field(ge=0.3, le=0.95)]
    harm: Annotated[float, Field(ge=0.05, le=0.25)]


class Training(_Section):
    recipe: Annotated[str, Field(min_length=1)]
    python: str
    launcher: Literal["local", "ray"]
    ray_address: Annotated[str, Address]
    ray_gpus: Annotated[int, Field(ge=0)]
    nice: Annotated[int, Field(ge=0, le=19)]
    timeout_minutes: Positive
    stall_minutes: Positive
    attempts: Annotated[int, Field(ge=1, le=10)]
    automatic: bool
    cron: Annotated[str, Field(min_length=1)]
    check_minutes: Positive
    misfire_hours: Positive
    window: str
    min_new_pairs: Count
    rush_new_pairs: Count
    min_pool: Count
    min_people: Count
    cooldown_hours: Annotated[float, Field(ge=0)]
    gate: Gate
    canary: Canary
    held_out: Annotated[float, Field(ge=0, le=0.5)]
    replay: Annotated[float, Field(ge=0, le=20)]


class Privacy(_Section):
    keep_days: Count
    train_on_chats: bool


class Tracing(_Section):
    endpoint: Annotated[str, AddressOrNone]
    share: Share


class Logging(_Section):
    level: Literal["debug", "info", "warning", "error"]
    file: str


class Secrets(_Section):
    """What comes from the environment or `.env` only, under these names."""

    MODEL_API_KEY: SecretStr | None = None
    MODEL_ADMIN_KEY: SecretStr | None = None
    JUDGE_API_KEY: SecretStr | None = None
    TELEGRAM_BOT_TOKEN: SecretStr | None = None
    TELEGRAM_WEBHOOK_SECRET: SecretStr | None = None
    SLACK_BOT_TOKEN: SecretStr | None = None
    SLACK_APP_TOKEN: SecretStr | None = None
    SLACK_SIGNING_SECRET: SecretStr | None = None
    REDIS_PASSWORD: SecretStr | None = None
    RAY_AUTH_TOKEN: SecretStr | None = None

    @property
    def model_keys(self) -> tuple[str, str]:
        """What opens the model server: to ask it questions, and to give it adapters."""
        engine = self.MODEL_API_KEY.get_secret_value() if self.MODEL_API_KEY else ""
        loop = self.MODEL_ADMIN_KEY.get_secret_value() if self.MODEL_ADMIN_KEY else ""
        return engine, loop


class Settings(_Section):
    """Every setting, checked. Paths in it are relative to the project's root."""

    web: Web
    telegram: Telegram
    slack: Slack
    model: Model
    retrieval: Retrieval
    vision: Vision
    conversation: Conversation
    limits: Limits
    database: Database
    redis: Redis
    feedback: Feedback
    training: Training
    privacy: Privacy
    tracing: Tracing
    logging: Logging
    secrets: Secrets

    @property
    def state(self) -> Path:
        """The folder for what is generated: index, caches, server logs, secrets."""
        return at_root(self.database.folder)


def at_root(path: str) -> Path:
    """A path from the settings; relative ones start at the project's root."""
    return ROOT / path


def shared_datasets_cache(environment: Mapping[str, str] | None = None) -> Path:
    """Where the library that reads training rows keeps them for all who use it, unless told else.

    https://huggingface.co/docs/datasets/cache
    """
    found = os.environ if environment is None else environment
    if named := found.get("HF_DATASETS_CACHE"):
        return Path(named).expanduser()
    usual = Path(found.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    return Path(found.get("HF_HOME", usual)).expanduser() / "datasets"


def load_settings(
    config: Path | None = None,
    *,
    profile: str | None = None,
    environment: Mapping[str, str] | None = None,
    changes: Mapping[str, str] | None = None,
) -> Settings:
    """Read and check everything; raise one `ConfigError` that lists every problem.

    Later layers win: `config.toml`, the profile (`profile`, or the variable SOLEMATE_PROFILE),
    `config`, `.env`, the environment, and `changes`, which are named as in the environment.
    """
    found = {**_dotenv(), **os.environ} if environment is None else environment
    variables = {**found, **(changes or {})}
    layers = [ROOT / "config.toml"]
    if name := profile or variables.get(PROFILE_VARIABLE):
        layers.append(_profile_file(name))
    if config is not None:
        layers.append(config)
    values: dict[str, Any] = {}
    for layer in layers:
        _lay_over(values, _read(layer))
    problems = _lay_environment_over(values, variables)
    if "secrets" in values:
        problems.append(
            f"Secrets do not belong into [secrets]: set {', '.join(Secrets.model_fields)} in the "
            "environment or in .env."
        )
    values["secrets"] = {
        name: variables[name] for name in Secrets.model_fields if variables.get(name)
    }
    try:
        settings = Settings.model_validate(values)
    except ValidationError as exc:
        problems += [_explain(error) for error in exc.errors(include_url=False)]
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))
    return settings


def own_variables() -> tuple[str, ...]:
    """The names of the environment's variables that are ours: settings and secrets."""
    return tuple(
        name for name in os.environ if name.startswith("SOLEMATE_") or name in Secrets.model_fields
    )


def _dotenv() -> dict[str, str]:
    name = os.environ.get(ENV_FILE_VARIABLE, ".env")
    if not name:
        return {}
    path = ROOT / name
    try:
        found = dotenv_values(path, interpolate=False)
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"The file {str(path)!r} cannot be read: {exc}.") from exc
    return {key: value for key, value in found.items() if value is not None}


def _profile_file(name: str) -> Path:
    folder = ROOT / "deploy" / "profiles"
    path = folder / f"{name}.toml"
    known = sorted(file.stem for file in folder.glob("*.toml"))
    if name not in known:
        choice = f"choose one of: {', '.join(known)}" if known else f"{str(folder)!r} holds none"
        raise ConfigError(f"There is no profile {name!r}; {choice}.")
    return path


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"There is no settings file {str(path)!r}.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise ConfigError(f"The settings file {str(path)!r} cannot be read: {exc}.") from exc


def _lay_over(values: dict[str, Any], layer: Mapping[str, Any]) -> None:
    for key, value in layer.items():
        if isinstance(value, Mapping) and isinstance(values.get(key), dict):
            _lay_over(values[key], value)
        else:
            values[key] = value


def _lay_environment_over(values: dict[str, Any], variables: Mapping[str, str]) -> list[str]:
    """Put SOLEMATE__SECTION__KEY into `values`; return the problems found in the names."""
    problems = []
    for variable, text in variables.items():
        if not variable.startswith(ENV_PREFIX):
            continue
        *sections, key = variable[len(ENV_PREFIX) :].lower().split("__")
        if not sections or not key:
            problems.append(
                f"The variable {variable} names no key; write {ENV_PREFIX}SECTION__KEY, "
                f"for example {ENV_PREFIX}WEB__PORT."
            )
            continue
        table: Any = values
        for section in sections:
            table = table.setdefault(section, {}) if isinstance(table, dict) else None
        if isinstance(table, dict):
            table[key] = _from_text(text, _annotation(*sections, key))
    return problems


def _from_text(text: str, annotation: Any) -> Any:
    """An environment variable's text as the setting's type; as it is where it does not fit.

    A list is written as in TOML or with commas, a boolean as true or false, yes or no, 1 or 0.
    """
    if get_origin(annotation) is list:
        if not text.lstrip().startswith("["):
            return [part.strip() for part in text.split(",") if part.strip()]
        try:
            return tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            return text
    try:
        return TypeAdapter(annotation or str).validate_strings(text)
    except ValidationError:
        return text


def _annotation(*path: str) -> Any:
    """The type of a setting; of the list where the path ends inside one, None for no setting."""
    found: Any = Settings
    for name in path:
        model = _section_model(found)
        if model is None:
            break
        field = model.model_fields.get(name)
        found = field.annotation if field else None
    return found


def _section_model(annotation: Any) -> type[BaseModel] | None:
    return (
        annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
    )


def _explain(error: Any) -> str:
    """One sentence for one problem: the key, the value and what is allowed."""
    path = [str(part) for part in error["loc"]]
    key = ".".join(path)
    if error["type"] == "extra_forbidden":
        model = _section_model(_annotation(*path[:-1]))
        names = [name for name in (model.model_fields if model else ()) if name != "secrets"]
        return f"Unknown setting {key!r}{_nearest(path[-1], names)}."
    if error["type"] == "missing":
        return f"The setting {key!r} is missing; config.toml has its default."
    # An address may hold a password.
    value = "(hidden)" if path[0] == "secrets" else blank_tokens(repr(error["input"]))
    field = _annotation(*path) if len(path) > 1 else None
    return f"The setting {key!r} is {value}: {_allowed(error, field)}."


def _nearest(name: str, names: Iterable[str]) -> str:
    known = sorted(names)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}" if close else f"; known are {', '.join(known)}"


def _allowed(error: Any, annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return "allowed are " + ", ".join(repr(choice) for choice in get_args(annotation))
    if error["type"] == "model_type":
        return "it must be a table of settings"
    if annotation is bool:
        return "allowed are true and false"
    return f"it must {requirement(error)}"
