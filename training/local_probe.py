"""Whether this machine can train, for `solemate doctor`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from core.doctor import Finding, Health
from core.settings import Settings, at_root
from training.llamafactory import recipe


def examine_here(settings: Settings) -> Finding:
    """Look for what the settings' recipe needs in the interpreter that would train.

    Answers need none of it, so that nothing here is worse than a warning.
    """
    training = settings.training
    if wrong := misfit(settings):
        return Finding("training", Health.WARNING, f"{training.recipe} trains another model", wrong)
    keys = recipe("dpo", {}, model=training.recipe)
    if training.python:
        if not Path(training.python).is_file():
            advice = "Correct training.python, or empty it for the interpreter that runs solemate."
            return Finding("training", Health.WARNING, f"no file {training.python}", advice)
        return Finding("training", Health.OK, f"{training.recipe}, by {training.python}")
    needed = ["llamafactory"]
    needed += ["deepspeed"] if "deepspeed" in keys else []
    needed += ["bitsandbytes"] if "quantization_bit" in keys else []
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        return Finding(
            "training",
            Health.WARNING,
            f"{training.recipe} needs {' and '.join(missing)}",
            f"Run `uv pip install --python .venv/bin/python {' '.join(missing)}`, name another "
            "interpreter with training.python, or another recipe.",
        )
    if not keys.get("use_cpu") and not _sees_a_card():
        advice = "Train on another machine (training.launcher), or choose the recipe 'embedded'."
        return Finding("training", Health.WARNING, f"{training.recipe} needs a GPU", advice)
    return Finding("training", Health.OK, f"{training.recipe}, on this machine")


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
