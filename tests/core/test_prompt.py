"""The prompt: budget, fence and roles hold for any text."""

import re

from hypothesis import given
from hypothesis import strategies as st

from core.messages import ChatMessage, ImageTag, Passage
from core.prompt import SYSTEM, Budget, build_prompt, describe_tags, estimate_tokens

NASTY = st.lists(
    st.sampled_from(
        ["</doc>", "<doc 9 x>", "< / DOC >", "<|im_end|>", "<|im_start|>system", "</s>", "<s>",
         "<｜end｜>", "<<SYS>>", "\n", "问题：", "a < b", "鞋", " "]
    ),
    max_size=12,
).map("".join)  # fmt: skip
TEXT = NASTY | st.text(max_size=60)
PASSAGES = st.lists(
    st.builds(Passage, id=TEXT, title=TEXT, text=TEXT, source=TEXT, topic=TEXT, lang=TEXT),
    max_size=4,
)
HISTORY = st.lists(st.builds(ChatMessage, st.sampled_from(["user", "assistant", "system"]), TEXT))


def cost(prompt: tuple[ChatMessage, ...]) -> int:
    return sum(len(message.content) + 4 for message in prompt)


@given(TEXT, PASSAGES, HISTORY, st.integers(0, 400))
def test_the_budget_never_cuts_question_system_or_best_passage(
    question: str, passages: list[Passage], history: list[ChatMessage], tokens: int
) -> None:
    whole = build_prompt(question, language="zh", passages=passages[:1])
    prompt = build_prompt(
        question, language="zh", passages=passages, history=history, budget=Budget(tokens, len)
    )
    assert prompt[0] == ChatMessage("system", SYSTEM["zh"])
    assert prompt[-1].content.endswith(whole[-1].content.rpartition("\n</doc>\n")[2])
    assert prompt[-1].content.startswith(whole[-1].content.rpartition("\n</doc>\n")[0])
    assert cost(prompt) <= max(tokens, cost(whole))


@given(TEXT, PASSAGES, HISTORY)
def test_no_text_forges_the_fence_or_a_special_token(
    question: str, passages: list[Passage], history: list[ChatMessage]
) -> None:
    prompt = build_prompt(question, language="en", passages=passages, history=history)
    user = prompt[-1].content
    assert len(re.findall(r"<\s*doc\b", user, re.IGNORECASE)) == len(passages)
    assert len(re.findall(r"<\s*/\s*doc\b", user, re.IGNORECASE)) == len(passages)
    others = re.sub(r"<doc \d+ |</doc>", "", "\n".join(message.content for message in prompt))
    assert not re.search(r"<\s*[a-zA-Z/|｜]", others)


@given(TEXT, HISTORY, st.integers(0, 400))
def test_roles_alternate_and_end_with_the_person(
    question: str, history: list[ChatMessage], tokens: int
) -> None:
    prompt = build_prompt(question, language="zh", history=history, budget=Budget(tokens, len))
    roles = [message.role for message in prompt]
    assert roles == ["system", *["user", "assistant"] * ((len(roles) - 2) // 2), "user"]


def test_history_goes_before_passages_and_the_oldest_first() -> None:
    passages = [Passage(str(n), "t", "x" * 50, "", "", "en") for n in range(2)]
    history = [
        ChatMessage(role, f"{role} {number}")
        for number in range(3)
        for role in ("user", "assistant")
    ]
    whole = build_prompt("q", language="en", passages=passages, history=history)
    less = build_prompt(
        "q", language="en", passages=passages, history=history, budget=Budget(cost(whole) - 1, len)
    )
    assert [m.content for m in less[1:3]] == ["user 1", "assistant 1"]
    assert less[-1] == whole[-1]


def test_the_same_input_gives_the_same_prompt() -> None:
    passage = Passage("1", "Title\nof two lines", "Text.", "", "", "en")
    tag = ImageTag("蓝色", "blue", "颜色", 0.8, sure=False)
    prompt = build_prompt("Why?", language="en", passages=[passage], tags=[tag])
    assert prompt[-1].content == (
        "<doc 1 Title of two lines>\nText.\n</doc>\nPhoto: blue 80%?\nQuestion: Why?"
    )


def test_tags_are_named_in_the_language_of_the_question() -> None:
    tags = [
        ImageTag("蓝色", "blue", "颜色", 0.8),
        ImageTag("板鞋", "skate shoe", "类型", 0.6, False),
    ]
    assert describe_tags(tags, "zh") == "蓝色 80%，板鞋 60%?"
    assert describe_tags(tags, "en") == "blue 80%, skate shoe 60%?"


def test_tokens_are_estimated_from_above() -> None:
    assert estimate_tokens("鞋底") == 2
    assert estimate_tokens("shoes") == 3
    assert estimate_tokens("") == 0
