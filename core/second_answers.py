"""Another answer to a question that was answered already: for a duel, or for a judge to pick from.

It is sampled from the very prompt that was served, and shown to nobody unless it passes what every
answer passes: whole, no refusal, and standing on its passages.
"""

from __future__ import annotations

import re
from contextlib import aclosing
from dataclasses import dataclass, replace

from core.duplicates import says_the_same
from core.errors import AnswerUnsupported
from core.grounding import Ground, is_refusal
from core.guard import guarded
from core.messages import Language, Outcome, Turn
from core.model import ChatModel, Sampling
from core.wording import say

# As warm as Llama 3's rejection sampling is: cooler, and the samples are all the same.
TEMPERATURE = 0.8
_MOST_TOKENS = 200
_BLANK = "\0"
_LANGUAGES: tuple[Language, ...] = ("zh", "en")


@dataclass(frozen=True, slots=True)
class SecondAnswers:
    """Samples other answers; `min_support` is what their passages must hold of them."""

    model: ChatModel
    min_support: float

    async def sample(self, turn: Turn, adapter: str, sampling: Sampling) -> str | None:
        """Another answer that could have been given, None where this is none or says the same.

        Raises `ModelUnavailable` where the model cannot be asked.
        """
        text, finish = "", None
        pieces = self.model.stream(turn.prompt, adapter, sampling)
        shown = guarded(pieces, _ground(turn, self.min_support))
        try:
            async with aclosing(pieces), aclosing(shown) as safe:
                async for piece in safe:
                    text += piece.text
                    finish = piece.finish_reason
        except AnswerUnsupported:
            return None
        said = text.strip()
        if finish != "stop" or is_refusal(said) or says_the_same(said, own_text(turn)):
            return None
        return said


def served_sampling(turn: Turn) -> Sampling:
    """What the model was asked with when it gave the turn's answer."""
    asked = {"max_tokens": _MOST_TOKENS, "temperature": 0.0, **turn.sampling}
    return Sampling(**{**asked, "stop": tuple(asked.get("stop", ()))})


def warm_sampling(turn: Turn, seed: int) -> Sampling:
    """The same, but so warm that another seed gives another answer."""
    return replace(served_sampling(turn), temperature=TEMPERATURE, seed=seed)


def own_text(turn: Turn) -> str:
    """What a better answer would be better than, without any sentence of ours.

    The model's words, or the passage that was quoted in their place.
    """
    if turn.reply.outcome is Outcome.QUOTED:
        return "\n\n".join(source.text for source in turn.reply.sources)
    return _LEADS[turn.reply.language].sub("", turn.reply.text, count=1)


def _ground(turn: Turn, min_support: float) -> Ground:
    """What the answer may say: question and tags, as they stand in the prompt, and passages."""
    given = (f"{passage.title}\n{passage.text}" for passage in turn.passages)
    return Ground.of(given, min_support, also=(turn.prompt[-1].content,))


def _lead(language: Language) -> re.Pattern[str]:
    pattern = re.escape(say("photo_differs", language, seen=_BLANK, said=_BLANK))
    pattern = pattern.replace(_BLANK, ".{1,60}?")
    return re.compile(rf"\A{pattern}\s?")


_LEADS = {language: _lead(language) for language in _LANGUAGES}
