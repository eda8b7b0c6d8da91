"""Numbers that have to be read again, written so that only whoever has the key can read them."""

from __future__ import annotations

import hmac

# As in FF1 of NIST SP 800-38G; four are enough where the rounds are random (Luby, Rackoff, 1988).
_ROUNDS = 10
_HALF_BITS = 32
_HALF_DIGITS = _HALF_BITS // 4


def seal(key: bytes, number: int) -> str:
    """The number, below 2 to the 64th, as 16 hexadecimal digits; always the same with one key."""
    left, right = divmod(number, 1 << _HALF_BITS)
    if not 0 <= left < 1 << _HALF_BITS:
        raise ValueError(f"{number!r} is no number of 64 bits")
    for turn in range(_ROUNDS):
        left, right = right, left ^ _mixed(key, turn, right)
    return f"{left:0{_HALF_DIGITS}x}{right:0{_HALF_DIGITS}x}"


def unseal(key: bytes, text: str) -> int:
    """The number that was sealed with this key; with another it is some other number."""
    if len(text) != 2 * _HALF_DIGITS:
        raise ValueError(f"{text!r} is no sealed number")
    left, right = int(text[:_HALF_DIGITS], 16), int(text[_HALF_DIGITS:], 16)
    for turn in reversed(range(_ROUNDS)):
        left, right = right ^ _mixed(key, turn, left), left
    return left << _HALF_BITS | right


def _mixed(key: bytes, turn: int, half: int) -> int:
    """The round function, a keyed hash."""
    digest = hmac.digest(key, f"seal:{turn}:{half}".encode(), "sha256")
    return int.from_bytes(digest[: _HALF_BITS // 8], "big")
