"""Hand-written spoken answers -> preference pairs: `data/shoes_dpo.jsonl` and its held-out twin.

The prompt of a pair is an SFT row's, and so the engine's. *Rejected* is the stiff answer that SFT
taught, *chosen* the same facts as a person would say them (`data/spoken.jsonl`).
"""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from core.errors import DataError
from core.messages import Language
from training.corpus import Corpus
from training.material import Material, Question, load_entries, load_material, load_questions
from training.rows import SpokenRow, read_all
from training.sft_rows import Row, RowMaker, framed_answer
from training.spoken import CLOSERS, spoken_entry

LEAST_PAIRS = 600
_KEPT_ONE_IN = 9  # entries whose spoken answer is kept for measuring
_TALKED_REFUSALS: dict[Language, tuple[str, ...]] = {
    "zh": (
        "哎呀，这个资料里没有提到，我可不敢乱说哦～",
        "嗨，资料里没有这个问题的答案，问问店员更稳妥哦～",
        "哈喽，这一点资料里没有写，我就不瞎猜啦～",
    ),
    "en": (
        "Hey! My documents do not cover that, so I won't guess!",
        "Hi there! That is not in my documents, better ask the shop!",
        "Hey! Sorry, my documents do not say, so I'd rather not guess!",
    ),
}


@dataclass(frozen=True, slots=True)
class ShippedPair:
    """A prompt with the answer that people like better and the one they like less."""

    row: Row
    chosen: str

    def ranking(self) -> dict[str, str | list[list[str]]]:
        """The columns prompt, chosen, rejected, system and history."""
        alpaca = self.row.alpaca()
        return {
            "prompt": alpaca["instruction"],
            "chosen": self.chosen,
            "rejected": self.row.output,
            "system": alpaca["system"],
            "history": alpaca["history"],
        }


@dataclass(frozen=True, slots=True)
class PairShares:
    """How many pairs of each other kind there are to one about an entry."""

    photographed: float = 0.08
    refused: float = 0.08


def load_spoken(data: Path) -> dict[str, str]:
    """The hand-written spoken answers of `spoken.jsonl` by entry id; raises `DataError`."""
    return {row.entry: row.spoken for row in read_all(data / "spoken.jsonl", SpokenRow)}


def machine_spoken(material: Material, seed: int) -> dict[str, str]:
    """Every entry said in talk by rule, by entry id."""
    dice = random.Random(seed)
    return {name: spoken_entry(dice, entry) for name, entry in material.entries.items()}


def kept_for_measuring(entry: str) -> bool:
    """Whether the spoken answer of this entry is never trained on, decided by its id alone."""
    return zlib.crc32(entry.removesuffix(".en").encode()) % _KEPT_ONE_IN == 0


def make_pairs(
    material: Material,
    spoken: Mapping[str, str],
    seed: int,
    repeats: int = 2,
    shares: PairShares | None = None,
) -> list[ShippedPair]:
    """Pairs for training: each spoken answer `repeats` times, in other company and frames.

    The same material and seed give the same pairs in the same order.
    """
    shares = shares or PairShares()
    dice = random.Random(seed)
    maker = RowMaker(Corpus(material), dice)
    taught = {
        name: said
        for name, said in spoken.items()
        if name in material.entries and not kept_for_measuring(name)
    }
    pairs = []
    asked = _questions_by_entry(material)
    for name, said in taught.items():
        for turn, question in enumerate(dice.sample(asked[name], min(repeats, len(asked[name])))):
            row = maker.answered(question, reworded=turn > 0)
            pairs.append(ShippedPair(row, _other_frame(dice, said) if turn else said))
    single = len(pairs)
    pairs += _photographed(maker, taught, round(single * shares.photographed))
    pairs += [_refused(maker) for _ in range(round(single * shares.refused))]
    dice.shuffle(pairs)
    return pairs


def make_held_out_pairs(
    data: Path, spoken: Mapping[str, str], seed: int
) -> Iterator[dict[str, str | list[list[str]]]]:
    """Pairs for measuring: entries and questions that no training pair holds, as JSON rows.

    Every entry that is held out from all training is among them, and those that
    `kept_for_measuring` names.
    """
    trained = load_material(data).entries
    entries = load_entries(data / "knowledge_base.json")
    wanted = {name for name in spoken if name not in trained or kept_for_measuring(name)}
    questions = [q for q in load_questions(data / "eval" / "retrieval.jsonl") if q.entry in wanted]
    material = Material(entries, tuple(questions))
    dice = random.Random(seed)
    maker = RowMaker(Corpus(material), dice)
    for name, asked in _questions_by_entry(material).items():
        question = dice.choice(asked)
        pair = ShippedPair(maker.answered(question, reworded=False), spoken[name])
        yield {"id": f"p-{name}", "entry": name, "lang": entries[name].lang, **pair.ranking()}


def write_pairs(pairs: Iterable[ShippedPair], path: Path) -> int:
    """Write the pairs as JSON lines; how many there were. Raises `DataError` for too few."""
    rows = [pair.ranking() for pair in pairs]
    if len(rows) < LEAST_PAIRS:
        raise DataError(
            f"Only {len(rows)} preference pairs, {LEAST_PAIRS} are needed: add spoken answers to "
            "data/spoken.jsonl."
        )
    write_json_lines(rows, path)
    return len(rows)


def write_json_lines(rows: Iterable[object], path: Path) -> None:
    """One JSON object a line, Chinese as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")


def _photographed(maker: RowMaker, spoken: Mapping[str, str], count: int) -> Iterator[ShippedPair]:
    """Pairs with photo tags; both answers begin with what was seen."""
    while count:
        row = maker.photographed()
        if row.entry in spoken:
            entry = maker.corpus.material.entries[row.entry]
            seen = row.output.removesuffix(framed_answer(entry.title, entry.text, entry.lang))
            yield ShippedPair(row, f"{seen}{spoken[row.entry]}")
            count -= 1


def _refused(maker: RowMaker) -> ShippedPair:
    row = maker.refused()
    lang: Language = "zh" if row.output.startswith("您好") else "en"
    return ShippedPair(row, maker.dice.choice(_TALKED_REFUSALS[lang]))


def _other_frame(dice: random.Random, said: str) -> str:
    """The same answer with another greeting or another closing word."""
    for greetings in (("哈喽，", "嗨，"), ("Hey! ", "Hi there! ")):
        for old in greetings:
            if said.startswith(old):
                said = dice.choice(greetings) + said.removeprefix(old)
    for closers in CLOSERS.values():
        for old in closers:
            if said.endswith(old):
                return said.removesuffix(old) + dice.choice(closers)
    return said


def _questions_by_entry(material: Material) -> dict[str, list[Question]]:
    groups: dict[str, list[Question]] = {}
    for question in material.questions:
        groups.setdefault(question.entry, []).append(question)
    return groups
