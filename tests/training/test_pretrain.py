"""The base is trained the same way whether or not it was interrupted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from training.corpus import Corpus, Request
from training.material import Entry, Material, Question
from training.pretrain import (
    PretrainPlan,
    Shape,
    Step,
    collate,
    encode_exercise,
    loss_of,
    new_model,
    pretrain,
    save_model,
)
from training.tokenizer import make_tokenizer

SHAPE = Shape(layers=5, width=64, heads=4, inner=64)
PLAN = PretrainPlan(tokens=30_000, batch_tokens=3_000, save_every=1)


class Interrupted(Exception):
    """What a test raises in the middle of a training."""


def _entry(name: str, title: str, said: tuple[str, ...], lang: str) -> Entry:
    joint = "" if lang == "zh" else " "
    return Entry(name, title, joint.join(said), said, "types", "zh" if lang == "zh" else "en")


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    entries = [
        _entry(f"z{n}", f"{kind}鞋", (f"{kind}鞋是第{n}种鞋。", f"它适合{kind}天穿。"), "zh")
        for n, kind in enumerate("春夏秋冬")
    ] + [
        _entry(f"e{n}", f"{kind} shoe", (f"{kind} shoes are kind {n}.", "They are light."), "en")
        for n, kind in enumerate(("Spring", "Summer", "Autumn", "Winter"))
    ]
    questions = tuple(
        Question(entry.id, f"{entry.title}?", (1,), entry.lang, "plain") for entry in entries
    )
    return Corpus(Material({entry.id: entry for entry in entries}, questions))


@pytest.fixture(scope="module")
def tokenizer(corpus: Corpus) -> PreTrainedTokenizerFast:
    return make_tokenizer([entry.text for entry in corpus.material.entries.values()])


def _train(tokenizer: PreTrainedTokenizerFast, corpus: Corpus, folder: Path, stop: int) -> None:
    def watch(step: Step) -> None:
        if step.tokens > stop:
            raise Interrupted

    pretrain(new_model(tokenizer, SHAPE, 1), tokenizer, corpus, PLAN, folder, watch)


def test_a_resumed_training_ends_with_the_same_weights(
    tokenizer: PreTrainedTokenizerFast, corpus: Corpus, tmp_path: Path
) -> None:
    _train(tokenizer, corpus, tmp_path / "whole", stop=10**9)
    with pytest.raises(Interrupted):
        _train(tokenizer, corpus, tmp_path / "halves", stop=20_000)
    _train(tokenizer, corpus, tmp_path / "halves", stop=10**9)
    whole, halves = (
        AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict()
        for name in ("whole", "halves")
    )
    assert all(torch.equal(whole[key], halves[key]) for key in whole)


def test_a_request_does_not_see_the_others(
    tokenizer: PreTrainedTokenizerFast, corpus: Corpus
) -> None:
    import random

    made = corpus.real(random.Random(4))
    model = new_model(tokenizer, SHAPE, 1).eval()
    first, alone = made.requests[0], replace(made, requests=made.requests[:1])
    other = replace(made, requests=(Request("？", "无。"), first))
    losses = []
    for exercise, skipped in ((alone, 0), (other, 1)):
        encoded = encode_exercise(tokenizer, exercise, 1024)
        for place, block in enumerate(encoded.block):
            encoded.taught[place] &= block == skipped + 1
        batch = collate([encoded], tokenizer.pad_token_id)
        losses.append(loss_of(model, batch).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


def test_untrained_weights_already_copy(tokenizer: PreTrainedTokenizerFast, corpus: Corpus) -> None:
    model = new_model(tokenizer, Shape(), 1).eval()
    words = torch.randperm(3_000, generator=torch.Generator().manual_seed(1))[:40] + 300
    ids = torch.cat([words, words])[None]
    with torch.no_grad():
        guess = model(input_ids=ids).logits[0, 40:-1].argmax(-1)
    assert (guess == words[1:]).float().mean() > 0.5


def test_the_weights_lie_on_disk_in_half_precision_and_are_read_as_float32(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = new_model(tokenizer, SHAPE, 1)
    save_model(model, tokenizer, tmp_path)
    read = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert {weight.dtype for weight in read.parameters()} == {torch.float32}
    weights = sum(weight.numel() for weight in model.parameters())
    assert (tmp_path / "model.safetensors").stat().st_size < 2.2 * weights
    assert read.generation_config.eos_token_id == tokenizer.eos_token_id
