"""Opens what collecting and reviewing pairs needs, from the settings."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from pydantic import SecretStr

from core.openai_model import OpenAIChatModel
from core.second_answers import SecondAnswers
from core.settings import Settings, at_root
from training.collect import PairRules
from training.filters import FROM_NOWHERE, Measures, SensitiveWords
from training.judge import Judge, ModelJudge, RuleJudge, SecondTry
from training.pairs import PoolRules
from training.review import ReviewPolicy
from training.tokens import most_tokens, token_counter

SENSITIVE_WORDS = at_root("data/sensitive_words.txt")


@asynccontextmanager
async def open_rules(settings: Settings, *, regenerate: bool = True) -> AsyncIterator[PairRules]:
    """The rules that the settings make; without `regenerate` no model is asked for answers.

    Raises `DataError` where the list of sensitive words cannot be read.
    """
    async with AsyncExitStack() as stack:
        wanted = regenerate and settings.feedback.regenerate > 0
        yield PairRules(
            policy=ReviewPolicy.of(settings),
            pool=PoolRules.of(settings),
            measures=Measures(
                SensitiveWords.load(SENSITIVE_WORDS),
                token_counter(settings),
                most_tokens(settings),
            ),
            second_try=await _open_second_try(settings, stack) if wanted else None,
        )


async def _open_second_try(settings: Settings, stack: AsyncExitStack) -> SecondTry:
    secrets, feedback = settings.secrets, settings.feedback
    served = _client(settings, settings.model.replicas[0], secrets.MODEL_API_KEY)
    model = await stack.enter_async_context(served)
    judge: Judge = RuleJudge()
    if feedback.judge_model and not feedback.judge_url:
        judge = ModelJudge(model, feedback.judge_model)
    elif feedback.judge_model:
        theirs = _client(settings, feedback.judge_url, secrets.JUDGE_API_KEY)
        judge = ModelJudge(await stack.enter_async_context(theirs), feedback.judge_model)
    return SecondTry(SecondAnswers(model, FROM_NOWHERE), judge, feedback.regenerate)


def _client(settings: Settings, base_url: str, key: SecretStr | None) -> OpenAIChatModel:
    return OpenAIChatModel(
        base_url,
        key.get_secret_value() if key else "",
        base_model=settings.model.base_model,
        first_token_seconds=settings.model.first_token_seconds,
        deadline_seconds=settings.model.deadline_seconds,
    )
