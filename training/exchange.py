"""Pairs as files: the source's `prompt/chosen/rejected`, LLaMA-Factory's ranking rows, and KTO.

- `source`, a .jsonl file: prompt, chosen, rejected, and system and history where there are any;
- `alpaca`, a .json list: instruction, input, chosen, rejected, system, history (LLaMA-Factory);
- `sharegpt`, a .json list: messages, chosen, rejected, each a role and a content (LLaMA-Factory);
- `kto`, a .json list: messages that end with the answer, and label: whether it was liked.

LLaMA-Factory's three come with a `dataset_info.json`. The `openai` formatting is not among them: in
LLaMA-Factory 0.9.5 it adds a line to every system prompt.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field

from core.audit import append
from core.errors import DataError
from core.language import language_of
from core.messages import ChatMessage
from core.store import Store
from training.collect import PairRules
from training.dataset import kto_row, ranking_row, sharegpt_entry
from training.filters import Pool, examine
from training.pairs import (
    OPEN,
    Origin,
    PairState,
    PreferencePair,
    RatedAnswer,
    read_pairs,
    save,
)
from training.personal_data import scrub, scrub_prompt
from training.review import placed
from training.rows import Finding, Row, question_in, read_rows


class Format(StrEnum):
    """How pairs are written."""

    SOURCE = "source"
    ALPACA = "alpaca"
    SHAREGPT = "sharegpt"
    KTO = "kto"


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did: how many rows became pairs, were refused, or were known before."""

    pairs: tuple[PreferencePair, ...]
    known: int

    @property
    def refused(self) -> int:
        """How many the filters refused."""
        return sum(pair.state is PairState.REFUSED for pair in self.pairs)


# --- out ---


def source_row(pair: PreferencePair) -> dict[str, Any]:
    """prompt, chosen, rejected; system and history as in `data/shoes_dpo.jsonl`."""
    system, history, question = _alpaca_prompt(pair.prompt)
    row: dict[str, Any] = {"prompt": question, "chosen": pair.chosen, "rejected": pair.rejected}
    return row | ({"system": system} if system else {}) | ({"history": history} if history else {})


def alpaca_row(pair: PreferencePair) -> dict[str, Any]:
    """A ranking row of LLaMA-Factory's Alpaca format."""
    system, history, question = _alpaca_prompt(pair.prompt)
    return {
        "instruction": question,
        "input": "",
        "chosen": pair.chosen,
        "rejected": pair.rejected,
        "system": system,
        "history": history,
    }


def sharegpt_row(pair: PreferencePair) -> dict[str, Any]:
    """A ranking row of LLaMA-Factory's sharegpt format: the prompt message by message."""
    return ranking_row(pair.prompt, pair.chosen, pair.rejected)


def dataset_entry(style: Format, file_name: str) -> dict[str, Any]:
    """What LLaMA-Factory's `dataset_info.json` has to say about such a file."""
    if style is Format.ALPACA:
        names = ("chosen", "rejected", "system", "history")
        columns = {"prompt": "instruction", "query": "input"} | {name: name for name in names}
        return {"file_name": file_name, "ranking": True, "columns": columns}
    return sharegpt_entry("kto" if style is Format.KTO else "dpo", file_name)


_TO_ROW: Mapping[Format, Callable[[PreferencePair], dict[str, Any]]] = {
    Format.SOURCE: source_row,
    Format.ALPACA: alpaca_row,
    Format.SHAREGPT: sharegpt_row,
}


def write_export(
    path: Path, style: Format, pairs: Iterable[PreferencePair], rated: Iterable[RatedAnswer]
) -> int:
    """Write pairs, or for KTO rated answers, to a file; how many rows.

    Beside LLaMA-Factory's formats `dataset_info.json` names the file; other names in it stay.
    """
    rows = list(map(kto_row, rated)) if style is Format.KTO else list(map(_TO_ROW[style], pairs))
    path.parent.mkdir(parents=True, exist_ok=True)
    if style is Format.SOURCE:
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        path.write_text("".join(lines), encoding="utf-8")
        return len(rows)
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    _add_to_info(path.parent / "dataset_info.json", path.stem, dataset_entry(style, path.name))
    return len(rows)


def _add_to_info(path: Path, name: str, entry: Mapping[str, Any]) -> None:
    try:
        info = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError as exc:
        raise DataError(f"{path}: not valid JSON ({exc}). Mend or remove it.") from exc
    text = json.dumps(info | {name: entry}, ensure_ascii=False, indent=2)
    path.write_text(text + "\n", encoding="utf-8")


