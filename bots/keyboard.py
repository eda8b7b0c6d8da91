"""Lines typed at the terminal, waited for while everything else goes on."""

from __future__ import annotations

import asyncio
import sys

from rich.console import Console


async def typed_line(console: Console, prompt: str) -> str:
    """What is typed up to Enter; raises `EOFError` at the end of the input."""
    console.print(prompt, end="")
    if sys.stdin.isatty():
        await _readable(sys.stdin.fileno())
    return console.input()


async def _readable(file: int) -> None:
    """Wait until a line can be read without waiting; a terminal hands out whole lines."""
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(file, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(file)
