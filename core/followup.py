"""Follow-ups: what "那它防水吗" means after the turns before it, without asking a model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from core.messages import ImageTag, Outcome, Turn
from core.naming import names
from core.smalltalk import (
    AGREED,
    THANKS,
    asks_what_is_seen,
    denies,
    denies_all,
    has_words,
    small_talk,
)

# A question that opens like this goes on from the one before.
_GOES_ON = re.compile(
    r"^(那(?![种双款个只些样边面])|还有|另外|所以|然后|要是|可是|但是?)"
    r"|^(and|but|so|then|what about|how about|also|what if)\b"
    # The other side of a comparison is what was talked about.
    r"|^[和跟与同][^和跟与]{1,12}?(比(?!较好|较舒|较合)|相比|对比|(有什么|有啥|的)?(区别|差别|不同|不一样))"
    r"|^(比|相比)[^比]{2,12}(呢|吗|更|好|怎么样)|^(compared|versus|vs)\b",
    re.IGNORECASE,
)
# "No, I meant" says that another question follows, and nothing of what that is about.
_INSTEAD = re.compile(
    r"((不是|不对|错了|不)[，,。！!\s]*)?"
    r"我(的意思是|(刚才)?(想|要)?(问|说|指)的是|(刚才)?是(想|要)?(问|说|指)(?!不))[：:，,\s]*"
    r"|((no|nope|wrong|not that)\b[,.!\s]*)?\b(what )?"
    r"i (mean(t)?( (is|was))?|(was |am )?ask(ed|ing) (about|for))\b[:,\s]*",
    re.IGNORECASE,
)
# Nothing but this says nothing by itself.
_BARE = re.compile(
    r"(为什么|为啥|哪[个种](更?好)?|具体|详细|继续|举个例子)(呢|吗|说说|一点)*"
    r"|([要该]|应该|平时)?(怎么|如何|咋)([办洗说做选挑修穿晾]|清[洗洁]|保养|护理|打理|[存收]放|收纳|搭配?)?"
    r"(比较?好|才好|呢)?"
    r"|(会|能|可以|容易)?(不会|不能)?(防水|透气|保暖|防滑|耐磨|耐穿|掉色|变形|开胶|磨脚|显高|机洗|水洗|贵|重)"
    r"(吗|么|不)"
    r"|why|why not|how|how so|which one|when|where|really|tell me more|go on",
    re.IGNORECASE,
)
# Words that stand for something else: something said before, where the question is short …
_STANDS_FOR = re.compile(
    r"它|[这那](双|款|个(?!月)|些|种|只|样|鞋)|刚才|前面说|上面说|同样|呢[？?]?$"
    r"|\b(it|its|they|them|their|those|these(?! days)|(this|that) (one|pair)|the same)\b"
    r"|\binstead\b(?! of)",
    re.IGNORECASE,
)
# Words that point at the photo they come with.
_AT_PHOTO = re.compile(
    r"这(双|款|个(?!月)|些|种|只|样|[鞋靴拖]|是)"
    r"|\b(this|these)\b(?! (days?|week|weekend|month|year|time|spring|summer|autumn|fall|winter))",
    re.IGNORECASE,
)
# Words that point at a photo, also at one of a while ago.
_OF_PHOTO = re.compile(
    r"照片|图片|[这那][张个]?图|图[里中上]"
    r"|\b(in|on|of) (the|this|that|my) (photo|picture|pic|image)\b",
    re.IGNORECASE,
)
_COLOUR = re.compile(r"色|\bcolou?r", re.IGNORECASE)
_COMPARES = re.compile(r"^[和跟与同比]|^相比|^(compared|versus|vs)\b", re.IGNORECASE)
_SHORT = 12
# … and names nothing in front of that word, nor describes it ("那种没带子的"), nor uses it for
# nothing ("is it safe to").
_NAMES = re.compile(
    r"[鞋靴拖皮底跟垫袜]|\b(my|our|the|an?|some|his|her|your) (?!same)\w+|\b\w{3,}[^s\W]s\b",
    re.IGNORECASE,
)
_DESCRIBES = re.compile(r"[这那].*的|\bit\b.*\b(to|if|that)\b", re.IGNORECASE)
_WORD = re.compile(r"[\u3400-\u9fff]|[A-Za-z'’]+")
_ORDINAL = re.compile(
    r"^\s*(?:(?:第|the|option)\s*)?(?:(?P<han>[一二三])|(?P<digit>[1-3])|(?P<letter>[abc])|(?P<word>first|second|third))"
    r"\s*(?:个|种|项|one)?\s*[。.!！]?$",
    re.IGNORECASE,
)
_ORDINALS = {
    **dict.fromkeys(("一", "1", "a", "first"), 0),
    **dict.fromkeys(("二", "2", "b", "second"), 1),
    **dict.fromkeys(("三", "3", "c", "third"), 2),
}


@dataclass(frozen=True, slots=True)
class Resolved:
    """A question that can be searched by itself.

    `question` is for the model, `query` for the search; `tags` are the last photo's where the
    question is still about it. `topic` is the last topic where the query is that before the
    question's own words: a guess that a model may better.
    """

    question: str
    query: str
    tags: tuple[ImageTag, ...] = ()
    topic: str = ""


def resolve(text: str, turns: Sequence[Turn], tags: tuple[ImageTag, ...]) -> Resolved:
    """Complete a follow-up from the turns before it; other questions come back as they are.

    Rules in order: what asks only what a photo shows is about the last one; an answer to our "did
    you mean" picks that topic for the question asked then; one that points at its own new photo
    ("这双", "these") takes nothing from before; a question that points back ("它", "what about …")
    is searched together with the last topic and keeps the last photo's tags. Greetings, thanks and
    the like in between change nothing, but that a yes makes a topic of what was shown as the
    closest.
    """
    meant = _INSTEAD.match(text)
    if turns and meant and has_words(rest := text[meant.end() :]):
        text = rest
    said, turns = turns, [turn for turn in turns if not _is_small_talk(turn)]
    if not turns:
        return Resolved(text, text, tags)
    last = turns[-1]
    if not tags and _OF_PHOTO.search(text):
        tags = _last_seen(turns)
    # Of what was answered about, the photo shows the colour: "它是什么材质" is looked up.
    if asks_what_is_seen(text) and (_COLOUR.search(text) or not last.reply.sources):
        tags = tags or last.reply.tags
        if tags:
            return Resolved(text, text, tags)
    if last.reply.outcome is Outcome.CLARIFY:
        if (choice := chosen(text, last.reply.suggestions)) is not None:
            asked = next((turn for turn in reversed(turns) if not _is_denial(turn)), last)
            return Resolved(_joined(asked.question, choice), choice, asked.reply.tags)
        if last.reply.tags and not (last.reply.suggestions or last.reply.sources):
            return Resolved(text, text, tags or last.reply.tags)
    if not points_back(text) or (_AT_PHOTO.search(text) and _is_new(tags, turns)):
        return Resolved(text, text, tags)
    topic = _topic(said)
    query = _joined(topic, text)
    question = query if topic and _COMPARES.search(text) else text
    return Resolved(question, query, tags or last.reply.tags, topic)


def still_offered(text: str, turns: Sequence[Turn]) -> tuple[str, ...] | None:
    """What is left of what was shown and offered last, after "不是这个" or "neither".

    None where the text denies nothing of it: a question, or nothing was shown or offered.
    """
    turns = [turn for turn in turns if not _is_small_talk(turn)]
    if not turns or turns[-1].reply.outcome is not Outcome.CLARIFY:
        return None
    reply = turns[-1].reply
    shown, offered = [source.title for source in reply.sources], reply.suggestions
    plain, named = text.casefold(), []
    for title in sorted({*shown, *offered}, key=len, reverse=True):
        if title.casefold() in plain:
            named.append(title)
            plain = re.sub(
                rf"(the |an? )?[《“\"]?{re.escape(title.casefold())}[》”\"]?", "它", plain
            )
    if not (shown or offered) or not denies(plain):
        return None
    if named:
        return tuple(title for title in (*shown, *offered) if title not in named)
    return offered if shown and not denies_all(text) else ()


def choices(turns: Sequence[Turn]) -> tuple[str, ...]:
    """The topics offered last, where nothing was shown: which of them is meant was the question."""
    last = [turn.reply for turn in turns if not _is_small_talk(turn)][-1:]
    asks = last and last[0].outcome is Outcome.CLARIFY and not last[0].sources
    return last[0].suggestions if asks else ()


def chosen(text: str, suggestions: Sequence[str]) -> str | None:
    """Which suggestion a person picked, by name or by place ("第二个", "B"), or None.

    A bare yes is to the only one.
    """
    plain = text.strip().casefold()
    named = [suggestion for suggestion in suggestions if suggestion.casefold() in plain]
    if named:
        return max(named, key=len)
    if small_talk(plain) == AGREED:
        return suggestions[0] if len(suggestions) == 1 else None
    if match := _ORDINAL.match(plain):
        place = _ORDINALS[next(group for group in match.groups() if group)]
        if place < len(suggestions):
            return suggestions[place]
    return None


def points_back(text: str) -> bool:
    """Whether a question needs an earlier one to be understood."""
    text = text.strip()
    if _GOES_ON.search(text) or _BARE.fullmatch(text.rstrip("?？。.!！ ")):
        return True
    word = _STANDS_FOR.search(text)
    if word is None or len(_WORD.findall(text)) > _SHORT:
        return False
    return not (_NAMES.search(text[: word.start()]) or _DESCRIBES.search(text, word.start()))


def _is_new(tags: tuple[ImageTag, ...], turns: Sequence[Turn]) -> bool:
    """Whether a photo with these tags came just now; the same photo again has the same tags."""
    again = tags == turns[-1].reply.tags or any(turn.photo_again for turn in turns)
    return bool(tags) and not again


def _is_small_talk(turn: Turn) -> bool:
    """Whether nothing was searched for, and nothing asked back."""
    return not turn.query and turn.reply.outcome is not Outcome.CLARIFY


def _last_seen(turns: Sequence[Turn]) -> tuple[ImageTag, ...]:
    """The tags of the last photo in the conversation."""
    return next((turn.reply.tags for turn in reversed(turns) if turn.reply.tags), ())


def _is_denial(turn: Turn) -> bool:
    """Whether the person denied what was shown, and the rest was offered; nothing was searched."""
    return turn.reply.outcome is Outcome.CLARIFY and bool(turn.reply.suggestions) and not turn.query


def _topic(turns: Sequence[Turn]) -> str:
    """What the conversation was about last: the newest turn's best source, passage or question.

    What was found for a refused question was not about it.
    """
    for place, turn in reversed([*enumerate(turns)]):
        if _is_small_talk(turn) or _is_denial(turn):
            continue
        if turn.reply.outcome is Outcome.CLARIFY:
            if topic := _asked_about(turn, turns[place + 1 : place + 2]):
                return topic
        elif turn.reply.sources:
            return turn.reply.sources[0].title
        elif turn.passages and turn.reply.outcome is not Outcome.REFUSED:
            return turn.passages[0].title
    last = next(turn for turn in reversed(turns) if not _is_small_talk(turn))
    return "" if last.reply.outcome is Outcome.CLARIFY else last.question


def _asked_about(turn: Turn, then: Sequence[Turn]) -> str:
    """What a question that was asked back about is about: its own words, "" for a follow-up.

    Of what was shown or offered, what the person agreed to or had named.
    """
    shown = [source.title for source in turn.reply.sources]
    if shown and then and small_talk(then[0].question) in (AGREED, THANKS):
        return shown[0]
    titles = shown or [passage.title for passage in turn.passages]
    if named := [title for title in titles if names(turn.question, title)]:
        return max(named, key=len)
    own = bool(titles) and turn.query == turn.question and not points_back(turn.question)
    return turn.question if own else ""


def _joined(first: str, second: str) -> str:
    return f"{first} {second}".strip()
