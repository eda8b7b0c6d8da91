"""The tag file -> groups of tags: what vision may say about a photo, in Chinese and English."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.errors import DataError
from core.messages import ImageTag

COLOUR = "colour"
TYPE = "type"

MAX_FILE_BYTES = 1_000_000
MAX_TAGS = 1000
MAX_NAME = 40
MAX_PHRASE = 120

_CJK = re.compile(r"[\u3400-\u9fff]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


@dataclass(frozen=True, slots=True)
class Tag:
    """One thing a photo may show; `phrase` is its English, "" for a Chinese name without one."""

    name: str
    phrase: str
    group: str

    def seen(self, score: float, sure: bool) -> ImageTag:
        """This tag as found in a photo."""
        return ImageTag(self.name, self.phrase or self.name, self.group, score, sure)


@dataclass(frozen=True, slots=True)
class TagGroup:
    """Tags that compete with each other; `english` is the group's stable key, such as "colour"."""

    name: str
    english: str
    tags: tuple[Tag, ...]


# What the groups of the shipped file are called elsewhere, by their English key.
_GROUP_NAMES: dict[str, tuple[str, ...]] = {
    COLOUR: ("颜色", "色彩", "配色", "color", "colours", "colors"),
    TYPE: ("类型", "款式", "鞋型", "种类", "types", "category"),
    "pattern": ("图案", "花纹", "patterns", "print"),
    "style": ("风格", "styles"),
    "material": ("材质", "材料", "面料", "materials"),
    "closure": ("闭合方式", "闭合", "穿着方式", "closures"),
    "sole": ("鞋底", "底", "soles"),
    "brand": ("品牌", "牌子", "brands"),
}
_KEYS = {name: key for key, names in _GROUP_NAMES.items() for name in (key, *names)}

# Where a file has no headings, the first of these found in a tag says what it is about. The order
# matters: 复古跑鞋 is a shoe before it is a style.
_GUESSES: tuple[tuple[str, re.Pattern[str]], ...] = (
    (TYPE, re.compile(r"(?:鞋|靴|拖|屐)$|\b(?:shoe|sneaker|boot|sandal|slipper|loafer|heel)s?$")),
    (
        COLOUR,
        re.compile(
            r"(?<!纯)(?<!拼)色$|^(?:玫瑰金|薄荷绿|荧光[绿黄])$|\b(?:black|white|gr[ea]y|silver|red"
            r"|pink|orange|yellow|gold|beige|brown|green|blue|navy|purple)$"
        ),
    ),
    (
        "pattern",
        re.compile(
            r"印花|条纹|迷彩|豹|格纹|棋盘格|波点|碎花|扎染|拼色|纯色|图案|纹$|刺绣"
            r"|\b(?:print|striped?|pattern|camouflage|floral|dotted|checkered)"
        ),
    ),
    (
        "material",
        re.compile(
            r"皮$|帆布|绒|网布|网面|飞织|尼龙|牛仔布|\b(?:leather|suede|canvas|mesh|knit)\b"
        ),
    ),
    ("sole", re.compile(r"底$|\b(?:sole|soled|platform)$")),
    ("closure", re.compile(r"系带|魔术贴|拉链|搭扣|松紧|\b(?:lace-up|velcro|zip|buckled?)\b")),
    (
        "style",
        re.compile(
            r"风$|风格|复古|休闲|运动|商务|潮|朋克|极简|\b(?:vintage|retro|casual|sporty)\b"
        ),
    ),
)
_CHINESE_NAMES = {key: names[0] for key, names in _GROUP_NAMES.items()}
_OTHER = ("其他", "other")


def load_tags(path: Path) -> list[TagGroup]:
    """Read the tag file: `# 颜色 | colour` starts a group, `涂鸦印花 | graffiti print` is a tag.

    The English half may be missing, and so may the headings: a plain list of one tag a line is
    sorted into groups by a small lexicon. Blank lines, a byte order mark and repeated tags (NFKC,
    case-folded) are passed over, headings without tags are comments. Raises `DataError` naming the
    file and the line.
    """
    groups: dict[str, tuple[str, list[Tag]]] = {}
    known: set[tuple[str, str]] = set()
    heading: tuple[str, str] | None = None
    for number, line in _lines(path):
        name, phrase = _halves(line.lstrip("#").strip(), f"{path}, line {number}")
        if line.startswith("#"):
            heading = (name, _key(phrase or name))
            continue
        group_name, key = heading or _guess(name, phrase)
        tag = Tag(name, phrase or ("" if _CJK.search(name) else name), key)
        if (key, name.casefold()) in known:
            continue
        known.add((key, name.casefold()))
        groups.setdefault(key, (group_name, []))[1].append(tag)
        if len(known) > MAX_TAGS:
            raise DataError(f"{path}, line {number}: more than {MAX_TAGS} tags; remove some.")
    if not groups:
        raise DataError(f"{path}: there are no tags in it; write one a line, such as 黑色 | black.")
    return [TagGroup(name, key, tuple(tags)) for key, (name, tags) in groups.items()]


