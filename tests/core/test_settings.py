"""Settings: every layer, and every problem named at once."""

from pathlib import Path

import pytest

from core import settings
from core.errors import ConfigError
from core.settings import load_settings, shared_datasets_cache


def problems(environment: dict[str, str], config: Path | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_settings(config, environment=environment)
    return str(caught.value).splitlines()


def toml(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder of its own, with the real config.toml."""
    (tmp_path / "config.toml").write_bytes((settings.ROOT / "config.toml").read_bytes())
    (tmp_path / "deploy" / "profiles").mkdir(parents=True)
    monkeypatch.setattr(settings, "ROOT", tmp_path)
    return tmp_path


def test_config_toml_holds_every_default() -> None:
    assert load_settings(environment={}).web.port == 8080


def test_all_problems_are_reported_together() -> None:
    found = problems(
        {"SOLEMATE__WEB__PORT": "0", "SOLEMATE__MODEL__TEMPERATURE": "9", "SOLEMATE__WBE__HOST": ""}
    )
    assert len(found) == 3


def test_an_unknown_key_is_answered_with_the_nearest_name() -> None:
    assert problems({"SOLEMATE__WEB__PROT": "1"}) == [
        "Unknown setting 'web.prot'; did you mean 'port'."
    ]


def test_an_unknown_section_is_answered_with_the_nearest_name(tmp_path: Path) -> None:
    config = toml(tmp_path / "own.toml", "[retreival]\ntop_k = 3\n")
    assert problems({}, config) == ["Unknown setting 'retreival'; did you mean 'retrieval'."]


def test_a_name_near_nothing_is_answered_with_all_names() -> None:
    assert problems({"SOLEMATE__LOGGING__ZZZZ": "1"}) == [
        "Unknown setting 'logging.zzzz'; known are file, level."
    ]


def test_a_variable_without_a_key_is_a_problem() -> None:
    assert "names no key" in problems({"SOLEMATE__WEB": "1"})[0]


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("WEB__PORT", "abc", "The setting 'web.port' is 'abc': it must be a whole number."),
        ("WEB__PORT", "70000", "'web.port' is 70000: it must be at most 65535"),
        ("MODEL__EMBEDDED", "maybe", "'model.embedded' is 'maybe': allowed are true and false."),
        ("RETRIEVAL__FUSION", "rff", "'rff': allowed are 'weighted', 'rrf'."),
        ("MODEL__DEADLINE_SECONDS", "inf", "is inf: it must be a finite number."),
        ("WEB__ALLOWED_ORIGINS", "[oops", "'[oops': it must be a list."),
    ],
)
def test_a_wrong_value_names_key_value_and_what_is_allowed(
    variable: str, value: str, said: str
) -> None:
    (problem,) = problems({f"SOLEMATE__{variable}": value})
    assert said in problem


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[web]\nport = true", "'web.port' is True: it must be a whole number."),
        ('[web]\nport = "8080"', "'web.port' is '8080': it must be a whole number."),
        ('[model]\nembedded = "no"', "allowed are true and false."),
        ("web = 3", "The setting 'web' is 3: it must be a table of settings."),
    ],
)
def test_a_file_must_hold_the_right_types(tmp_path: Path, line: str, said: str) -> None:
    assert said in problems({}, toml(tmp_path / "own.toml", line))[0]


@pytest.mark.parametrize(
    ("text", "origins"),
    [
        ("", []),
        ("https://a.example", ["https://a.example"]),
        ("https://a.example, https://b.example", ["https://a.example", "https://b.example"]),
        ('["https://a.example"]', ["https://a.example"]),
    ],
)
def test_a_list_comes_from_the_environment(text: str, origins: list[str]) -> None:
    loaded = load_settings(environment={"SOLEMATE__WEB__ALLOWED_ORIGINS": text})
    assert loaded.web.allowed_origins == origins


@pytest.mark.parametrize(("text", "value"), [("false", False), ("0", False), ("YES", True)])
def test_a_boolean_comes_from_the_environment(text: str, value: bool) -> None:
    assert load_settings(environment={"SOLEMATE__MODEL__EMBEDDED": text}).model.embedded is value


def test_later_layers_win(root: Path) -> None:
    toml(root / "deploy" / "profiles" / "big.toml", "[web]\nport = 1\n[limits]\nlanes = 2\n")
    own = toml(root / "own.toml", "[web]\nport = 3\n[retrieval]\ntop_k = 4\n")
    loaded = load_settings(
        own, profile="big", environment={"SOLEMATE__RETRIEVAL__TOP_K": "5", "OTHER": "x"}
    )
    assert (loaded.limits.lanes, loaded.web.port, loaded.retrieval.top_k) == (2, 3, 5)


def test_the_environment_chooses_the_profile(root: Path) -> None:
    toml(root / "deploy" / "profiles" / "big.toml", "[web]\nport = 1\n")
    assert load_settings(environment={"SOLEMATE_PROFILE": "big"}).web.port == 1


@pytest.mark.parametrize("name", ["small", "../../config"])
def test_an_unknown_profile_is_answered_with_the_known_ones(root: Path, name: str) -> None:
    toml(root / "deploy" / "profiles" / "big.toml", "")
    with pytest.raises(ConfigError, match=r"choose one of: big\."):
        load_settings(profile=name, environment={})


def test_a_profile_where_there_is_none_is_answered_with_their_folder(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"'small'; '.*profiles' holds none\."):
        load_settings(profile="small", environment={})


def test_the_environment_wins_over_dotenv(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toml(root / ".env", "SOLEMATE__WEB__PORT=1\nSOLEMATE__LIMITS__LANES=2\nMODEL_API_KEY=a${b}c\n")
    monkeypatch.setenv("SOLEMATE__WEB__PORT", "3")
    monkeypatch.delenv("MODEL_API_KEY", raising=False)
    loaded = load_settings()
    assert (loaded.web.port, loaded.limits.lanes) == (3, 2)
    assert loaded.secrets.MODEL_API_KEY is not None
    assert loaded.secrets.MODEL_API_KEY.get_secret_value() == "a${b}c"


def test_a_dotenv_that_is_no_text_is_a_config_error(root: Path) -> None:
    (root / ".env").write_bytes(b"KEY=\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings()


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    config = toml(tmp_path / "own.toml", "\ufeff[web]\nport = 9\n")
    assert load_settings(config, environment={}).web.port == 9


@pytest.mark.parametrize("content", [b"port =", b"\xff\xfe"])
def test_a_broken_file_is_a_config_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "own.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"own\.toml' cannot be read"):
        load_settings(path, environment={})


def test_a_missing_file_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="There is no settings file"):
        load_settings(tmp_path / "none.toml", environment={})


def test_a_missing_key_names_itself(root: Path) -> None:
    text = (root / "config.toml").read_text(encoding="utf-8")
    toml(root / "config.toml", text.replace("port = 8080", ""))
    assert problems({}) == ["The setting 'web.port' is missing; config.toml has its default."]


def test_secrets_are_never_printed() -> None:
    loaded = load_settings(environment={"MODEL_API_KEY": "sesame"})
    assert "sesame" not in repr(loaded) + str(loaded) + loaded.model_dump_json()


def test_an_empty_secret_is_none() -> None:
    assert load_settings(environment={"MODEL_API_KEY": ""}).secrets.MODEL_API_KEY is None


def test_a_secret_in_a_file_is_refused_without_printing_it(tmp_path: Path) -> None:
    config = toml(tmp_path / "own.toml", '[secrets]\nMODEL_API_KEY = "sesame"\n')
    (problem,) = problems({}, config)
    assert "MODEL_API_KEY" in problem
    assert "sesame" not in problem


def test_a_password_in_a_wrong_address_is_not_printed() -> None:
    (problem,) = problems({"SOLEMATE__DATABASE__URL": "mysql://me:sesame@host/x"})
    assert "mysql://" in problem
    assert "sesame" not in problem


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings(environment={}).web.port = 1


def test_telegrams_lists_hold_numbers_however_they_are_written() -> None:
    environment = {
        "SOLEMATE__TELEGRAM__ALLOWED_USERS": "11, 12",
        "SOLEMATE__TELEGRAM__ALLOWED_CHATS": "[-500]",
    }
    chosen = load_settings(environment=environment).telegram
    assert (chosen.allowed_users, chosen.allowed_chats) == ([11, 12], [-500])


def test_a_name_among_telegrams_numbers_is_a_problem() -> None:
    (problem,) = problems({"SOLEMATE__TELEGRAM__OPERATORS": "ann"})
    assert "telegram.operators" in problem


def test_several_model_servers_are_listed_with_commas() -> None:
    url = "http://a:8000/v1, http://b:8000/v1/"
    loaded = load_settings(environment={"SOLEMATE__MODEL__BASE_URL": url})
    assert loaded.model.replicas == ["http://a:8000/v1", "http://b:8000/v1"]
    with pytest.raises(ConfigError, match="model.base_url"):
        load_settings(environment={"SOLEMATE__MODEL__BASE_URL": "http://a/v1,b:8000"})


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({"HF_DATASETS_CACHE": "/c", "HF_HOME": "/h"}, "/c"),
        ({"HF_HOME": "/h", "XDG_CACHE_HOME": "/x"}, "/h/datasets"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/huggingface/datasets"),
    ],
)
def test_the_cache_of_rows_is_where_its_library_looks(
    environment: dict[str, str], place: str
) -> None:
    assert shared_datasets_cache(environment) == Path(place)
