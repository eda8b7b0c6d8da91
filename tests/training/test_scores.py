"""The figures are LLaMA-Factory's own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from training.scores import bleu_4, rouge_l

ROOT = Path(__file__).parents[2]
ROWS = [
    ("您好，关于帆布鞋：帆布鞋可以手洗，水温不超过30度。", "您好，关于帆布鞋：帆布鞋可以手洗。"),
    ("About loafers: they have no laces.", "About loafers: Loafers have no laces. Slip them on."),
    ("乐福鞋没有鞋带。穿脱方便！", "乐福鞋没有鞋带，穿脱方便。适合上班。"),
    ("这个我不知道。", "About canvas shoes: wash them by hand."),
    ("鞋", "鞋"),
    (" ", "鞋带要松一点。"),
]


class OneRow:
    """A tokenizer that knows two texts: what was said and what was wanted."""

    pad_token_id = 0

    def __init__(self, *texts: str) -> None:
        self._texts = texts

    def batch_decode(self, tokens: NDArray[np.int64], skip_special_tokens: bool) -> list[str]:
        return [self._texts[int(row[0])] for row in tokens]


@pytest.fixture(scope="module")
def llamafactory() -> Iterator[ModuleType]:
    """Its module of metrics; an empty `torchaudio` stands in where there is none."""
    with pytest.MonkeyPatch.context() as patch:
        if find_spec("torchaudio") is None:
            stand_in = ModuleType("torchaudio")
            stand_in.__spec__ = ModuleSpec("torchaudio", None)
            patch.setitem(sys.modules, "torchaudio", stand_in)
        import llamafactory.train.sft.metric as metric

        yield metric


@pytest.mark.parametrize(("answer", "reference"), ROWS)
def test_an_answer_scores_what_llamafactory_gives_it(
    llamafactory: ModuleType, answer: str, reference: str
) -> None:
    theirs = llamafactory.ComputeSimilarity(OneRow(answer, reference))(
        SimpleNamespace(predictions=np.array([[0]]), label_ids=np.array([[1]]))
    )
    assert bleu_4(answer, reference) == pytest.approx(theirs["bleu-4"])
    assert rouge_l(answer, reference) == pytest.approx(theirs["rouge-l"])


def test_the_right_answer_scores_a_hundred() -> None:
    text = "您好，关于帆布鞋：帆布鞋可以手洗。"
    assert bleu_4(text, text) == pytest.approx(100)
    assert rouge_l(text, text) == pytest.approx(100)


def test_silence_scores_nothing() -> None:
    assert bleu_4("", "帆布鞋") == 0
    assert rouge_l("", "帆布鞋") == 0


def test_the_dictionary_is_read_in_silence() -> None:
    program = "from training.scores import rouge_l; rouge_l('帆布鞋怎么洗', '帆布鞋')"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout + done.stderr == ""
