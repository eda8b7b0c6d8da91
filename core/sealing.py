"""Numbers that have to be read again, written so that only whoever has the key can read them."""

from __future__ import annotations

import base64
import hashlib

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from core.errors import ConfigError

_BLOCK = 16
# The number's place in the block; the rest is 0, by which a wrong key is noticed.
_BYTES = 8


def seal(key: bytes, number: int) -> str:
    """The number, below 2 to the 64th, as 20 characters, none a colon; the same with the same key.

    One block of AES, so that two sealed numbers can be compared and nothing else be told of them.
    """
    encryptor = _cipher(key).encryptor()
    block = number.to_bytes(_BYTES, "big").rjust(_BLOCK, b"\0")
    return base64.b85encode(encryptor.update(block)).decode()


def unseal(key: bytes, text: str) -> int:
    """The number that was sealed with this key; `ConfigError` where it was not."""
    try:
        sealed = base64.b85decode(text)
    except ValueError:
        sealed = b""
    block = _cipher(key).decryptor().update(sealed)
    if len(block) != _BLOCK or any(block[:-_BYTES]):
        raise ConfigError(
            "A chat's sealed number cannot be read: it was sealed with another key. Put the state "
            "folder's `*-secret` files of that time back."
        )
    return int.from_bytes(block, "big")


def _cipher(key: bytes) -> Cipher[ECB]:
    # Of a key of any length the 32 bytes that AES takes. A single block needs no mode.
    return Cipher(AES(hashlib.sha256(b"seal:" + key).digest()), ECB())
