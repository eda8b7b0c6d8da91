"""The pool of a moment -> an immutable dataset in LLaMA-Factory's format, named by its content.

Rows are sharegpt with the served prompt's own roles. LLaMA-Factory's `openai` formatting would take
the same rows, and append words of its own to every system message.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from core.duplicates import near_pairs, normalised
from core.errors import DataError
from core.language import language_of
from core.messages import ChatMessage
from training.pairs import PreferencePair, RatedAnswer
from training.rows import DpoRow, SftRow, question_in, read_rows
from training.tokens import TokenCounter

RunStage = Literal["sft", "dpo", "kto"]
Split = Literal["train", "held_out"]
SplitBy = Literal["person and question", "question", "nothing"]

_MANIFEST = "manifest.json"
_INFO = "dataset_info.json"
_FILES = ("train.jsonl", "held_out.jsonl", _INFO)
# The role tags are those of the served prompt, so that a row holds it as it is.
_TAGS: Mapping[str, str] = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "system_tag": "system",
}
_LIKED = "label"
_COLUMNS: Mapping[RunStage, Mapping[str, str]] = {
    "sft": {"messages": "messages"},
    "dpo": {"messages": "messages", "chosen": "chosen", "rejected": "rejected"},
    "kto": {"messages": "messages", "kto_tag": _LIKED},
}
# The share of the anchors that a language has in which hardly anybody asked.
_LEAST_REMINDED = 0.2


@dataclass(frozen=True, slots=True)
class FreezeRules:
    """How a pool becomes a dataset.

    `cutoff_len` is the recipe's: LLaMA-Factory cuts longer rows at the prompt's end, which is the
    question, and says nothing. `held_out` is the share kept for measuring; where that is less than
    `worth_measuring` rows it would tell nothing, and all are trained on. `most_rows` is what a run
    has time for, 0 for no limit: it is filled by going through few rows again and again, up to
    `most_passes` times. `replay` is the number of anchor pairs to each of people's rows and each
    time: anchors are never the same ones again, as what is to stay is more than can be told.
    """

    cutoff_len: int
    held_out: float = 0.15
    worth_measuring: int = 10
    replay: float = 1.0
    most_rows: int = 0
    most_passes: int = 1


class Item(BaseModel):
    """A pair or rated answer of the dataset, and on which side of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    split: Split


class LeftOut(BaseModel):
    """A pair or rated answer that is not in the dataset, and why."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    why: str


class Manifest(BaseModel):
    """What a dataset holds; `digest` is the SHA-256 of everything else and of the files."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    digest: str
    stage: RunStage
    items: list[Item]
    left_out: list[LeftOut]
    anchors: int
    passes: int = 1
    split_by: SplitBy
    cutoff_len: int
    liked: int = 0
    disliked: int = 0

    def count(self, split: Split) -> int:
        """How many of people's rows are on this side; anchors are not among them."""
        return sum(item.split == split for item in self.items)


@dataclass(frozen=True, slots=True)
class Frozen:
    """A dataset on disk: LLaMA-Factory finds `train` and `held_out` in the folder."""

    folder: Path
    manifest: Manifest

    @property
    def rows(self) -> int:
        """How many rows are trained on; one that is gone through again counts again."""
        return self.manifest.passes * self.manifest.count("train") + self.manifest.anchors


@dataclass(frozen=True, slots=True)
class _Row:
    """A row to be: who is behind it and what it asks decide on its side of the split."""

    id: str
    person: str
    question: str
    created_at: float
    columns: Mapping[str, Any]
    tokens: int


def sharegpt_entry(stage: RunStage, file_name: str) -> dict[str, Any]:
    """What LLaMA-Factory's `dataset_info.json` has to say about a file of such rows."""
    entry = {"file_name": file_name, "formatting": "sharegpt", "tags": dict(_TAGS)}
    return entry | {"ranking": stage == "dpo", "columns": dict(_COLUMNS[stage])}


def ranking_row(prompt: Sequence[ChatMessage], chosen: str, rejected: str) -> dict[str, Any]:
    """A ranking row: the prompt message by message, exactly as it was served."""
    return {
        "messages": [asdict(message) for message in prompt],
        "chosen": asdict(ChatMessage("assistant", chosen)),
        "rejected": asdict(ChatMessage("assistant", rejected)),
    }