def _alpaca_prompt(
    prompt: Sequence[ChatMessage],
) -> tuple[str, list[list[str]], str]:
    """System text, rounds of question and answer, and the last message."""
    system = prompt[0].content if prompt and prompt[0].role == "system" else ""
    rest = list(prompt[1:] if system else prompt)
    *earlier, last = rest
    rounds = zip(earlier[::2], earlier[1::2], strict=True)
    return system, [[asked.content, said.content] for asked, said in rounds], last.content


# --- in ---


class _Shape(BaseModel):
    # Other columns are for the reader.
    model_config = ConfigDict(frozen=True, strict=True)


# Not a byte of a prompt is changed, so nothing is stripped.
_Said = Annotated[str, Field(min_length=1)]
_Exchange = Annotated[list[_Said], Field(min_length=2, max_length=2)]
_OTHER_ROLES = {"human": "user", "gpt": "assistant"}
_Role = Annotated[
    Literal["system", "user", "assistant"],
    BeforeValidator(lambda role: _OTHER_ROLES.get(str(role), role)),
]


# What a writer of JSON has nothing for is often null.
_Text = Annotated[str, BeforeValidator(lambda text: "" if text is None else text)]
_History = Annotated[
    list[_Exchange], BeforeValidator(lambda rounds: [] if rounds is None else rounds)
]


class _SourceRow(_Shape):
    prompt: _Said
    chosen: _Said
    rejected: _Said
    system: _Text = ""
    history: _History = []


class _AlpacaRow(_Shape):
    instruction: _Said
    input: _Text = ""
    chosen: _Said
    rejected: _Said
    system: _Text = ""
    history: _History = []


class _Message(_Shape):
    role: _Role = Field(validation_alias=AliasChoices("role", "from"))
    content: _Said = Field(validation_alias=AliasChoices("content", "value"))


class _SharegptRow(_Shape):
    messages: list[_Message] = Field(
        min_length=1, validation_alias=AliasChoices("messages", "conversations")
    )
    chosen: _Message
    rejected: _Message


class _KtoRow(_Shape):
    messages: list[_Message] = Field(
        min_length=2, validation_alias=AliasChoices("messages", "conversations")
    )
    label: bool


_SHAPES: Mapping[Format, type[_Shape]] = {
    Format.SOURCE: _SourceRow,
    Format.ALPACA: _AlpacaRow,
    Format.SHAREGPT: _SharegptRow,
    Format.KTO: _KtoRow,
}
# The first of these columns tells the format.
_TELLING = {
    "label": Format.KTO,
    "messages": Format.SHAREGPT,
    "conversations": Format.SHAREGPT,
    "instruction": Format.ALPACA,
}


def read_import(path: Path, now: float) -> list[PreferencePair]:
    """The rows of a file in any of the formats, as pairs that nobody has judged yet.

    The first row tells the format. A KTO row is a pair with one answer, and two rows with the same
    prompt, one liked and one not, are a whole one. Raises `DataError` naming file, line and field
    of the first thing that is wrong; then nothing was read.
    """
    style = _format_of(path)
    found = read_rows(path, str(path), _SHAPES[style])
    if found.problems:
        more = f" {len(found.problems) - 1} more are wrong." if len(found.problems) > 1 else ""
        raise DataError(f"{found.problems[0]}. Mend the row; nothing was imported.{more}")
    pairs = [_to_pair(row, now) for row in found.rows]
    return _joined(pairs) if style is Format.KTO else pairs


async def import_pairs(
    store: Store,
    pairs: Sequence[PreferencePair],
    rules: PairRules,
    now: float,
    operator: str,
    *,
    accept: bool,
) -> Imported:
    """Filter, judge by the review policy, and store, with one audit row for the whole file.

    With `accept` the operator accepts what passes the filters. What is known already stays as it
    is.
    """
    pool = Pool([pair for pair in await read_pairs(store, OPEN) if pair.whole])
    new: list[PreferencePair] = []
    for pair in pairs:
        objection = examine(pair, rules.measures, pool) if pair.whole else None
        judged = replace(pair, accepted_by=(operator,) if accept else ())
        judged = placed(judged, objection, rules.policy)
        if not await store.run(partial(save, pair=judged, now=now)):
            continue
        new.append(judged)
        if judged.open and judged.whole:
            pool.add(judged)
    done = Imported(tuple(new), len(pairs) - len(new))
    detail = {"rows": len(pairs), "new": len(new), "refused": done.refused, "accept": accept}
    note = partial(
        append,
        who=operator,
        subject="pairs",
        before="",
        after="imported",
        at=now,
        detail=detail,
    )
    await store.run(note)
    return done


