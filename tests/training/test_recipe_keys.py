"""A recipe that LLaMA-Factory would stumble over is refused before its slow start."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import get_args

import pytest

from core.errors import ConfigError
from training.llamafactory import known_models
from training.recipe_keys import check_keys
from training.train import Stage, plan_training

GOOD = {"stage": "dpo", "pref_beta": 0.1, "learning_rate": "5e-6", "template": "chatml"}


@pytest.mark.parametrize("stage", get_args(Stage))
@pytest.mark.parametrize("model", known_models())
def test_every_shipped_recipe_is_known(model: str, stage: Stage, tmp_path: Path) -> None:
    plan = plan_training(stage, tmp_path, datetime(2026, 3, 1), recipe_name=model)
    check_keys(plan.keys)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pref_bta": 0.1}, "no key 'pref_bta'. Did you mean 'pref_beta'"),
        ({"lora_rank": "many"}, "lora_rank is 'many': it must be int"),
        ({"lora_rank": True}, "lora_rank is True: it must be int"),
        ({"bf16": "yes"}, "bf16 is 'yes': it must be bool"),
        ({"stage": "dop"}, "stage is 'dop': allowed are 'pt', 'sft'"),
        ({"learning_rate": "fast"}, "learning_rate is 'fast': it must be float"),
        ({"template": "llama_3"}, "no template 'llama_3'. Did you mean 'llama3'"),
        ({"dpo_label_smoothing": 0.1, "pref_loss": "ipo"}, "needs pref_loss: sigmoid"),
        ({"val_size": 0.1, "eval_dataset": "d"}, "val_size and eval_dataset"),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, dict) else "",
)
def test_what_is_wrong_is_named(change: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_keys({**GOOD, **change})


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(ConfigError, match=r"(?s)pref_bta.*lora_rank"):
        check_keys({**GOOD, "pref_bta": 1, "lora_rank": "x"})


def test_a_good_recipe_is_let_through() -> None:
    check_keys(GOOD)
