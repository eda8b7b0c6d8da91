"""How long it takes from a thumbs-down until what it teaches is live, in the demonstration."""

from __future__ import annotations

from bench.expert import Expert
from bench.figures import Figure, Goal
from core.errors import TrainingFailed
from core.settings import at_root
from training.commands.demo import ROWS
from training.demo import show_the_loop

_PART = "learning"
_MOST_SECONDS = 180.0


async def measure(expert: Expert) -> list[Figure]:
    """Thirty corrections, one run; nothing where no training is measured, or the gate refuses."""
    if not expert.effort.training_steps:
        return []
    folder = expert.folder / "learning"
    try:
        shown = await show_the_loop(expert.settings, folder, at_root(ROWS), lambda line: None)
    except TrainingFailed:
        # What so small a model learns is not always an improvement: then nothing went live.
        return []
    name = f"thumbs-down → live, {len(shown.lessons)} corrections"
    return [
        Figure(_PART, f"{name}: processor time", shown.processor_seconds, "s", Goal(_MOST_SECONDS)),
        Figure(_PART, name, shown.learning_seconds, "s"),
    ]