def _format_of(path: Path) -> Format:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        raise DataError(f"Cannot read {str(path)!r}: {exc}.") from exc
    try:
        if path.suffix == ".jsonl":
            first = json.loads(text.strip().partition("\n")[0])
        else:
            first = json.loads(text)[0]
        return next((style for key, style in _TELLING.items() if key in first), Format.SOURCE)
    except (ValueError, LookupError, TypeError, RecursionError) as exc:
        raise DataError(
            f"{path}: no rows of pairs are in it ({exc}). Give a .jsonl file with one object a "
            "line, or a .json list of objects."
        ) from exc


def _to_pair(row: Row[Any], now: float) -> PreferencePair:
    match row.data:
        case _SourceRow() as data:
            prompt = _prompt(data.system, data.history, data.prompt)
            return _imported(prompt, data.chosen, data.rejected, now)
        case _AlpacaRow() as data:
            asked = "\n".join(filter(None, (data.instruction, data.input)))
            prompt = _prompt(data.system, data.history, asked)
            return _imported(prompt, data.chosen, data.rejected, now)
        case _SharegptRow() as data:
            _check_turns(row, data.messages)
            for side, message in (("chosen", data.chosen), ("rejected", data.rejected)):
                _check_answer(row, side, message)
            return _imported(_chat(data.messages), data.chosen.content, data.rejected.content, now)
        case _KtoRow() as data:
            *asked_messages, answer = data.messages
            _check_turns(row, asked_messages)
            _check_answer(row, "messages", answer)
            liked, disliked = (answer.content, "") if data.label else ("", answer.content)
            return _imported(_chat(asked_messages), liked, disliked, now)
    raise AssertionError(f"a row of no known shape: {type(row.data)}")


def _check_turns(row: Row[Any], messages: Sequence[_Message]) -> None:
    """LLaMA-Factory drops, without an error, a chat whose roles do not alternate."""
    roles = [message.role for message in messages]
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    wanted = ["user", "assistant"] * (len(spoken) // 2) + ["user"]
    if spoken != wanted:
        problem = f"must go user, assistant, …, user after the system message, not {roles}"
        raise DataError(f"{Finding(row.file, row.line, 'messages', problem)}. Mend the row.")


def _check_answer(row: Row[Any], name: str, message: _Message) -> None:
    if message.role != "assistant":
        problem = f"the answer's role must be assistant, not {message.role!r}"
        raise DataError(f"{Finding(row.file, row.line, name, problem)}. Mend the row.")


def _prompt(
    system: str, history: Sequence[Sequence[str]], question: str
) -> tuple[ChatMessage, ...]:
    rounds = (
        message
        for asked, said in history
        for message in (ChatMessage("user", asked), ChatMessage("assistant", said))
    )
    first = (ChatMessage("system", system),) if system else ()
    return (*first, *rounds, ChatMessage("user", question))


def _chat(messages: Sequence[_Message]) -> tuple[ChatMessage, ...]:
    return tuple(ChatMessage(message.role, message.content) for message in messages)


def _imported(
    prompt: tuple[ChatMessage, ...], chosen: str, rejected: str, now: float
) -> PreferencePair:
    prompt = scrub_prompt(prompt)
    chosen, rejected = scrub(chosen).text, scrub(rejected).text
    said = "\x1f".join((*(message.content for message in prompt), chosen, rejected))
    return PreferencePair(
        id=hashlib.sha256(said.encode()).hexdigest()[:32],
        reply_id="",
        user_id="",
        conversation_id="",
        origin=Origin.IMPORTED,
        prompt=prompt,
        passages=(),
        chosen=chosen,
        rejected=rejected,
        adapter="",
        language=language_of(question_in(prompt[-1].content)) or "en",
        reason=None,
        state=PairState.WAITING,
        refusal="",
        accepted_by=(),
        created_at=now,
    )


def _joined(rows: Sequence[PreferencePair]) -> list[PreferencePair]:
    """One-sided rows of the same prompt put together, the first liked with the first disliked."""
    kept: list[PreferencePair] = []
    for row in rows:
        for place, other in enumerate(kept):
            fits = bool(other.chosen) != bool(row.chosen) and not other.whole
            if fits and other.prompt == row.prompt:
                both = (row.chosen or other.chosen, row.rejected or other.rejected)
                kept[place] = _imported(row.prompt, *both, row.created_at)
                break
        else:
            kept.append(row)
    return kept
