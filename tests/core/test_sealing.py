"""Sealed numbers: read again with the key, and with no other."""

from __future__ import annotations

import pytest

from core.errors import ConfigError
from core.sealing import seal, unseal

KEY = b"a key for tests"
NUMBERS = [0, 1, 11, 2**32, 2**52 - 1, 2**64 - 1]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_sealed_number_is_read_again(number: int) -> None:
    assert unseal(KEY, seal(KEY, number)) == number
    assert seal(KEY, number) == seal(KEY, number)


def test_no_two_numbers_look_the_same() -> None:
    assert len({seal(KEY, number) for number in NUMBERS}) == len(NUMBERS)


def test_a_sealed_number_does_not_show_it() -> None:
    sealed = seal(KEY, 4711)
    assert len(sealed) == 20
    assert ":" not in sealed
    assert "4711" not in sealed
    assert f"{4711:x}" not in sealed


def test_another_key_reads_nothing() -> None:
    assert seal(b"another", 11) != seal(KEY, 11)
    with pytest.raises(ConfigError, match="another key"):
        unseal(b"another", seal(KEY, 11))


@pytest.mark.parametrize("number", [-1, 2**64])
def test_no_other_numbers_are_taken(number: int) -> None:
    with pytest.raises(OverflowError):
        seal(KEY, number)


@pytest.mark.parametrize("text", ["", "AAAA", "no digits", "é", "A" * 20, "~" * 20, "A" * 40])
def test_what_is_no_sealed_number_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        unseal(KEY, text)


def test_a_sealed_number_that_was_changed_is_refused() -> None:
    sealed = seal(KEY, 11)
    with pytest.raises(ConfigError):
        unseal(KEY, ("a" if sealed[0] != "a" else "b") + sealed[1:])
