"""Greetings, thanks, complaints, "what is this?": answered by hand, as no passage is about them."""

from __future__ import annotations

import re

THANKS = "thanks"
# A person agrees, or has read what was said.
AGREED = "agreed"
_AGREED = (
    r"(是的?|对的?|嗯+|哦+|好[的吧呀啊]?|行|可以|没错|就是|正是|了解|收到|明白|(就|正)是(这个|它|这条|这样)"
    r"|yes|yeah|yep|yup|ok|okay|sure|right|exactly|correct|fine|great|perfect|cool|alright"
    r"|all right"
    r"|(yes )?(this|that)( is|['’]?s) (it|right|correct|the one|what i (meant|was looking for)))"
    r"[了啦啊呀哦吧]?"
)
# What was shown or offered is not what a person meant; the second, none of it.
DENIED = "denied"
_IT_ZH = r"(这个|那个|这些|这种|这条|这双|这|它|这个意思|(你)?说的(这个|这些)?)"
_WANTED_ZH = r"我(想|要|想要|想问|要问|问|说|想知道|指)的(是|不是)?"
_DENIED_ZH = (
    rf"(好像|应该|可能|都|全|全都|一个都|{_IT_ZH})*不(是|对)({_IT_ZH}|{_WANTED_ZH})?"
    rf"|{_WANTED_ZH}{_IT_ZH}?|(我)?不是(在)?(问|说|指|要){_IT_ZH}|没有?一个(是|对|符合)?的?|不"
)
_IT_EN = (
    r"(它|it|this|that|these|those|them|this one|that one|any of (it|them|those|these)"
    r"|what i (meant|mean|asked|asked for|want|wanted|am asking|was asking|was looking for)"
    r"( about)?)"
)
_DENIED_EN = (
    r"(no|nope|nah|wrong|not really|something else"
    r"|(neither|none)( one)?( of (them|those|these|the two|the above))?"
    r"|((it|that|this)( is|['’]?s) |i (do not|don['’]?t|did not|didn['’]?t) mean )?"
    rf"(not )?{_IT_EN})"
)
_DENIED = re.compile(
    rf"(?=.*([不没]|\b(no|nope|nah|wrong|not|neither|none|else|don['’]?t|didn['’]?t)\b))"
    rf"(({_DENIED_ZH})[的了啊呀吧哦呢]*|{_DENIED_EN})( ({_DENIED_ZH}|{_DENIED_EN})[的了啊呀吧]*)*",
    re.IGNORECASE,
)
_DENIED_ALL = re.compile(
    r"[都全]不|[都全]没|没有?一个|\b(neither|none|any of|something else)\b", re.IGNORECASE
)
_ROBOT = r"(ai|人工智能|机器人?|程序|软件|真人|活人|人类?|chatgpt|gpt)"
_ROBOT_EN = (
    r"(an? )?(real |actual )?(ro)?(bot|human|person|machine|program|computer|ai|chatgpt|gpt|real)"
    r"( being)?"
)
_KINDS = {
    "greeting": re.compile(
        r"(你好|您好|嗨|哈喽|在吗|在不在|早上好|上午好|下午好|晚上好|你是谁|你叫什么(名字)?|你能做什么|你会什么|"
        r"(你)?(最近)?(在)?(干嘛|干什么|忙什么)呢?|(你)?最近(怎么样|好吗|还好吗)|你好吗|吃了吗|"
        r"hi|hello|hey|good (morning|afternoon|evening)|who are you|what can you do|help|"
        r"(what['’]?s|what is) up|how are you( doing)?|how['’]?s it going)"
        r"( there| solemate| today)?[呀啊吗呢]?",
        re.IGNORECASE,
    ),
    "robot": re.compile(
        rf"你(到底|其实)?(是(不是)?|算)(一?个)?{_ROBOT}(还是(一?个)?{_ROBOT})?[吗么嘛呢呀啊]*"
        rf"|(hey )?(are|r) (you|u) {_ROBOT_EN}( or {_ROBOT_EN})?",
        re.IGNORECASE,
    ),
    THANKS: re.compile(
        rf"({_AGREED} )*"
        r"(谢谢|多谢|感谢|谢啦|谢了|辛苦了|明白了|懂了|知道了|(很|挺|真|非常)?(有用|有帮助)|帮大忙了"
        r"|thanks|thank you|thx|cheers|got it|(that|this) (helps|helped|was helpful|is helpful))"
        r"(你|您|啦|了|哦| a lot| so much| very much| for (that|this|your help|the help))*"
        r"( (很|挺|真|非常)?(有用|有帮助)了?| (that|this)( is|['’]?s| was)? "
        r"(very |really )?(helps|helped|great|perfect|useful|helpful|all|it|enough)( a lot)?)?",
        re.IGNORECASE,
    ),
    AGREED: re.compile(rf"{_AGREED}( {_AGREED})*", re.IGNORECASE),
    "goodbye": re.compile(
        r"(再见|拜拜|回头见|下次聊|bye|goodbye|bye bye|see you)(啦|了| later)?", re.IGNORECASE
    ),
    "complaint": re.compile(
        r"(你|这|这个|你这个|刚才)*(回答|答案)?(是|都是)?(答|说|讲|搞|完全|好像)*"
        r"(错|错误|不对|不是这样|胡说(八道)?|乱说)(的|了|吧|啦)*"
        r"|(你|真|好|太|怎么|这么|是个?)+(笨|蠢|傻|垃圾|没用)(蛋|啊|了|呀|吧)*"
        r"|(no )?(that|this|it|you|your answer)( is|'s|’s| are|'re|’re| was) "
        r"(all |just |simply )?(wrong|incorrect|not (right|true)|stupid|useless|nonsense|rubbish)"
        r"|wrong( answer)?|nonsense|stupid bot"
        r"|(我)?(很|真|都)?不(太)?喜欢(这个|你的|这样的?)?(回答|答案)?"
        r"|i (do not|don['’]?t|really don['’]?t) like (it|this|that|your answer)",
        re.IGNORECASE,
    ),
    DENIED: _DENIED,
}
# Whoever writes this needs somebody, whatever else it says.
DISTRESS = "distress"
_DISTRESS = re.compile(
    r"自杀|自尽|自残|轻生|寻短见|(想|要|去)死(了|掉|算了)?([。！!，,]|$)|不想活|活不下去"
    r"|\bkill(ing)? myself\b|\bsuicid|\bend my (own )?life\b|\bself[- ]harm"
    r"|\b(want|going) to die\b",
    re.IGNORECASE,
)
# The one question that everybody tries, and whose words stand in entries on rainy days.
WEATHER = "weather"
_DAY = r"(今天|今晚|明天|明早|明晚|后天|大后天|周末|[这下]?周[一二三四五六日末]|最近|这几天|现在)"
_WHEN = r"( (today|tonight|now|tomorrow|later|this week(end)?|next week|on \w+day))"
_WHERE = r"( in (?!my |the |these |this )[a-z ]{1,20})"
_WEATHER = re.compile(
    rf"(?!.*[鞋靴穿])(请问)?{_DAY}?[一-鿿]{{0,4}}?{_DAY}?"
    r"((会不会|会|要不要|要)(下雨|下雪|刮风|打雷|降温)[了的]?[吗么嘛]?|(下雨|下雪|刮风)了?[吗么不没]"
    r"|的?(天气|气温)(怎么?样|咋样|如何|好[吗不]))[呢啊呀]?"
    rf"|(?=.*{_DAY})[一-鿿]{{2,8}}?(冷不冷|热不热|[冷热][吗么]|多少度|几度)[呢啊呀]?"
    rf"|((will|is) it (going to )?(rain|snow)(ing)?|(what|how)(['’]?s| is| will) the weather( be)?"
    rf"( like)?){_WHERE}?{_WHEN}*{_WHERE}?",
    re.IGNORECASE,
)
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
# What people type to see whether somebody is there.
_NO_WORD = re.compile(
    r"abc(d\w*)?|test(ing)?|测试(一下)?|asdf\w*|qwer\w*|[bcdfghjklmnpqrstvwxz]{5,}", re.IGNORECASE
)
_PUNCTUATION = re.compile(r"[\s。．.!！?？~～,，、…]+")


