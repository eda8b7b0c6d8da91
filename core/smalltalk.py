"""Greetings, thanks, goodbyes, "what is this?": answered by hand, as no passage is about them."""

from __future__ import annotations

import re

_KINDS = {
    "greeting": re.compile(
        r"(你好|您好|嗨|哈喽|在吗|在不在|早上好|上午好|下午好|晚上好|你是谁|你叫什么(名字)?|你能做什么|你会什么|"
        r"hi|hello|hey|good (morning|afternoon|evening)|who are you|what can you do|help)"
        r"( there| solemate)?[呀啊吗呢]?",
        re.IGNORECASE,
    ),
    "thanks": re.compile(
        r"(谢谢|多谢|感谢|谢啦|谢了|辛苦了|明白了|懂了|知道了|thanks|thank you|thx|cheers|got it)"
        r"(你|您|啦|了|哦| a lot| so much| very much)*",
        re.IGNORECASE,
    ),
    "goodbye": re.compile(
        r"(再见|拜拜|回头见|下次聊|bye|goodbye|bye bye|see you)(啦|了| later)?", re.IGNORECASE
    ),
}
# A question that nothing but its photo answers: the whole text, so that "what colour is this, and
# how do I wash it?" is looked up.
_LOOK = (
    r"(请问?|麻烦)?(你)?(能)?(帮我|帮忙|给我)?"
    r"(看看|看一?下|看一看|认一?下|辨认一?下|识别一?下|说说|告诉我)?"
)
_SHOE = (
    r"((照片|图片|图)(里|上|中)?的?)?([这那它]|我)?(一)?(双|款|只|个|种|件)?的?(鞋子?|靴子?|拖鞋)?"
)
_COLOUR = r"[一-鿿]{1,4}色"
_ASKED = (
    r"颜色|色|配色|样子?|牌子|品牌|款式|款|型号|名字|类型|种类|风格|花纹|图案|材质|材料|皮"
    r"|鞋子?|靴子?|东西"
)
_WHAT_IS_SEEN_ZH = re.compile(
    rf"{_LOOK}{_SHOE}(是|叫|属于|算)?(什么|啥|哪[种个款]|何种)({_ASKED})?的?(鞋子?|靴子?)?[呢呀啊吗]?"
    rf"|{_LOOK}{_SHOE}是{_COLOUR}的?(鞋子?|靴子?)?([吗么]|还是{_COLOUR}的?)[呢呀啊]?"
    rf"|{_LOOK}([这那]|我)(双|款|只|个|张)?的?(鞋子?|靴子?|照片|图片?)?"
    r"|(你)?(能)?(在)?((照片|图片?)[里上中])?(能)?(看到|看出|看见|有|是)(了)?(什么|啥|哪些东西)"
    r"|(请)?(描述|介绍)一?下?[这那](双|款|只|张)(鞋子?|靴子?|照片|图片?)"
    r"|(你)?(认识|认得出?)[这那](双|款|只)(鞋子?|靴子?)?吗"
)
_THIS = (
    r"(this|these|that|those|it|they|my|the)"
    r"( (one|pair|shoes?|boots?|sneakers?|trainers?|sandals?|heels?))?( (here|called|made of))?"
)
_HUE = (
    r"(black|white|gr[ea]y|red|pink|orange|yellow|gold|beige|brown|tan|cream|khaki|green|blue"
    r"|navy( blue)?|purple|burgundy|silver)"
)
_WHAT_IS_SEEN_EN = re.compile(
    rf"((can|could|do) you |please )?(tell me |know )?"
    rf"(what(['’]?s| is| are| exactly (is|are))? {_THIS}( (is|are))?"
    r"|(what|which)( exact)? "
    r"(colou?rs?|kind|type|sort|style|brand|make|model|pattern|material|shoes?)"
    rf"( of (shoes?|boots?|sneakers?|trainers?|footwear))? ((is|are) {_THIS}|{_THIS} (is|are))"
    rf"|what(['’]s| is) the (colou?r|style|brand|model|pattern|material) of {_THIS})"
    rf"|(is|are) {_THIS} {_HUE}( or {_HUE})?"
    r"|what (do|can) you see( here)?( (in|on) (this|the|my) (photo|picture|image))?"
    rf"|((can|could) you |please )?(describe|identify|recogni[sz]e|(take |have )?a? ?look at) "
    rf"({_THIS}|(this|the|my) (photo|picture|image))",
    re.IGNORECASE,
)
_PUNCTUATION = re.compile(r"[\s。．.!！?？~～,，、…]+")


def small_talk(text: str) -> str | None:
    """The key of the sentence that answers this greeting, thanks or goodbye, or None.

    Of several, as in "谢谢，再见", the last one counts.
    """
    parts = [part for part in _PUNCTUATION.split(text.strip()) if part]
    plain = " ".join(parts)
    for kind, pattern in _KINDS.items():
        if plain and pattern.fullmatch(plain):
            return kind
    if 1 < len(parts) <= 3:
        kinds = [small_talk(part) for part in parts]
        return kinds[-1] if all(kinds) else None
    return None


def asks_what_is_seen(text: str) -> bool:
    """Whether the text asks nothing but what its photo shows: colour, kind, brand, or anything."""
    plain = " ".join(part for part in _PUNCTUATION.split(text.strip()) if part)
    return bool(_WHAT_IS_SEEN_ZH.fullmatch(plain) or _WHAT_IS_SEEN_EN.fullmatch(plain))


def has_words(text: str) -> bool:
    """Whether there is anything to search for: a letter or a digit in any script."""
    return any(char.isalnum() for char in text)
