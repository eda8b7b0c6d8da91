"""Sealed numbers: read again with the key, and with no other."""

from __future__ import annotations

import random

import pytest

from core.sealing import seal, unseal

KEY = b"a key for tests"
NUMBERS = [0, 1, 11, 2**32 - 1, 2**32, 2**52 - 1, 2**64 - 1]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_sealed_number_is_read_again(number: int) -> None:
    assert unseal(KEY, seal(KEY, number)) == number


def test_no_two_numbers_look_the_same() -> None:
    dice = random.Random(8)
    numbers = {*range(5000), *(dice.randrange(2**52) for _ in range(5000))}
    assert len({seal(KEY, number) for number in numbers}) == len(numbers)


def test_another_key_reads_something_else() -> None:
    assert unseal(b"another", seal(KEY, 11)) != 11
    assert seal(b"another", 11) != seal(KEY, 11)


def test_about_half_of_all_digits_change_with_the_smallest_step() -> None:
    changed = [bin(int(seal(KEY, n), 16) ^ int(seal(KEY, n + 1), 16)).count("1") for n in range(99)]
    assert 28 < sum(changed) / len(changed) < 36


@pytest.mark.parametrize("number", [-1, 2**64])
def test_no_other_numbers_are_taken(number: int) -> None:
    with pytest.raises(ValueError, match="64 bits"):
        seal(KEY, number)


@pytest.mark.parametrize("text", ["", "0" * 15, "0" * 17, "g" * 16])
def test_what_is_no_sealed_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"sealed|base 16"):
        unseal(KEY, text)
