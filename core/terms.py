"""Text -> weighted index terms: what counts as a word in Chinese, in English, and in both.

Chinese is cut into single characters and pairs, English into light stems and four-letter pieces
(which forgive spelling), numbers, sizes and model codes stay whole. A synonym lexicon adds one
*concept* term for a whole group of words, so that 洞洞鞋 and "clogs" have a term in common.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import TypeVar

import snowballstemmer

from core.errors import DataError
from core.language import without_language

# A question or passage beyond this length adds nothing that the first part did not say.
MAX_CHARACTERS = 4000

_CJK = "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_LATIN = rf"[^\W_{_CJK}]"
_TOKEN = re.compile(rf"(?P<cjk>[{_CJK}]+)|(?P<latin>{_LATIN}+(?:(?<=\d)\.(?=\d){_LATIN}+)*)")
_PARTS = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+")
_CONTRACTION = re.compile(r"['’](?:s|t|re|ve|ll|d|m)\b")
_DIGIT = re.compile(r"\d")
_IDEOGRAPH = re.compile(rf"[{_CJK}]")
_WORD = re.compile(rf"{_LATIN}+")
_CONCEPT, _PIECE = "@", "~"
_GRAM = 4
# Goes up when the same text gives other terms than before.
_VERSION = 1

# Words that carry the question, not its subject.
_STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        """a about am an and any are aren as at be been being but by can could couldn d did didn do
        does doesn doing don done for from get had has have having he her here hers him his how i
        if in into is isn it its just let ll m may me might mine more most must my no nor not of ok
        okay on one or our ours out own please re really s shall she should shouldn so some such t
        tell than that the their theirs them then there these they this those to too up us ve very
        was wasn we were what when where which while who whom whose why will with won would wouldn
        you your yours""",
    )
)
_STOP_CJK = re.compile(
    "请介绍一下|介绍一下|说说|讲讲|聊聊|意思|可不可以|怎么样|怎么办|为什么|是什么|有没有|能不能|要不要|是不是|该不该|行不行|"
    "好不好|会不会|什么样|咋回事|请问|什么|怎么|怎样|如何|哪些|哪种|哪个|哪里|多少|几个|咋办|可以|应该|需要|"
    "[这那]双|[咋啥吗呢吧啊呀嘛的了是我你他她它们这那就都也很还又在有和与把被给着过得个一不会能要想该让用]"
)

# How an answer is wanted, which is not what the question is about.
_WANTED_SHORT = re.compile(
    "(?:(?:请|麻烦|能不能|可以)?(?:只要|只用|就|用)?一句[话話](?:就行|就好)?"
    "|[长長][话話]短[说說]|[简簡][单單]点?(?:[讲說说]|回答|告[诉訴]我)(?:一下|[说說])?"
    "|[简簡]短一?[点點些](?:[说說讲]|回答)?|(?:不用|不要|[别別])[说說讲](?:太|那么|這麼)多"
    "|赶[时時][间間]|(?:直接)?告[诉訴]我)+(?:[说說]|告[诉訴]我)?[，,。：:！!、\\s]*"
    r"|\b(?:(?:i am|i'm|i’m) in a hurry|keep it (?:short|brief)|(?:please )?briefly"
    r"|(?:just |only )?(?:in )?(?:one|a single) (?:short )?sentence|in (?:short|brief)(?=\s*[:,]))"
    r"(?:,? please)?[\s:,.!]*",
    re.IGNORECASE,
)

# Traditional -> simplified, for the characters that talk about shoes needs.
_SIMPLIFIED_PAIRS = (
    "乾干亞亚佔占併并來来係系個个們们偽伪傢家傷伤價价兒儿內内兩两冊册別别則则剛刚創创"
    "劃划劑剂勁劲動动務务勝胜勞劳勢势勸劝區区協协厲厉參参吋寸問问單单嗎吗嘗尝噴喷噸吨"
    "嚴严國国圍围圓圆圖图場场塗涂塵尘墊垫墜坠壓压壘垒壞坏壯壮夠够夾夹奧奥奪夺妝妆媽妈"
    "嬰婴學学實实寬宽將将專专尋寻對对導导屆届屜屉層层屬属巖岩帶带幫帮幹干幾几庫库廠厂"
    "廣广廳厅張张強强彈弹彎弯後后徑径從从徵征徹彻恆恒愛爱態态慣惯慮虑憂忧憶忆應应戰战"
    "戲戏戶户捲卷揀拣換换損损搖摇撐撑擇择擔担據据擠挤數数斷断於于時时暈晕曬晒書书會会"
    "東东條条業业極极構构槍枪樓楼標标樣样橋桥機机檢检櫃柜歐欧歲岁歸归殘残氣气沒没涼凉"
    "淨净準准溫温滲渗滿满漸渐漿浆潑泼潔洁潤润澤泽濕湿濾滤灣湾為为無无熱热燈灯燒烧燙烫"
    "營营爺爷牆墙狀状獨独瑣琐環环產产異异當当療疗發发皺皱盡尽監监盤盘盪荡確确碼码礙碍"
    "禮礼稅税種种積积穩稳筆笔範范簡简簽签籃篮籤签糧粮約约紅红紉纫紋纹純纯紗纱紙纸級级"
    "紮扎細细結结絕绝給给絨绒統统絲丝綁绑經经綜综綠绿綢绸維维網网緊紧線线緞缎緣缘編编"
    "緩缓練练縫缝縮缩縱纵總总織织繩绳繫系纖纤羅罗羣群義义聞闻聯联聲声職职聽听腦脑腫肿"
    "腳脚膚肤膠胶膩腻臉脸臟脏臺台與与舊旧艙舱艷艳蓋盖藍蓝藝艺藥药蘋苹蘭兰號号蟲虫蠟蜡"
    "術术衛卫衝冲裏里補补裝装裡里製制複复襠裆襪袜襯衬見见觀观訂订計计訓训記记設设許许"
    "評评試试話话該该誌志認认語语說说調调請请論论謝谢證证識识護护讀读變变讓让豎竖豐丰"
    "貝贝負负貨货買买費费貼贴資资賣卖質质賬账購购賽赛贗赝趕赶蹤踪車车軌轨軟软較较載载"
    "輔辅輕轻輪轮轉转農农這这週周運运過过遠远適适遲迟選选邁迈還还邊边郵邮醫医釋释釐厘"
    "釘钉針针鈕钮鉛铅鉤钩銀银銅铜鋪铺鋼钢錄录錢钱錯错錶表鍊链鍵键鎖锁鏈链鏡镜鐘钟鐵铁"
    "長长門门閉闭開开閒闲間间關关陣阵陰阴隊队階阶際际隨随險险雖虽雙双雜杂雞鸡難难電电"
    "霧雾靜静鞦秋韌韧韓韩響响頁页頂顶項项順顺須须預预領领頭头頸颈頻频顆颗題题額额顏颜"
    "願愿類类顧顾顯显風风飛飞飯饭飾饰養养餘余館馆馬马騎骑騙骗髒脏體体髖髋髮发鬆松魚鱼"
    "鳥鸟鹽盐麗丽麼么黃黄黏粘點点黴霉齊齐齒齿齡龄龍龙龜龟"
)
_SIMPLIFY = str.maketrans(_SIMPLIFIED_PAIRS[::2], _SIMPLIFIED_PAIRS[1::2])


@dataclass(frozen=True, slots=True)
class TermWeights:
    """How much each kind of term counts in a question; in a passage all count the same."""

    character: float = 1.0
    pair: float = 0.8
    word: float = 1.0
    gram: float = 0.25
    code: float = 1.5
    concept: float = 1.4


@dataclass(frozen=True, slots=True)
class Lexicon:
    """Groups of words that mean the same; `digest` changes when any of them does."""

    cjk: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    latin: Mapping[tuple[str, ...], tuple[int, ...]] = field(default_factory=dict)
    longest_cjk: int = 0
    longest_latin: int = 0
    digest: str = ""

    def concepts(self, text: str) -> Iterator[int]:
        """The groups named in a normalised text; the longest name wins where two overlap."""
        if _IDEOGRAPH.search(text):
            yield from _longest_matches("".join(text.split()), self.cjk, self.longest_cjk)
        stems = tuple(stem(word) for word in _WORD.findall(text))
        yield from _longest_matches(stems, self.latin, self.longest_latin)


def load_lexicon(path: Path) -> Lexicon:
    """Read a synonym file; see `synonym_groups`."""
    cjk: dict[str, set[int]] = {}
    latin: dict[tuple[str, ...], set[int]] = {}
    groups = synonym_groups(path)
    for number, names in enumerate(groups):
        for name in names:
            if _IDEOGRAPH.search(name):
                cjk.setdefault("".join(name.split()), set()).add(number)
            else:
                stems = tuple(stem(word) for word in _WORD.findall(name))
                latin.setdefault(stems, set()).add(number)
    return Lexicon(
        {name: tuple(sorted(numbers)) for name, numbers in cjk.items()},
        {name: tuple(sorted(numbers)) for name, numbers in latin.items()},
        max(map(len, cjk), default=0),
        max(map(len, latin), default=0),
        hashlib.sha256(repr(groups).encode()).hexdigest()[:16],
    )


def synonym_groups(path: Path) -> list[tuple[str, ...]]:
    """Read groups of synonyms, `name, name, …` a line, Chinese and English mixed, normalised.

    `#` starts a comment. Raises `DataError` naming the line of a group with fewer than two names.
    """
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise DataError(f"Cannot read the synonyms in {str(path)!r} ({exc}): restore it.") from exc
    groups = []
    for number, line in enumerate(lines, 1):
        content = line.partition("#")[0].strip()
        names = tuple(normalize(name).strip() for name in content.split(","))
        if content and (len(names) < 2 or not all(_TOKEN.search(name) for name in names)):
            raise DataError(f"{path}, line {number}: a group needs two names or more: {line!r}.")
        if content:
            groups.append(names)
    return groups


@dataclass(frozen=True, slots=True)
class Analyzer:
    """Cuts passages and questions into the same terms."""

    lexicon: Lexicon = field(default_factory=Lexicon)
    weights: TermWeights = field(default_factory=TermWeights)
    title_weight: float = 1.5
    keyword_weight: float = 0.6

    @property
    def digest(self) -> str:
        """Changes when passages would be cut differently."""
        return f"{_VERSION}:{self.lexicon.digest}:{self.title_weight}:{self.keyword_weight}"

    def passage(self, title: str, text: str, keywords: Sequence[str] = ()) -> dict[str, float]:
        """Term -> how often; words of the title and the keywords count by their own weights."""
        terms: dict[str, float] = dict(Counter(term for term, _ in self._terms(normalize(text))))
        extras = [(title, self.title_weight), *((one, self.keyword_weight) for one in keywords)]
        for extra, weight in extras:
            for term, _ in self._terms(normalize(extra)):
                terms[term] = terms.get(term, 0.0) + weight
        return terms

    def question(self, text: str) -> dict[str, float]:
        """Term -> weight. Empty when the text says nothing, as "怎么样？" or an emoji does."""
        subject = _STOP_CJK.sub(" ", normalize(text[:MAX_CHARACTERS]))
        return {term: weight for term, weight in self._terms(subject) if weight > 0}

    def _terms(self, text: str) -> Iterator[tuple[str, float]]:
        weights = self.weights
        for match in _TOKEN.finditer(text):
            if match.lastgroup == "cjk":
                yield from _cjk_terms(match.group(), weights)
            else:
                yield from _latin_terms(match.group(), weights)
        for concept in self.lexicon.concepts(text):
            yield f"{_CONCEPT}{concept}", weights.concept


def is_concept(term: str) -> bool:
    """Whether a term stands for a group of words that mean the same."""
    return term.startswith(_CONCEPT)


def is_word(term: str) -> bool:
    """Whether a term is a whole Latin word, or one Han character."""
    return term[0] not in (_CONCEPT, _PIECE) and (term.isascii() or len(term) == 1)


def subject_of(text: str) -> str:
    """A question without the words that only say how its answer should be: short, in English."""
    return _WANTED_SHORT.sub(" ", without_language(text)).strip()


@lru_cache(maxsize=50_000)
def subject_words(text: str) -> tuple[str, ...]:
    """What a title or a question names, without the words that only ask: "什么是漆皮？" is 漆皮.

    English words come as stems, so that "What are loafers?" names the same as "Loafer".
    """
    subject = _STOP_CJK.sub(" ", normalize(text[:MAX_CHARACTERS]))
    words = (match.group() for match in _TOKEN.finditer(subject))
    return tuple(stem(word) for word in words if word not in _STOP_WORDS)


def normalize(text: str) -> str:
    """One spelling for what looks the same: width, case, traditional characters, invisibles."""
    text = unicodedata.normalize("NFKC", text).casefold().translate(_SIMPLIFY)
    text = "".join(char if unicodedata.category(char)[0] != "C" else " " for char in text)
    return _CONTRACTION.sub("", text)


@lru_cache(maxsize=50_000)
def stem(word: str) -> str:
    """A light English stem: running, runs -> run."""
    with _STEMMER_LOCK:
        return str(_STEMMER.stemWord(word))


# The stemmer keeps the word it works on in itself.
_STEMMER = snowballstemmer.stemmer("english")
_STEMMER_LOCK = Lock()


def _cjk_terms(run: str, weights: TermWeights) -> Iterator[tuple[str, float]]:
    for char in run:
        yield char, weights.character
    for left, right in pairwise(run):
        yield left + right, weights.pair


def _latin_terms(token: str, weights: TermWeights) -> Iterator[tuple[str, float]]:
    if _DIGIT.search(token):
        yield token, weights.code
        parts = _PARTS.findall(token)
        if len(parts) > 1:
            yield from ((part, weights.word) for part in parts)
    elif token not in _STOP_WORDS:
        yield stem(token), weights.word
        if len(token) > _GRAM:
            yield from (
                (f"{_PIECE}{token[start : start + _GRAM]}", weights.gram)
                for start in range(len(token) - _GRAM + 1)
            )


_Sliceable = TypeVar("_Sliceable", str, tuple[str, ...])


def _longest_matches(
    items: _Sliceable, names: Mapping[_Sliceable, tuple[int, ...]], longest: int
) -> Iterator[int]:
    start = 0
    while start < len(items):
        for length in range(min(longest, len(items) - start), 0, -1):
            groups = names.get(items[start : start + length])
            if groups:
                yield from groups
                start += length
                break
        else:
            start += 1
