"""Questions after a price, which nothing but an amount of money answers."""

from __future__ import annotations

import re
from collections.abc import Iterable

from core.messages import Passage

# "How much is" is asked of sizes as well, and money is spent or saved without a price being asked.
_ASKED = re.compile(
    r"(?<![花省到])多少钱(?!合适|比较)|几块钱[吗？?]*$"
    r"|[什啥]么?价[格位钱]?(?!值)|价[格位钱](是|大概|一般)?多少|报个?价"
    r"|\bhow much (is|are|for)\b(?!.*\b(sizes?|mm|cm|inch(es)?|room|space|width|too|enough|of)\b)"
    r"|\bhow much (do|does|did|would|will)\b.*\b(cost|sell|go for)\b"
    r"|\bwhat (do|does|did|would|will)\b.*\bcost\b|\bwhat('s| is| are)?\b.*\bprices? (of|for)\b",
    re.IGNORECASE,
)
_AMOUNT = re.compile(
    r"\d\s*(万|千)?\s*(元|块|美元|美金|欧元|英镑|日元)|[$€£¥￥]\s*\d"
    r"|\d\s*(yuan|rmb|cny|usd|eur|gbp|dollars?|bucks|euros?|pounds?|quid)\b",
    re.IGNORECASE,
)


def asks_a_price(question: str) -> bool:
    """Whether a question is after what something costs."""
    return bool(_ASKED.search(question))


def name_a_price(passages: Iterable[Passage]) -> bool:
    """Whether an amount of money stands in any of the passages."""
    return any(_AMOUNT.search(passage.text) for passage in passages)
