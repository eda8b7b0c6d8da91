"""Texts that must be spelled in a certain way, and what is required of a value, in words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import PydanticCustomError, core_schema

_IN_WORDS = {
    "int": "be a whole number",
    "float": "be a number",
    "string": "be text",
    "bool": "be true or false",
}
_SHORTER = {
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
    "a valid ": "a ",
    " after validation": "",
}
_OPENING = re.compile(r"^(?:Input|String|List|Value|Dictionary|Tuple) should ")


@dataclass(frozen=True, slots=True)
class Spelled:
    """Marks a text that has to match `pattern` whole; people are told `words`, "an address"."""

    pattern: str
    words: str

    def fits(self, value: str) -> bool:
        """Whether the value is spelled so."""
        return re.fullmatch(self.pattern, value) is not None

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return handler(schema) | {"pattern": f"^({self.pattern})$"}

    def _check(self, value: str) -> str:
        if not self.fits(value):
            raise PydanticCustomError("spelling", "Input should be {words}", {"words": self.words})
        return value


# Four characters shorter than the store's keys, which begin with "api:".
CONVERSATION = Spelled(r"[A-Za-z0-9_-]{1,60}", "1 to 60 letters, digits, '_' or '-'")
"""What a caller may name a conversation."""


def requirement(error: Mapping[str, Any]) -> str:
    """What pydantic's error says of a value, as it goes on after "must": "be a whole number"."""
    kind, _, what = str(error["type"]).partition("_")
    if kind in _IN_WORDS and what in ("type", "parsing", "from_float"):
        return _IN_WORDS[kind]
    said = _OPENING.sub("", str(error["msg"]))
    for long, short in _SHORTER.items():
        said = said.replace(long, short)
    return said