def kto_row(one: RatedAnswer) -> dict[str, Any]:
    """A row for KTO: the chat with the answer, and whether it was liked."""
    messages = (*one.prompt, ChatMessage("assistant", one.completion))
    return {"messages": [asdict(message) for message in messages], _LIKED: one.liked}


def freeze_pairs(
    pairs: Sequence[PreferencePair],
    anchors: Sequence[DpoRow],
    rules: FreezeRules,
    count: TokenCounter,
    folder: Path,
) -> Frozen:
    """Write the pairs as a ranking dataset into a folder of its own below `folder`.

    The same pairs, anchors and rules make the same dataset, which is then not written again. Raises
    `DataError` when no pair is left to train on.
    """
    rows = [_pair_row(pair, count) for pair in pairs]
    # Drawn by their own digests: the same ones for the same number, whatever their order.
    drawn = _in_order(_anchor_row(pair, count) for pair in anchors)
    return _freeze("dpo", rows, [row for row in drawn if _fits(row, rules)], rules, folder)


def freeze_ratings(
    rated: Sequence[RatedAnswer], rules: FreezeRules, count: TokenCounter, folder: Path
) -> Frozen:
    """Write single answers with their thumbs as a KTO dataset, like `freeze_pairs`.

    Raises `DataError` where all of them are liked, or none: KTO needs both.
    """
    rows = [_rated_row(one, count) for one in rated]
    return _freeze("kto", rows, [], rules, folder)


def freeze_rows(
    rows: Sequence[SftRow], rules: FreezeRules, count: TokenCounter, folder: Path
) -> Frozen:
    """Write shipped rows as an SFT dataset, like `freeze_pairs`; they are nobody's."""
    return _freeze("sft", [_sft_row(row, count) for row in rows], [], rules, folder)


def load_frozen(folder: Path) -> Frozen:
    """A dataset as it was frozen; `DataError` where it is gone or was changed since."""
    try:
        manifest = Manifest.model_validate_json((folder / _MANIFEST).read_bytes())
        digest = _digest(folder, manifest)
    except (OSError, ValidationError) as exc:
        raise DataError(f"There is no whole dataset in {str(folder)!r}: {exc}.") from exc
    if digest != manifest.digest:
        raise DataError(
            f"The dataset {str(folder)!r} was changed after it was frozen. Remove the folder: the "
            "run freezes the pool again."
        )
    return Frozen(folder, manifest)


def read_manifest(folder: Path) -> Manifest | None:
    """What a dataset says it holds; None where that cannot be read."""
    try:
        return Manifest.model_validate_json((folder / _MANIFEST).read_bytes())
    except (OSError, ValidationError):
        return None


def remove_frozen(folder: Path) -> None:
    """Delete a dataset, such as one that holds what an erased person said."""
    shutil.rmtree(folder, ignore_errors=True)


def load_anchors(path: Path) -> list[DpoRow]:
    """The shipped pairs; none where the file is missing. Raises `DataError` for a bad one."""
    found = read_rows(path, str(path), DpoRow)
    if found.problems:
        raise DataError(f"{found.problems[0]}. Mend the row.")
    return [row.data for row in found.rows]


def _freeze(
    stage: RunStage,
    found: Sequence[_Row],
    anchors: Sequence[_Row],
    rules: FreezeRules,
    folder: Path,
) -> Frozen:
    left_out = [
        LeftOut(id=row.id, why=f"{row.tokens} tokens of {rules.cutoff_len}: it would be cut")
        for row in found
        if not _fits(row, rules)
    ]
    rows = [row for row in found if _fits(row, rules)]
    held, split_by = split_rows(rows, rules)
    train = [row for row in rows if row.id not in held]
    if rules.most_rows:
        # Old answers were given by models of long ago: where there are too many, they go first.
        newest = sorted(train, key=lambda row: (-row.created_at, row.id))
        left_out += [
            LeftOut(id=row.id, why=f"{rules.most_rows} newer ones fill the run")
            for row in newest[rules.most_rows :]
        ]
        train = newest[: rules.most_rows]
        anchors = anchors[: rules.most_rows - len(train)]
    if not train:
        raise DataError("There is no pair to train on: none is accepted and short enough.")
    passes = _passes(len(train), rules if anchors else replace(rules, replay=0.0))
    replayed = _spread(anchors, train, round(rules.replay * passes * len(train)))
    manifest = Manifest(
        digest="",
        stage=stage,
        items=[Item(id=row.id, split="train") for row in _in_order(train)]
        + [Item(id=row.id, split="held_out") for row in _in_order(rows) if row.id in held],
        left_out=left_out,
        anchors=len(replayed),
        passes=passes,
        split_by=split_by,
        cutoff_len=rules.cutoff_len,
        liked=sum(row.columns.get(_LIKED) is True for row in train),
        disliked=sum(row.columns.get(_LIKED) is False for row in train),
    )
    if stage == "kto" and not (manifest.liked and manifest.disliked):
        raise DataError(
            f"KTO needs answers that were liked and answers that were not; there are "
            f"{manifest.liked} and {manifest.disliked}. Wait for more thumbs."
        )
    sides = {
        "train": [row.columns for row in (*passes * _in_order(train), *replayed)],
        "held_out": [row.columns for row in _in_order(rows) if row.id in held],
    }
    return _write(manifest, sides, folder)


