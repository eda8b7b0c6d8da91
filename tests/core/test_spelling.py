"""What is required of a value is said in words, and the schema keeps the pattern."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, ValidationError

from core.spelling import Spelled, requirement


class Form(BaseModel):
    name: Annotated[str, Spelled(r"[a-z]{1,3}", "1 to 3 small letters")] = "a"
    number: Annotated[int, Field(ge=1, le=9)] = 1
    share: float = 0.5
    text: Annotated[str, Field(min_length=1)] = "x"
    wanted: bool = True
    kind: Literal["one", "two"] = "one"
    names: Annotated[list[str], Field(min_length=1)] = ["x"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"name": "abcd"}, "be 1 to 3 small letters"),
        ({"name": "abc\n"}, "be 1 to 3 small letters"),
        ({"name": 5}, "be text"),
        ({"number": "many"}, "be a whole number"),
        ({"number": 1.5}, "be a whole number"),
        ({"number": 10}, "be at most 9"),
        ({"share": "half"}, "be a number"),
        ({"text": ""}, "have at least 1 character"),
        ({"wanted": "perhaps"}, "be true or false"),
        ({"kind": "three"}, "be 'one' or 'two'"),
        ({"names": []}, "have at least 1 item, not 0"),
    ],
)
def test_a_requirement_is_said_in_words(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Form.model_validate(values)
    assert requirement(caught.value.errors()[0]) == words


def test_the_schema_keeps_the_pattern() -> None:
    assert Form.model_validate({"name": "abc"}).name == "abc"
    assert Form.model_json_schema()["properties"]["name"]["pattern"] == "^([a-z]{1,3})$"
