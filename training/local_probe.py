"""Whether this machine can train, for `solemate doctor`."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from core.doctor import Finding, Health
from core.settings import Settings, at_root
from training.llamafactory import recipe

_LOOK = (
    "import sys\n"
    "from importlib.util import find_spec\n"
    "print(*(name for name in sys.argv[1:] if find_spec(name) is None))"
)


def examine_here(settings: Settings) -> Finding:
    """Look for what the settings' recipe needs in the interpreter that would train.

    Answers need none of it, so that nothing here is worse than a warning.
    """
    training = settings.training
    if wrong := misfit(settings):
        return Finding("training", Health.WARNING, f"{training.recipe} trains another model", wrong)
    keys = recipe("dpo", {}, model=training.recipe)
    if training.python and not Path(training.python).is_file():
        advice = "Correct training.python, or empty it for the interpreter that runs solemate."
        return Finding("training", Health.WARNING, f"no file {training.python}", advice)
    if missing := _missing(training.python, packages_for(keys)):
        return Finding(
            "training",
            Health.WARNING,
            f"{training.recipe} needs {' and '.join(missing)}",
            f"Run `uv pip install --python {training.python or '.venv/bin/python'} "
            f"{' '.join(missing)}`, name another interpreter with training.python, or another "
            "recipe.",
        )
    if training.python:
        return Finding("training", Health.OK, f"{training.recipe}, by {training.python}")
    if not keys.get("use_cpu") and not _sees_a_card():
        advice = "Train on another machine (training.launcher), or choose the recipe 'embedded'."
        return Finding("training", Health.WARNING, f"{training.recipe} needs a GPU", advice)
    return Finding("training", Health.OK, f"{training.recipe}, on this machine")


def packages_for(keys: Mapping[str, Any]) -> list[str]:
    """What an interpreter must have to train by a recipe with these keys."""
    needed = ["llamafactory"]
    needed += ["deepspeed"] if keys.get("deepspeed") else []
    needed += ["bitsandbytes"] if keys.get("quantization_bit") else []
    return needed


def _missing(python: str, packages: Sequence[str]) -> list[str]:
    """Those that an interpreter lacks; "" is this one. One that does not run lacks them all."""
    if not python:
        return [name for name in packages if find_spec(name) is None]
    command = [python, "-c", _LOOK, *packages]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return list(packages)
    return done.stdout.split()


def misfit(settings: Settings) -> str:
    """Why no adapter of the recipe would ever fit the shipped server's model, "" where they do.

    What a server of somebody's own serves is not known here.
    """
    if not settings.model.embedded:
        return ""
    keys = recipe("dpo", {}, model=settings.training.recipe)
    # What is trained on a merged model of its own names none.
    trained = str(keys.get("model_name_or_path", "its own merged SFT model"))
    if at_root(trained) == at_root(settings.model.expert):
        return ""
    return (
        f"Its adapters fit {trained}, and model.expert is {settings.model.expert!r}: choose the "
        "recipe 'embedded', or serve that model yourself and set model.embedded = false."
    )


def _sees_a_card() -> bool:
    import torch

    return bool(torch.cuda.is_available())
