"""BLEU-4 and ROUGE-L, 0 to 100, as LLaMA-Factory counts them for `predict_with_generate`.

BLEU-4 looks at characters (nltk, smoothing method 3 of Chen and Cherry, 2014), ROUGE-L at the words
that jieba finds (rouge-chinese, F1); both are rounded to four places for each answer. They compare
answers to the same questions with each other, and nothing else: sacreBLEU's figures are others.
"""

from __future__ import annotations

import logging
import warnings

from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

with warnings.catch_warnings():
    # Where they have not been compiled yet, Python minds the backslashes in their patterns.
    warnings.simplefilter("ignore")
    import jieba
    from rouge_chinese import Rouge

# It tells everybody on stderr that it reads its dictionary.
jieba.setLogLevel(logging.WARNING)


def bleu_4(answer: str, reference: str) -> float:
    """How many of the answer's runs of one to four characters the reference has; 0 for no text."""
    smoothing = SmoothingFunction().method3
    score = sentence_bleu([list(reference)], list(answer), smoothing_function=smoothing)
    return round(float(score) * 100, 4)


def rouge_l(answer: str, reference: str) -> float:
    """How long a common subsequence of words both have, sentence by sentence; 0 for no words."""
    said, wanted = _words(answer), _words(reference)
    if not said.split() or not wanted.split():
        return 0.0
    (scores,) = Rouge(metrics=["rouge-l"]).get_scores(said, wanted)
    return round(float(scores["rouge-l"]["f"]) * 100, 4)


def _words(text: str) -> str:
    return " ".join(jieba.cut(text))
