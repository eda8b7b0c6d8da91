"""`llamafactory-cli` with an empty `torchaudio` where there is none: no audio is trained on."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType


def main() -> None:
    """Run LLaMA-Factory's command line with this process's arguments."""
    if find_spec("torchaudio") is None:
        stand_in = ModuleType("torchaudio")
        stand_in.__spec__ = ModuleSpec("torchaudio", None)
        sys.modules["torchaudio"] = stand_in
    from llamafactory.cli import main as run

    run()


if __name__ == "__main__":
    main()
