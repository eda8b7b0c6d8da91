"""A trained adapter, stronger or weaker than it was trained: what it changes, times a factor.

Beyond 1 that goes on in the direction of the training (ExPO, arXiv 2404.16792), below 1 part of the
way back to the base (WiSE-FT, arXiv 2109.01903). Of a LoRA it is one number, so that another
strength costs a look at the answers and no training.
"""

from __future__ import annotations

import json
import shutil
import uuid
from dataclasses import replace

from core.lora import CONFIG, WEIGHTS
from training.runs import Run
from training.seal import SEAL, check_seal, put_seal

_TRAINER_STATE = "trainer_state.json"


def at_strength(run: Run, strength: float) -> Run:
    """The run with its adapter at this strength, which lies in `Run.candidate`, sealed as well.

    Raises `AdapterRejected` where what was trained is not as it was sealed.
    """
    tried = replace(run, figures={**run.figures, "strength": strength})
    place = tried.candidate
    if place == run.output or (place / SEAL).exists():
        return tried
    seal = check_seal(run.output, run=run.id, dataset=run.dataset)
    # It takes its place whole, so that a seal there means that all is there.
    fresh = place.with_name(f".{uuid.uuid4().hex}")
    fresh.mkdir()
    try:
        for name in (WEIGHTS, _TRAINER_STATE):
            shutil.copyfile(run.output / name, fresh / name, follow_symlinks=False)
        config = json.loads((run.output / CONFIG).read_bytes())
        config["lora_alpha"] *= strength
        (fresh / CONFIG).write_text(json.dumps(config, indent=1), "utf-8")
        put_seal(fresh, **seal.model_dump(exclude={"files"}))
        fresh.rename(place)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return tried
