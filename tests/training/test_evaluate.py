"""What an answer is worth: counted by hand for answers that are known."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from rich.console import Console

from core.errors import AnswerIncomplete, ModelUnavailable
from core.messages import ChatMessage, Language
from core.model import ChatModel, Piece, Sampling
from core.prompt import build_prompt
from training.eval_report import dpo_report, sft_report
from training.eval_sets import Case, Kind
from training.evaluate import (
    AT_ONCE,
    Asking,
    Measured,
    facts_kept,
    loops,
    measure,
    quotes,
)
from training.lineup import LABELS, Label, Remote, Served, Shipped
from training.material import Entry
from training.rewards import Rewards
from training.sft_rows import framed_answer

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
ASKING = Asking(Sampling(max_tokens=100, temperature=0.0), min_support=0.7)


def entry(name: str, title: str, *sentences: str, lang: Language = "zh") -> Entry:
    joint = "" if lang == "zh" else " "
    return Entry(name, title, joint.join(sentences), sentences, "care", lang)


CANVAS = entry(
    "canvas", "帆布鞋清洗", "帆布鞋用 30 度的温水手洗。", "洗后包上白纸阴干，可以防止发黄。"
)
SLIDES = entry("slides", "一字拖", "一字拖只有一条宽带。", "它适合泳池边，不适合跑步。")
RIGHT = framed_answer(CANVAS.title, CANVAS.text, "zh")
INVENTED = "您好，关于帆布鞋清洗：帆布鞋用 60 度的温水手洗。"
REFUSED = "抱歉，资料里没有提到。"


def case(question: str, right: Entry | None = CANVAS, kind: Kind = Kind.TRAINED) -> Case:
    passages = (CANVAS.passage(), SLIDES.passage())
    prompt = build_prompt(question, language="zh", passages=passages)
    reference = framed_answer(right.title, right.text, "zh") if right else ""
    return Case(kind, "zh", question, passages, prompt, right, reference)


@dataclass
class Knowing:
    """Answers a question from a table; an exception is raised instead. Counts who is inside."""

    answers: Mapping[str, str | Exception]
    inside: int = 0
    most: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    async def stream(
        self, prompt: Sequence[ChatMessage], adapter: str, sampling: Sampling
    ) -> AsyncGenerator[Piece, None]:
        self.inside += 1
        self.most = max(self.most, self.inside)
        if self.inside == AT_ONCE:
            self.gate.set()
        await self.gate.wait()
        question = prompt[-1].content.rpartition("：")[2]
        answer = self.answers[question]
        if isinstance(answer, Exception):
            yield Piece("您好")
            raise answer
        for char in answer[:-1]:
            yield Piece(char)
        self.inside -= 1
        yield Piece(answer[-1], "stop")


@dataclass
class Models:
    """A lineup of models that are there already."""

    chats: Mapping[Label, ChatModel]

    def missing(self, labels: Sequence[Label]) -> dict[Label, str]:
        return {label: "absent" for label in labels if label not in self.chats}

    async def models(self, labels: Sequence[Label]) -> AsyncGenerator[Served, None]:
        for label in labels:
            yield Served(label, f"my-{label}", self.chats[label])


def nobody(label: Label, wanted: int, done: int) -> None:
    """Watches nothing."""


async def measured(answers: Mapping[str, str | Exception], *cases: Case) -> Measured:
    (found,) = await measure(Models({"sft": Knowing(answers)}), ["sft"], cases, ASKING, nobody)
    return found


async def test_the_right_passage_quoted_gets_full_marks() -> None:
    found = (await measured({"怎么洗": RIGHT}, case("怎么洗"))).overall
    assert found.bleu_4 == pytest.approx(100)
    assert found.rouge_l == pytest.approx(100)
    assert (found.facts_kept, found.right, found.refused_wrongly) == (1, 1, 0)
    assert (found.invented, found.quoted, found.looping, found.spoken) == (0, 0, 0, 0)
    assert found.characters == len(RIGHT)


async def test_an_invented_number_counts_and_the_guard_shows_a_passage_instead() -> None:
    found = (await measured({"怎么洗": INVENTED}, case("怎么洗"))).overall
    assert (found.right, found.invented, found.quoted, found.after_guard) == (0, 1, 1, 0)


async def test_the_wrong_passage_is_not_right() -> None:
    said = framed_answer(SLIDES.title, SLIDES.text, "zh")
    found = (await measured({"怎么洗": said}, case("怎么洗"))).overall
    assert (found.right, found.invented, found.facts_kept) == (0, 0, 0)


async def test_a_refusal_is_right_only_where_no_passage_answers() -> None:
    cases = (case("怎么洗"), case("多少钱", None, Kind.UNANSWERABLE))
    found = await measured({"怎么洗": REFUSED, "多少钱": REFUSED}, *cases)
    assert (found.overall.refused_wrongly, found.overall.refused_rightly) == (1, 1)
    trained, unanswerable = found.groups
    assert (trained.group, trained.refused_rightly) == ("trained zh", None)
    assert (unanswerable.group, unanswerable.bleu_4) == ("unanswerable zh", None)


async def test_spoken_answers_are_counted() -> None:
    spoken = f"哈喽，帆布鞋清洗嘛，{CANVAS.text.rstrip('。')}哦～"
    found = (
        await measured({"怎么洗": spoken, "咋洗": RIGHT}, case("怎么洗"), case("咋洗"))
    ).overall
    assert found.spoken == 0.5


async def test_an_answer_that_breaks_off_is_counted_and_a_passage_shown() -> None:
    broken = AnswerIncomplete("The model's answer broke off.")
    found = (await measured({"怎么洗": broken}, case("怎么洗"))).overall
    assert (found.n, found.quoted, found.characters) == (1, 1, len("您好"))


async def test_a_server_that_is_away_ends_the_evaluation() -> None:
    away = ModelUnavailable("No answer from the server.")
    with pytest.raises(ModelUnavailable, match="No answer"):
        await measured({"怎么洗": away}, case("怎么洗"))


async def test_eight_questions_are_asked_at_the_same_time() -> None:
    chat = Knowing({str(number): RIGHT for number in range(30)})
    chat.gate.clear()
    cases = [case(str(number)) for number in range(30)]
    told: list[tuple[int, int]] = []
    (found,) = await measure(
        Models({"dpo": chat}), ["dpo"], cases, ASKING, lambda _, *counts: told.append(counts)
    )
    assert chat.most == AT_ONCE == 8
    assert told[-1] == (30, 30)
    assert found.overall.n == 30


async def test_speed_counts_a_piece_as_a_token() -> None:
    speed = (await measured({"怎么洗": RIGHT}, case("怎么洗"))).speed
    assert speed.tokens_per_second == pytest.approx(len(RIGHT) * speed.answers_per_second)
    assert speed.first_token_ms > 0


async def test_examples_stand_side_by_side() -> None:
    cases = [case(str(number)) for number in range(20)]
    one = Knowing({str(number): f"一{number}" for number in range(20)})
    other = Knowing({str(number): f"二{number}" for number in range(20)})
    found = await measure(
        Models({"base": one, "sft": other}), ["base", "sft"], cases, ASKING, nobody
    )
    questions = [[example.question for example in model.examples] for model in found]
    assert questions[0] == questions[1] == [str(number) for number in range(0, 20, 2)]
    assert found[1].examples[3].answer == "二6"


def test_facts_are_numbers_with_their_units_and_the_title() -> None:
    assert facts_kept("帆布鞋清洗要 30 度", CANVAS.passage()) == 1
    assert facts_kept("要 30 度", CANVAS.passage()) == 0.5
    assert facts_kept("要 30 分钟", CANVAS.passage()) == 0


def test_a_quote_says_a_sentence_of_the_passage_and_little_else() -> None:
    assert quotes("帆布鞋用 30 度的温水手洗。", CANVAS.passage())
    assert not quotes("您好，关于帆布鞋清洗：", CANVAS.passage())
    assert not quotes(f"{CANVAS.sentences[0]}{SLIDES.text}跑鞋也很好穿。", CANVAS.passage())
    assert not quotes("", CANVAS.passage())


def test_a_text_that_says_the_same_again_goes_round_in_circles() -> None:
    assert loops("适合泳池边，不适合跑步。" * 3)
    assert loops("the " * 12)
    assert not loops(RIGHT)


async def report_of(*labels: Label) -> list[Measured]:
    answers: dict[Label, Mapping[str, str]] = {
        "base": {"怎么洗": "泽泽"},
        "sft": {"怎么洗": RIGHT},
        "dpo": {"怎么洗": RIGHT * 2},
    }
    chats = {label: Knowing(answers[label]) for label in labels}
    return await measure(Models(chats), labels, [case("怎么洗")], ASKING, nobody)


async def test_a_report_has_each_model_with_its_figures_as_json() -> None:
    models = sft_report(await report_of("base", "sft")).models
    assert list(models) == ["base", "sft"]
    assert {"bleu_4", "rouge_l", "right", "invented", "answers_per_second", "groups"} <= set(
        models["sft"]
    )
    assert json.loads(json.dumps(models["sft"]))["bleu_4"] == pytest.approx(100)


async def test_a_report_of_pairs_has_the_rewards_and_the_length_beside_sfts() -> None:
    rewards = Rewards(150, 0.9, 1.5, 0.5, -1.0)
    models = dpo_report(await report_of(*LABELS), rewards).models
    assert models["dpo"]["length_ratio"] == pytest.approx(2)
    assert (models["dpo"]["reward_accuracy"], models["dpo"]["reward_margin"]) == (0.9, 1.5)
    assert "reward_accuracy" not in models["sft"]


async def test_tables_show_the_models_side_by_side() -> None:
    console = Console(width=200, record=True)
    for table in sft_report(await report_of(*LABELS)).tables:
        console.print(table)
    shown = console.export_text()
    assert "sft (my-sft)" in shown
    assert "trained zh" in shown
    assert "泽泽" in shown


def test_a_model_that_is_not_on_disk_is_left_out_with_a_reason(tmp_path: Path) -> None:
    shipped = Shipped(
        base=ROOT / "data" / "embedded" / "base",
        expert=ROOT / "data" / "embedded" / "expert",
        adapter=tmp_path / "adapter",
        command=[],
        served_name="solemate",
        log_file=tmp_path / "log",
    )
    missing = shipped.missing(LABELS)
    assert list(missing) == ["dpo"]
    assert "adapter_config.json" in missing["dpo"]


def test_a_model_of_a_server_that_was_not_named_is_left_out() -> None:
    remote = Remote("http://127.0.0.1:1/v1", {"sft": "qwen"})
    assert list(remote.missing(LABELS)) == ["base", "dpo"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    state = tmp_path_factory.mktemp("state")
    return {
        **{key: value for key, value in os.environ.items() if not key.startswith("SOLEMATE")},
        "SOLEMATE__DATABASE__FOLDER": str(state),
        "SOLEMATE__DATABASE__URL": f"sqlite:///{state}/solemate.db",
        "SOLEMATE__LOGGING__FILE": str(state / "solemate.log"),
        "SOLEMATE__MODEL__ADAPTER_PATH": str(state / "nowhere"),
        "COLUMNS": "200",
    }


def solemate(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "solemate", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )


@pytest.mark.timeout(600)
def test_the_shipped_models_are_compared_on_a_handful_of_questions(
    environment: dict[str, str], tmp_path: Path
) -> None:
    kept = tmp_path / "sft.json"
    done = solemate(environment, "eval", "sft", "--limit", "2", "--json", "--output", str(kept))
    assert done.returncode == 0, done.stderr
    assert "dpo is left out" in done.stderr
    found = json.loads(done.stdout)
    assert list(found) == ["base", "sft"]
    assert found["sft"]["n"] == found["base"]["n"] == 16
    assert found["sft"]["bleu_4"] > found["base"]["bleu_4"]
    assert found["sft"]["after_guard"] == found["base"]["after_guard"] == 0
    assert json.loads(kept.read_text("utf-8")) == found
    assert kept.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["eval", "sft", "--base-url", "http://127.0.0.1:1/v1"], "go together"),
        (["eval", "golden", "--sft", "qwen"], "go together"),
        (["eval", "dpo", "--pairs", "missing.jsonl"], "missing.jsonl"),
    ],
)
def test_a_users_mistake_is_one_clear_sentence(
    environment: dict[str, str], arguments: list[str], sentence: str
) -> None:
    done = solemate(environment, *arguments)
    assert done.returncode == 1
    assert sentence in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
