"""`llamafactory-cli` with an empty `torchaudio` where there is none: no audio is trained on."""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType


def main() -> None:
    """Run LLaMA-Factory's command line with this process's arguments."""
    stand_in_for_torchaudio()
    if "LOCAL_RANK" in os.environ:
        # One of torchrun's processes: the command line would start a torchrun of its own again.
        from llamafactory.train.tuner import run_exp as run

        del sys.argv[1]
    else:
        from llamafactory.cli import main as run
    run()


def stand_in_for_torchaudio() -> None:
    """Let `import torchaudio` succeed; LLaMA-Factory imports it whatever it trains on."""
    if find_spec("torchaudio") is None:
        stand_in = ModuleType("torchaudio")
        stand_in.__spec__ = ModuleSpec("torchaudio", None)
        sys.modules["torchaudio"] = stand_in


if __name__ == "__main__":
    main()
