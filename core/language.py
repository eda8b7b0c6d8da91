"""Which language a text is written in."""

from __future__ import annotations

import re
import unicodedata

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

    Chinese wins wherever a fifth of the letters are Han characters, so that "GORE-TEX 防水吗" is
    a Chinese question. Japanese kana, Hangul, Cyrillic and the like are neither. Latin letters are
    English unless more everyday words of other languages are among them than English ones.
    """
    letters = [char for char in text if char.isalpha()]
    if not letters:
        return "zh"
    scripts = [unicodedata.name(char, "").split(" ")[0] for char in letters]
    han = scripts.count("CJK")
    latin = sum(name in ("LATIN", "FULLWIDTH") for name in scripts)
    if len(letters) - han - latin > len(letters) * 0.3:
        return None
    if han * 5 >= len(letters):
        return "zh"
    return None if _is_foreign(text) else "en"


def _is_foreign(text: str) -> bool:
    """Whether Latin letters are no English: a telling word or two hints, and English no more."""
    words = [word.lower() for word in _WORD.findall(text[:_SAMPLE])]
    telling = sum(word in _FOREIGN for word in words)
    hints = sum(word in _SMALL or not word.isascii() for word in words)
    foreign = 2 * telling + hints
    return foreign >= 2 and foreign > 2 * sum(word in _ENGLISH for word in words)
