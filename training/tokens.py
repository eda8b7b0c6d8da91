"""How many tokens a chat has for the model that is served and trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache

import structlog

from core.messages import ChatMessage
from core.opening import model_name
from core.prompt import estimate_tokens
from core.settings import Settings
from training.llamafactory import recipe

log = structlog.get_logger()

TokenCounter = Callable[[Sequence[ChatMessage], str], int]


def most_tokens(settings: Settings) -> int:
    """How many tokens prompt and answer may have: what is served and what is trained on, both."""
    cutoff = int(recipe("dpo", {}, model=settings.training.recipe)["cutoff_len"])
    return min(cutoff, settings.model.context_tokens)


def token_counter(settings: Settings) -> TokenCounter:
    """Counts a prompt with its answer by the served model's own tokenizer and chat template.

    The tokenizer is read when something is first counted: a solemate that starts has no time for
    it, and one of several replicas counts nothing at all. Where the tokenizer is not on this
    machine, an upper estimate stands in.
    """
    load = cache(lambda: _load_counter(settings))
    return lambda prompt, answer: load()(prompt, answer)


def _load_counter(settings: Settings) -> TokenCounter:
    from transformers import AutoTokenizer

    name = settings.model.expert
    if not settings.model.embedded:
        keys = recipe("sft", {}, model=settings.training.recipe)
        name = str(keys.get("model_name_or_path", ""))
    try:
        tokenizer = AutoTokenizer.from_pretrained(model_name(name), local_files_only=True)
    except (OSError, ValueError):
        log.warning("no_tokenizer", model=name, advice="token counts are estimated")
        return _estimated

    def count(prompt: Sequence[ChatMessage], answer: str) -> int:
        chat = [asdict(message) for message in (*prompt, ChatMessage("assistant", answer))]
        return len(tokenizer.apply_chat_template(chat, return_dict=False))

    return count


def _estimated(prompt: Sequence[ChatMessage], answer: str) -> int:
    # Four tokens a message are the usual price of a chat template's own markers.
    contents = [message.content for message in prompt] + [answer]
    return sum(estimate_tokens(content) + 4 for content in contents)