def _spread(anchors: Sequence[_Row], train: Sequence[_Row], number: int) -> list[_Row]:
    """So many anchors, or all: of each language the share that it has among people's rows.

    A language that is reminded more than it is corrected keeps to its old ways. One in which nobody
    asked is reminded of all the same, and one that has too few is made up for by the others.
    """
    asked = Counter(_language(row) for row in train)
    kinds: defaultdict[str, list[_Row]] = defaultdict(list)
    for anchor in anchors:
        kinds[_language(anchor)].append(anchor)
    shares = {one: max(_LEAST_REMINDED, asked[one] / len(train)) for one in kinds}
    whole = sum(shares.values())
    drawn = [
        anchor
        for one, found in kinds.items()
        for anchor in found[: round(number * shares[one] / whole)]
    ]
    chosen = {anchor.id for anchor in drawn}
    drawn += [anchor for anchor in anchors if anchor.id not in chosen]
    return _in_order(drawn[:number])


def _language(row: _Row) -> str:
    return language_of(row.question) or ""


def _passes(rows: int, rules: FreezeRules) -> int:
    """How often so many rows and their anchors are gone through in the time of a run."""
    fit = int(rules.most_rows / (rows * (1 + rules.replay)))
    return max(1, min(rules.most_passes, fit))


def split_rows(rows: Sequence[_Row], rules: FreezeRules) -> tuple[frozenset[str], SplitBy]:
    """The ids to hold out, so that no person and no question stands on both sides.

    Where people and questions are too entangled for that, questions alone are kept apart; where
    even that would leave too few to tell anything, nothing is held out.
    """
    wanted, least = int(rules.held_out * len(rows)), rules.worth_measuring
    if wanted < max(1, least):
        return frozenset(), "nothing"
    questions = _question_groups(rows)
    people = {row.id: f"person {row.person}" for row in rows if row.person}
    by_both = _some(_components(rows, lambda row: (questions[row.id], people.get(row.id))), wanted)
    if len(by_both) >= least:
        return by_both, "person and question"
    by_question = _some(_components(rows, lambda row: (questions[row.id],)), wanted)
    if len(by_question) >= least:
        return by_question, "question"
    return frozenset(), "nothing"


def _question_groups(rows: Sequence[_Row]) -> dict[str, str]:
    """A name for each row's question; questions that are nearly the same share it."""
    same = {row.id: f"same {normalised(row.question)}" for row in rows}
    unique = list({same[row.id]: row for row in rows}.values())
    near = near_pairs([row.question for row in unique])
    joined = [{unique[pair.first].id, unique[pair.second].id} for pair in near]
    groups = _components(
        unique,
        lambda row: tuple(f"near {place}" for place, two in enumerate(joined) if row.id in two),
    )
    names = {same[name]: f"question {min(group)}" for group in groups for name in group}
    return {row.id: names[same[row.id]] for row in rows}


def _components(
    rows: Sequence[_Row], keys: Callable[[_Row], Iterable[str | None]]
) -> list[frozenset[str]]:
    """The ids in groups, so that rows with a key in common are in the same one."""
    parent = {row.id: row.id for row in rows}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    first: dict[str, str] = {}
    for row in rows:
        for key in keys(row):
            if key is not None:
                parent[root(row.id)] = root(first.setdefault(key, row.id))
    groups: defaultdict[str, set[str]] = defaultdict(set)
    for row in rows:
        groups[root(row.id)].add(row.id)
    return [frozenset(group) for group in groups.values()]


