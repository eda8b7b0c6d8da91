"""How long it takes from a thumbs-down until what it teaches is live, in the demonstration."""

from __future__ import annotations

from bench.expert import Expert
from bench.figures import Figure, Goal
from core.settings import at_root
from training.commands.demo import ROWS
from training.demo import NotLive, show_the_loop

_PART = "learning"
_MOST_SECONDS = 180.0
_LIVE = Goal(1, at_least=True)


async def measure(expert: Expert) -> list[Figure]:
    """Thirty corrections, one run; nothing where no training is measured.

    What so small a model learns is not always an improvement: where the gate refuses it, that is
    the figure, with the gate's reason, and the seconds tell how long the refusal took.
    """
    if not expert.effort.training_steps:
        return []
    folder, rows = expert.folder / "learning", at_root(ROWS)
    try:
        shown = await show_the_loop(expert.settings, folder, rows, lambda line: None)
    except NotLive as exc:
        return [
            Figure(_PART, f"runs that went live ({exc})", 0, "", _LIVE),
            Figure(_PART, "thumbs-down → refused: processor time", exc.processor_seconds, "s"),
            Figure(_PART, "thumbs-down → refused", exc.learning_seconds, "s"),
        ]
    name = f"thumbs-down → live, {len(shown.lessons)} corrections"
    return [
        Figure(_PART, "runs that went live", 1, "", _LIVE),
        Figure(_PART, f"{name}: processor time", shown.processor_seconds, "s", Goal(_MOST_SECONDS)),
        Figure(_PART, name, shown.learning_seconds, "s"),
    ]
