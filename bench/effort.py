"""How much is measured: the whole run, or a short one that only shows that everything works."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Effort:
    """How often each thing is done, the slow ones `few` times; `warm_up` questions do not count.

    No training is measured where it has no steps: its start alone takes half a minute.

    `replicas` are numbers of processes that answer at once; each of them takes seconds to start.

    `talks` are numbers of conversations held with vLLM at once; its start alone takes minutes.

    `sizes` are numbers of passages, the first one is what the others are compared with; `rates` are
    messages a second.
    """

    warm_up: int
    questions: int
    pairs: int
    photos: int
    few: int
    sizes: tuple[int, ...]
    searches: int
    conversations: int
    rounds: int
    calm_messages: int
    rates: tuple[int, ...]
    crowd_seconds: int
    training_steps: int
    talks: tuple[int, ...]
    commits: int
    replicas: tuple[int, ...]


FULL = Effort(
    warm_up=20,
    questions=400,
    pairs=24,
    photos=12,
    few=5,
    sizes=(1_000, 10_000, 100_000),
    searches=100,
    conversations=64,
    rounds=6,
    calm_messages=100,
    rates=(20, 40, 100),
    crowd_seconds=15,
    training_steps=40,
    talks=(1, 8, 32),
    commits=4_000,
    replicas=(1, 3),
)
QUICK = Effort(
    warm_up=1,
    questions=6,
    pairs=2,
    photos=2,
    few=1,
    sizes=(50, 100, 200),
    searches=3,
    conversations=4,
    rounds=2,
    calm_messages=4,
    rates=(4,),
    crowd_seconds=1,
    training_steps=0,
    talks=(),
    commits=20,
    replicas=(),
)