def _some(groups: Iterable[frozenset[str]], wanted: int) -> frozenset[str]:
    """Whole groups, drawn by their own names, that hold `wanted` ids together or a few less."""
    held: frozenset[str] = frozenset()
    for group in sorted(groups, key=lambda group: _sha(min(group).encode())):
        if len(held) + len(group) <= wanted:
            held |= group
    return held


def _fits(row: _Row, rules: FreezeRules) -> bool:
    # Strictly below: LLaMA-Factory rounds the answer's share of the tokens down.
    return row.tokens < rules.cutoff_len


def _pair_row(pair: PreferencePair, count: TokenCounter) -> _Row:
    columns = ranking_row(pair.prompt, pair.chosen, pair.rejected)
    tokens = max(count(pair.prompt, text) for text in (pair.chosen, pair.rejected))
    return _Row(pair.id, pair.user_id, pair.question, pair.created_at, columns, tokens)


def _rated_row(one: RatedAnswer, count: TokenCounter) -> _Row:
    question = question_in(one.prompt[-1].content)
    tokens = count(one.prompt, one.completion)
    return _Row(one.reply_id, one.user_id, question, one.created_at, kto_row(one), tokens)


def _sft_row(row: SftRow, count: TokenCounter) -> _Row:
    asked = f"{row.instruction}\n{row.input}" if row.input else row.instruction
    prompt = _shipped_prompt(row, asked)
    messages = (*prompt, ChatMessage("assistant", row.output))
    columns = {"messages": [asdict(message) for message in messages]}
    name = _sha(_dump(columns))[:32]
    return _Row(name, "", question_in(asked), 0.0, columns, count(prompt, row.output))


def _shipped_prompt(row: DpoRow | SftRow, asked: str) -> tuple[ChatMessage, ...]:
    """The prompt of a row of the shipped files, whose columns are LLaMA-Factory's."""
    history = [
        message
        for question, answer in row.history
        for message in (ChatMessage("user", question), ChatMessage("assistant", answer))
    ]
    system = [ChatMessage("system", row.system)] if row.system else []
    return (*system, *history, ChatMessage("user", asked))


def _anchor_row(pair: DpoRow, count: TokenCounter) -> _Row:
    prompt = _shipped_prompt(pair, pair.prompt)
    columns = ranking_row(prompt, pair.chosen, pair.rejected)
    tokens = max(count(prompt, text) for text in (pair.chosen, pair.rejected))
    question = question_in(pair.prompt)
    return _Row(_sha(_dump(columns))[:32], "", question, 0.0, columns, tokens)


def _in_order(rows: Iterable[_Row]) -> list[_Row]:
    """By what they say: the same lessons are the same training, whatever ids chance gave them."""
    return sorted(rows, key=lambda row: (_sha(_dump(row.columns)), row.id))


def _write(
    manifest: Manifest, sides: Mapping[str, Sequence[Mapping[str, Any]]], folder: Path
) -> Frozen:
    """Write the files whole or not at all, into the folder that their digest names."""
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / f".{uuid.uuid4().hex}"
    fresh.mkdir()
    try:
        info = {}
        for side, rows in sides.items():
            (fresh / f"{side}.jsonl").write_bytes(b"".join(_dump(row) + b"\n" for row in rows))
            if rows:
                info[side] = sharegpt_entry(manifest.stage, f"{side}.jsonl")
        (fresh / _INFO).write_bytes(_dump(info))
        sealed = manifest.model_copy(update={"digest": _digest(fresh, manifest)})
        (fresh / _MANIFEST).write_text(sealed.model_dump_json(indent=1), "utf-8")
        for file in fresh.iterdir():
            file.chmod(0o444)
        return _take_place(fresh, folder / sealed.digest[:16], sealed)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _take_place(fresh: Path, place: Path, manifest: Manifest) -> Frozen:
    try:
        return load_frozen(place)
    except DataError:
        # Nobody has frozen it before, or what lies there is damaged.
        shutil.rmtree(place, ignore_errors=True)
    fresh.replace(place)
    return Frozen(place, manifest)


def _digest(folder: Path, manifest: Manifest) -> str:
    digests = [_sha((folder / name).read_bytes()) for name in _FILES]
    return _sha(_dump([manifest.model_dump(exclude={"digest"}), *digests]))


def _dump(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, sort_keys=True).encode()


def _sha(value: bytes) -> str:
    return hashlib.sha256(value).hexdigest()
