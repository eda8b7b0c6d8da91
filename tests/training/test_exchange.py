"""Pairs go into files and come back as they were; LLaMA-Factory reads them as they were served."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from core.audit import audit_of
from core.errors import DataError
from core.messages import ChatMessage
from core.settings import ROOT
from core.store import Store
from tests.training.feedback_world import (
    ANSWER,
    BETTER,
    NOW,
    QUESTION,
    World,
    make_pair,
    opened_world,
    rules,
)
from tests.training.run_parts import count_words
from training.collect import collect_pairs
from training.dataset import FreezeRules, freeze_ratings
from training.exchange import Format, import_pairs, read_import, write_export
from training.pairs import Origin, PairState, PoolRules, accepted, read_pairs, unpaired
from training.runs import Runs, RunState
from training.tokenizer import TEMPLATE_NAME, load_tokenizer

EXPERT = ROOT / "data" / "embedded" / "expert"
OPEN_POOL = PoolRules(pairs_per_person=3, quarantine_seconds=0.0, train_on_chats=True)
HISTORY = (
    ChatMessage("user", "  帆布鞋能机洗吗？\n"),
    ChatMessage("assistant", "最好不要，\t手洗更稳妥。"),
)
FILES = {
    Format.SOURCE: "pairs.jsonl",
    Format.ALPACA: "alpaca.json",
    Format.SHAREGPT: "sharegpt.json",
    Format.KTO: "kto.json",
}


@pytest.fixture
def world(store: Store) -> World:
    return World(store)


async def exported(world: World, folder: Path) -> dict[Format, Path]:
    """One pair of a conversation and one liked answer, in every format."""
    await world.dislike(await world.ask(history=HISTORY), BETTER)
    await world.like(await world.ask("皮鞋怎么洗？", user="bob"))
    await collect_pairs(world.store, rules(), NOW)
    pairs = await accepted(world.store, NOW, OPEN_POOL)
    rated = await unpaired(world.store, NOW, OPEN_POOL)
    for style, name in FILES.items():
        assert write_export(folder / name, style, pairs, rated) == 1
    return {style: folder / name for style, name in FILES.items()}


@pytest.mark.parametrize("style", [Format.SOURCE, Format.ALPACA, Format.SHAREGPT])
async def test_what_is_exported_comes_back_as_it_was(
    world: World, tmp_path: Path, style: Format
) -> None:
    files = await exported(world, tmp_path / "out")
    (pair,) = await accepted(world.store, NOW, OPEN_POOL)
    (back,) = read_import(files[style], NOW)
    assert (back.prompt, back.chosen, back.rejected) == (pair.prompt, pair.chosen, pair.rejected)
    assert (back.origin, back.user_id) == (Origin.IMPORTED, "")


async def test_rated_answers_come_back_as_rows_for_kto(world: World, tmp_path: Path) -> None:
    files = await exported(world, tmp_path / "out")
    (before,) = await unpaired(world.store, NOW, OPEN_POOL)
    async with opened_world(f"sqlite:///{tmp_path / 'other.db'}") as other:
        rows = read_import(files[Format.KTO], NOW)
        await import_pairs(other.store, rows, rules(), NOW, "eve", accept=True)
        (after,) = await unpaired(other.store, NOW, OPEN_POOL)
        assert await accepted(other.store, NOW, OPEN_POOL) == []
    assert (after.prompt, after.completion, after.liked) == (before.prompt, ANSWER, True)


async def test_single_answers_that_were_imported_are_one_each_in_a_run(
    world: World, tmp_path: Path
) -> None:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Question {number} about shoes?"},
                {"role": "assistant", "content": f"Answer {number}."},
            ],
            "label": number % 2 == 0,
        }
        for number in range(6)
    ]
    path = tmp_path / "kto.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    imported = read_import(path, NOW)
    await import_pairs(world.store, imported, rules(), NOW, "eve", accept=True)
    rated = await unpaired(world.store, NOW, OPEN_POOL)
    frozen = freeze_ratings(
        rated, FreezeRules(cutoff_len=500, held_out=0.0), count_words, tmp_path / "datasets"
    )
    runs = Runs(world.store, tmp_path / "runs")
    run = await runs.begin("kto", "embedded", who="eve", now=NOW)
    run = await runs.move(run, RunState.FROZEN, who="eve", now=NOW, frozen=frozen)
    assert set(await runs.pairs_of(run.id)) == {pair.id for pair in imported}
    assert not await runs.lost_pairs(run)
    assert await runs.with_erased() == []


# Everything that LLaMA-Factory does between a row of the file and the tokens of a prompt.
_RENDER = """
import json, sys
from training.llamafactory_cli import stand_in_for_torchaudio
stand_in_for_torchaudio()
from pathlib import Path
from types import SimpleNamespace
from llamafactory.data.converter import get_dataset_converter
from llamafactory.data.parser import get_dataset_list
from llamafactory.data.template import TEMPLATES
from training.tokenizer import load_tokenizer
folder, model, name = sys.argv[1:4]
tokenizer, template = load_tokenizer(Path(model)), TEMPLATES[name]
template.fix_special_tokens(tokenizer)
found = {}
for dataset in sys.argv[4:]:
    attributes = get_dataset_list([dataset], folder)[0]
    convert = get_dataset_converter(attributes.formatting, attributes, SimpleNamespace())
    file = json.loads((Path(folder) / "dataset_info.json").read_text())[dataset]["file_name"]
    row = convert(json.loads((Path(folder) / file).read_text())[0])
    answers = [one["content"] for one in row["_response"]]
    messages = row["_prompt"] + [{"role": "assistant", "content": "x"}]
    prompt, _ = template.encode_oneturn(tokenizer, messages, row["_system"])
    found[dataset] = {"ids": prompt, "text": tokenizer.decode(prompt), "answers": answers}
