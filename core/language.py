"""Which language a text is written in."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from core.messages import Language

_WORD = re.compile(r"[^\W\d_]+")
# As much of a text as tells its language.
_SAMPLE = 600
# Everyday words that no English sentence holds, of the languages people are likeliest to try.
_FOREIGN = frozenset(
    _WORD.findall("""
        wie warum welche welcher welches wo wann ich du wir ihr sie ist sind kann kannst soll mein
        meine meinen meiner nicht und oder für mit bei schuh schuhe schuhen größe danke hallo bitte
        hoe waarom welke ik mijn kan niet het een zijn schoen schoenen
        hvordan hvorfor hvad jeg ikke sko hur varför vilken jag mina inte och skor
        pourquoi quel quelle quels quelles je vous mes est sont peux puis avec dans chaussure
        chaussures pointure bonjour merci cómo qué cuál cuáles dónde puedo debo mis zapato zapatos
        zapatilla zapatillas talla hola gracias perché quale quali posso devo mie miei sono che
        scarpe ciao grazie como qual quais onde meus minhas não são sapato sapatos tênis obrigado
        jak dlaczego czy moje buty butów jaké proč boty nasıl neden ayakkabı ayakkabılar hogyan
        cipő miten kengät bagaimana apakah sepatu saya giày thế nào
    """)
)
# Small words that also stand in names: Le Coq Sportif, La Sportiva, El Naturalista.
_SMALL = frozenset(
    _WORD.findall("""
        der das den dem des ein eine auf von zu im le la les un une et de el los las una en con
        il lo gli di del della os um uma na w z się nie ve bir van voor att
    """)
)
# Without "in", "is", "on" and the like, which other languages have as well.
_ENGLISH = frozenset(
    _WORD.findall("""
        about and any are be between can could did does for from get good have how if it its make
        my need not or shoe shoes should than that the their them these they this too wash wear
        what when where which who why with would you your
    """)
)
# The small words that tell English from Chinese. They, too, stand in names: On, Made in Italy.
_SMALL_ENGLISH = frozenset(_WORD.findall("a an i is do does am was me"))
# What a Chinese sentence has beside its nouns, and an English one that names a thing has not.
_CHINESE = re.compile(
    r"[的了吗嗎呢吧嘛么麼怎啥哪谁誰几幾我你您他她这這那是和跟与與或还還比要会會该該请請有没沒不在给給把被用能]"
    r"|什[么麼]|多少|多大|多久|如何|为何|為何|可以|好[吗嗎看穿用不]|好[？?]?$"
)

# "请用英文回答：", "In Chinese, please."; the English words stand in the groups that begin with en.
_ASKED_FOR = re.compile(
    r"请?你?用(?:(?P<en>英[文语語])|中文|[汉漢][语語]|普通[话話]|[国國][语語])[来來]?"
    r"(?:回答|回[复覆]|[说說讲講写寫]|告[诉訴]|解[释釋])(?:一下|我|吧)?[，,。：:！!、\s]*"
    r"|\b(?:please )?(?:answer|reply|respond|write|explain|speak)(?: me| it| this)? "
    r"in (?:(?P<en_answer>english)|chinese|mandarin)(?:,? please)?[\s:,.!]*"
    r"|\bin (?:(?P<en_please>english)|chinese|mandarin),? please[\s:,.!]*",
    re.IGNORECASE,
)


def language_asked_for(text: str) -> Language | None:
    """The language that a text asks to be answered in, None where it asks for none."""
    found = _ASKED_FOR.search(text)
    if found is None:
        return None
    return "en" if any(found.groupdict().values()) else "zh"


def without_language(text: str) -> str:
    """The text without the words that ask for a language."""
    return _ASKED_FOR.sub(" ", text)


def language_of(text: str) -> Language | None:
    """Chinese, English, or None for a text in another script or, as far as we can tell, language.

    Where Chinese and Latin letters are mixed the small words between the names tell: "Stan Smith
    和 Air Force 1 哪个好" is a Chinese question, "How do I clean 帆布鞋?" an English one. Japanese
    kana, Hangul, Cyrillic and the like are neither, however many names are in Latin letters.
    Latin letters are English unless more everyday words of other languages are among them.
    """
    letters = [char for char in text if char.isalpha()]
    if not letters:
        return "zh"
    scripts = [unicodedata.name(char, "").split(" ")[0] for char in letters]
    han = scripts.count("CJK")
    other = len(letters) - han - sum(name in ("LATIN", "FULLWIDTH") for name in scripts)
    if other > len(letters) * 0.3:
        return None
    if han * 2 >= len(letters):
        return "zh"
    words = [word.lower() for word in _WORD.findall(text[:_SAMPLE])]
    english = sum(word in _ENGLISH for word in words)
    chinese = len(_CHINESE.findall(text[:_SAMPLE])) if han else 0
    foreign = _foreign(words)
    if other > (han + other) * 0.3:
        foreign, chinese = foreign + 2, 0
    if foreign >= 2 and foreign > 2 * max(english, chinese):
        return None
    if han:
        english += sum(word in _SMALL_ENGLISH for word in words)
        return "zh" if chinese >= english else "en"
    return "en"


def _foreign(words: Sequence[str]) -> int:
    """How much hints at another language: a telling word counts for two that may be a name's."""
    telling = sum(word in _FOREIGN for word in words)
    return 2 * telling + sum(word in _SMALL or _is_accented(word) for word in words)


def _is_accented(word: str) -> bool:
    return not word.isascii() and unicodedata.name(word[0], "").startswith("LATIN")