def untranslated(groups: Iterable[TagGroup]) -> list[str]:
    """The Chinese tags without an English phrase: a model that reads only English misses them."""
    return [tag.name for group in groups for tag in group.tags if not tag.phrase]


def contradicted(tag: ImageTag, text: str, groups: Sequence[TagGroup]) -> str:
    """The colour or type that `text` names instead of this tag, in the person's own language.

    "" where the text names no other of its group, or this one too, or a shade of it (酒红色 is no
    contradiction to 红色, nor navy blue to blue). Other groups contradict nothing: a shoe can be
    both vintage and casual.
    """
    if tag.group not in (COLOUR, TYPE):
        return ""
    tags = next((group.tags for group in groups if group.english == tag.group), ())
    said = list(_mentions(text, tags))
    if any(other.name == tag.name or _kin(tag, other) for other, _ in said):
        return ""
    return said[0][1] if said else ""


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DataError(f"{path}: larger than {MAX_FILE_BYTES} bytes; is that the tag file?")
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as exc:
        raise DataError(f"{path}: cannot read the tags ({exc.strerror}); restore it.") from exc
    except UnicodeDecodeError as exc:
        raise DataError(f"{path}: byte {exc.start} is no UTF-8; save the file as UTF-8.") from exc
    for number, line in enumerate(text.splitlines(), 1):
        cleaned = unicodedata.normalize("NFKC", line).strip()
        if cleaned.strip("#").strip():
            yield number, cleaned


def _halves(line: str, where: str) -> tuple[str, str]:
    """Name and English phrase of a line, within their limits."""
    name, bar, phrase = (part.strip() for part in line.partition("|"))
    if not name or "|" in phrase:
        raise DataError(f"{where}: expected `name | English phrase`, found {line[:80]!r}.")
    if _CONTROL.search(line):
        raise DataError(f"{where}: remove the invisible characters from {line[:80]!r}.")
    if bar and not phrase:
        raise DataError(f"{where}: {name!r} has a bar but no English phrase after it.")
    if len(name) > MAX_NAME or len(phrase) > MAX_PHRASE:
        raise DataError(
            f"{where}: {line[:20]!r}… is too long; a name has at most {MAX_NAME} characters and "
            f"a phrase {MAX_PHRASE}."
        )
    return name, phrase


def _key(name: str) -> str:
    return _KEYS.get(name.casefold(), name.casefold())


def _guess(name: str, phrase: str) -> tuple[str, str]:
    """The group (its name and key) of a tag that stands under no heading."""
    for key, pattern in _GUESSES:
        if pattern.search(name.casefold()) or pattern.search(phrase.casefold()):
            return _CHINESE_NAMES[key], key
    return _OTHER


def _mentions(text: str, tags: Iterable[Tag]) -> Iterator[tuple[Tag, str]]:
    """The tags named in a text and how; a longer name hides the shorter one inside it."""
    rest = unicodedata.normalize("NFKC", text).casefold()
    names = [(name, tag) for tag in tags for name in {tag.name, tag.phrase} if name]
    for name, tag in sorted(names, key=lambda pair: -len(pair[0])):
        pattern = _pattern(name, tag.group)
        if pattern.search(rest):
            rest = pattern.sub("\n", rest)
            yield tag, name


def _pattern(name: str, group: str) -> re.Pattern[str]:
    folded = re.escape(name.casefold())
    if not _CJK.search(name):
        return re.compile(rf"\b{folded}\b")
    # People write 红鞋 and 红的 for 红色的鞋; 网红 is a celebrity.
    if group == COLOUR and len(name) == 2 and name.endswith("色"):
        return re.compile(rf"(?<!网){re.escape(name[0])}(?:色|(?=的|鞋|靴|款|拖))")
    return re.compile(folded)


def _kin(seen: ImageTag, said: Tag) -> bool:
    """Whether two names share a word: 蓝色 and 天蓝色, "blue" and "navy blue"."""
    chinese = set(seen.name) & set(said.name) - set("色深浅亮暗鞋靴子")
    english = set(seen.phrase.casefold().split()) & set(said.phrase.casefold().split())
    return bool(_CJK.search("".join(chinese)) or english - _VAGUE)


_VAGUE = frozenset({"shoe", "shoes", "boot", "boots", "sneaker", "style", "dark", "light", "heel"})