print(json.dumps(found))
"""


def rendered(folder: Path, *datasets: str) -> dict[str, Any]:
    program = [sys.executable, "-W", "ignore", "-c", _RENDER, folder, EXPERT, TEMPLATE_NAME]
    done = subprocess.run([*program, *datasets], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


async def test_training_sees_the_served_prompt_byte_for_byte(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    await exported(world, folder)
    info_file = folder / "dataset_info.json"
    info = json.loads(info_file.read_text(encoding="utf-8"))
    # The control: this formatting writes into the system message.
    info["openai"] = info["sharegpt"] | {"formatting": "openai"}
    info_file.write_text(json.dumps(info), encoding="utf-8")
    found = rendered(folder, "alpaca", "sharegpt", "kto", "openai")
    tokenizer = load_tokenizer(EXPERT)
    served = {
        name: tokenizer.apply_chat_template(
            [asdict(message) for message in world.turns[reply].prompt],
            add_generation_prompt=True,
            return_dict=False,
        )
        for name, reply in (("pair", "reply-1"), ("rated", "reply-2"))
    }
    for name in ("alpaca", "sharegpt"):
        assert found[name]["ids"] == served["pair"]
        assert found[name]["text"] == tokenizer.decode(served["pair"])
        assert found[name]["answers"] == [BETTER, ANSWER]
    assert found["kto"]["ids"] == served["rated"]
    assert found["kto"]["answers"] == [ANSWER, ""]
    assert found["openai"]["ids"] != served["pair"]


# What comes in.


async def test_imported_pairs_pass_the_filters_and_wait_for_review(
    world: World, tmp_path: Path
) -> None:
    rows = [
        {"prompt": QUESTION, "chosen": BETTER, "rejected": ANSWER},
        {"prompt": QUESTION, "chosen": "傻逼，自己看说明书去，别问了。", "rejected": ANSWER},
    ]
    path = write_lines(tmp_path / "pairs.jsonl", rows)
    done = await import_pairs(
        world.store, read_import(path, NOW), rules("all"), NOW, "eve", accept=False
    )
    assert [pair.state for pair in done.pairs] == [PairState.WAITING, PairState.REFUSED]
    assert done.refused == 1
    (row,) = await audit_of(world.store, "pairs")
    assert (row.who, row.detail["new"]) == ("eve", 2)


async def test_importing_a_file_twice_adds_nothing(world: World, tmp_path: Path) -> None:
    rows = [{"prompt": QUESTION, "chosen": BETTER, "rejected": ANSWER}]
    found = read_import(write_lines(tmp_path / "pairs.jsonl", rows), NOW)
    for known in (0, 1):
        done = await import_pairs(world.store, found, rules("all"), NOW, "eve", accept=True)
        assert done.known == known
    (pair,) = await read_pairs(world.store)
    assert (pair.state, pair.accepted_by) == (PairState.ACCEPTED, ("eve",))


def test_llamafactorys_own_sharegpt_names_are_understood(tmp_path: Path) -> None:
    row = {
        "conversations": [{"from": "human", "value": QUESTION}],
        "chosen": {"from": "gpt", "value": BETTER},
        "rejected": {"from": "gpt", "value": ANSWER},
    }
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps([row]), encoding="utf-8")
    (pair,) = read_import(path, NOW)
    assert pair.prompt == (ChatMessage("user", QUESTION),)
    assert (pair.chosen, pair.rejected) == (BETTER, ANSWER)


def test_a_liked_and_a_disliked_answer_to_one_prompt_are_a_pair(tmp_path: Path) -> None:
    asked = {"role": "user", "content": QUESTION}
    rows = [
        {"messages": [asked, {"role": "assistant", "content": text}], "label": label}
        for text, label in ((BETTER, True), (ANSWER, False))
    ]
    path = tmp_path / "kto.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    (pair,) = read_import(path, NOW)
    assert (pair.chosen, pair.rejected) == (BETTER, ANSWER)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.jsonl", '{"prompt": "q", "chosen": "a"}\n', "line 1, field 'rejected': is missing"),
        ("a.jsonl", "no json\n", "no rows of pairs"),
        ("a.jsonl", "", "no rows of pairs"),
        ("a.json", "[]", "no rows of pairs"),
        ("a.json", '{"prompt": "q"}', "no rows of pairs"),
        (
            "a.json",
            '[{"messages": [{"role": "assistant", "content": "q"}], '
            '"chosen": {"role": "assistant", "content": "a"}, '
            '"rejected": {"role": "assistant", "content": "b"}}]',
            "must go user, assistant",
        ),
        (
            "a.json",
            '[{"messages": [{"role": "user", "content": "q"}], '
            '"chosen": {"role": "user", "content": "a"}, '
            '"rejected": {"role": "assistant", "content": "b"}}]',
            "field 'chosen': the answer's role must be assistant",
        ),
        (
            "a.json",
            '[{"messages": [{"role": "user", "content": "q"}, '
            '{"role": "user", "content": "a"}], "label": true}]',
            "field 'messages': the answer's role must be assistant",
        ),
        ("a.json", "[" * 100_000, "no rows of pairs"),
        ("a.jsonl", "[" * 100_000, "no rows of pairs"),
        (
            "a.jsonl",
            '{"prompt": "q", "chosen": "a", "rejected": "b"}\n' + "[" * 100_000,
            "line 2.*nested too deeply",
        ),
        ("missing.json", None, "Cannot read"),
    ],
)
def test_a_file_that_is_wrong_is_refused_in_one_sentence(
    tmp_path: Path, name: str, text: str | None, said: str
) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=said):
        read_import(path, NOW)


def test_a_column_that_has_nothing_may_be_null(tmp_path: Path) -> None:
    row = {"instruction": QUESTION, "chosen": BETTER, "rejected": ANSWER}
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps([row | {"system": None, "history": None, "input": None}]), "utf-8")
    (pair,) = read_import(path, NOW)
    assert pair.prompt == (ChatMessage("user", QUESTION),)


def test_another_dataset_in_the_folder_stays_known(tmp_path: Path) -> None:
    info = tmp_path / "dataset_info.json"
    info.write_text('{"other": {"file_name": "other.json"}}', encoding="utf-8")
    write_export(tmp_path / "mine.json", Format.SHAREGPT, [make_pair()], ())
    assert set(json.loads(info.read_text(encoding="utf-8"))) == {"other", "mine"}


def write_lines(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
