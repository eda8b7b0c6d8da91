"""The short run goes through every measurement; how long anything takes is no test's business."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import typer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from typer.testing import CliRunner

from bench import learning
from bench.__main__ import main, measured
from bench.effort import FULL, QUICK
from bench.expert import Expert
from bench.figures import Figure, Goal, percentile, to_json
from core.settings import load_settings
from training.demo import NotLive

pytestmark = pytest.mark.long

TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
ROWS = {
    "own time an answer": 8,
    "embedded server": 2,
    "first token": 5,
    "photos": 4,
    "search": 9,
    "many conversations": 3,
    "commits": 3,
}


@pytest.fixture
def untrained(tmp_path: Path) -> Path:
    """A tiny model of random weights that reads bytes."""
    torch.manual_seed(0)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<pad>": 0, "<eos>": 1} | {sign: at for at, sign in enumerate(alphabet, 2)}
    raw = Tokenizer(models.BPE(vocabulary, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>", chat_template=TEMPLATE
    ).save_pretrained(tmp_path)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=8192,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.timeout(1200)
async def test_the_table_has_every_row_and_finite_figures(untrained: Path) -> None:
    figures = await measured(QUICK, untrained)
    assert {part: sum(one.part == part for one in figures) for part in ROWS} == ROWS
    assert [one for one in figures if not math.isfinite(one.value)] == []
    assert len(json.loads(to_json(figures))) == len(figures)


async def test_a_part_can_be_measured_alone(untrained: Path) -> None:
    figures = await measured(QUICK, untrained, ["commits"])
    assert {one.part for one in figures} == {"commits"}


@pytest.mark.parametrize("refused", [False, True])
async def test_learning_says_whether_anything_went_live_and_why_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    async def show(*_: object) -> SimpleNamespace:
        if refused:
            raise NotLive("The gate refused it: G4 golden.", 90.0, 70.0)
        return SimpleNamespace(lessons=[1, 2], learning_seconds=90.0, processor_seconds=70.0)

    monkeypatch.setattr(learning, "show_the_loop", show)
    expert = Expert(load_settings(environment={}), tmp_path, FULL, tmp_path)
    live, processor, wall = await learning.measure(expert)
    assert live.met is not refused
    assert ("G4 golden" in live.name) is refused
    assert (processor.value, wall.value) == (70.0, 90.0)
    # How quickly something is refused is no goal.
    assert processor.met is (None if refused else True)
    assert await learning.measure(replace(expert, effort=QUICK)) == []


def test_a_part_that_there_is_not_is_told() -> None:
    program = typer.Typer()
    program.command()(main)
    result = CliRunner().invoke(program, ["--only", "nothing of the kind"])
    assert result.exit_code == 2
    assert "a training run" in result.output


@pytest.mark.parametrize(
    ("goal", "value", "met"),
    [(Goal(10), 10, True), (Goal(10), 11, False), (Goal(60, at_least=True), 59, False)],
)
def test_a_goal_is_met_on_its_own_side_of_the_limit(goal: Goal, value: float, met: bool) -> None:
    assert Figure("part", "name", value, "ms", goal).met is met


def test_the_99th_percentile_is_one_of_the_values() -> None:
    assert percentile(list(range(1, 101)), 0.99) == 99
    assert percentile([3.0, 1.0], 0.99) == 3.0