def small_talk(text: str) -> str | None:
    """The key of the sentence that answers this greeting, thanks, complaint or the like, or None.

    Of several, as in "谢谢，再见", the last one counts. Words of somebody in distress are answered
    whatever they ask.
    """
    if _DISTRESS.search(text):
        return DISTRESS
    plain = _plain(text)
    parts = plain.split()
    if _WEATHER.fullmatch(plain):
        return WEATHER
    for kind, pattern in _KINDS.items():
        if plain and pattern.fullmatch(plain):
            return kind
    if 1 < len(parts) <= 3:
        kinds = [small_talk(part) for part in parts]
        return kinds[-1] if all(kinds) else None
    return None


def asks_what_is_seen(text: str) -> bool:
    """Whether the text asks nothing but what its photo shows: colour, kind, brand, or anything."""
    plain = _plain(text)
    return bool(_WHAT_IS_SEEN_ZH.fullmatch(plain) or _WHAT_IS_SEEN_EN.fullmatch(plain))


def denies(text: str) -> bool:
    """Whether a text says that something shown or offered is not what was meant."""
    return bool(_DENIED.fullmatch(_plain(text)))


def denies_all(text: str) -> bool:
    """Whether a text that denies means all that was shown and offered."""
    return bool(_DENIED_ALL.search(text))


def has_words(text: str) -> bool:
    """Whether there is anything to search for: a letter or a digit in any script, not "asdf"."""
    return any(char.isalnum() for char in text) and not _NO_WORD.fullmatch(_plain(text))


def _plain(text: str) -> str:
    """The text without punctuation."""
    return " ".join(part for part in _PUNCTUATION.split(text.strip()) if part)
