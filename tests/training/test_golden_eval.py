"""Golden rows go through the whole engine, and an answer passes only as its row says."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from core.engine import Engine, Options
from core.grounding import is_refusal
from core.messages import Language, Outcome, Passage, Reply
from core.model import Sampling
from core.photos import PhotoLimits
from core.prompt import Budget, estimate_tokens
from core.retrieval import Relevance, Retrieved
from core.store import Store
from core.tags import Tag, TagGroup
from core.vision import Vision
from tests.fakes import FakeChatModel, FakeRetriever
from training.eval_report import golden_report
from training.golden_eval import EngineOf, Golden, measure_golden, problems_with, says
from training.lineup import LABELS, Label, Served
from training.material import Entry
from training.rows import GoldenRow

TEXT = "帆布鞋用 30 度的温水手洗，阴干。"
CANVAS = Entry("canvas", "帆布鞋清洗", TEXT, (TEXT,), "care", "zh")
FOUND = Retrieved(Relevance.ANSWER, (Passage("canvas", CANVAS.title, TEXT, "", "care", "zh", 0.9),))
OPTIONS = Options(
    base_model="m",
    sampling=Sampling(max_tokens=100, temperature=0.0),
    budget=Budget(2_000, estimate_tokens),
    photo_limits=PhotoLimits(max_bytes=1_000_000, max_pixels=1_000_000),
    max_characters=500,
    rounds=5,
    expire_seconds=3_600,
    min_support=0.3,
    history_rounds=5,
    rewrite="carry",
)


def row(question: str, **fields: object) -> GoldenRow:
    return GoldenRow.model_validate(
        {"id": question, "lang": "zh", "question": question, "kind": "facts", **fields}
    )


def reply(text: str, outcome: Outcome = Outcome.ANSWERED) -> Reply:
    return Reply("r", "c", text, outcome, "zh", adapter="m")


@dataclass
class OneModel:
    """A lineup of one model."""

    chat: FakeChatModel

    def missing(self, labels: Sequence[Label]) -> dict[Label, str]:
        return {}

    async def models(self, labels: Sequence[Label]) -> AsyncGenerator[Served, None]:
        yield Served("dpo", "m", self.chat)


@pytest.fixture
async def engine_of(tmp_path: Path) -> AsyncIterator[EngineOf]:
    async with Store(f"sqlite:///{tmp_path}/golden.db") as store:

        def make(served: Served, eyes: Vision) -> Engine:
            async def choose(_user_id: str) -> str:
                return served.name

            return Engine(
                store=store,
                retriever=FakeRetriever({"帆布": FOUND}),  # type: ignore[arg-type]
                vision=eyes,
                model=served.chat,
                choose_adapter=choose,
                options=replace(OPTIONS, base_model=served.name),
            )

        yield make


async def measured(
    engine_of: EngineOf,
    answer: str,
    *rows: GoldenRow,
    entries: Mapping[str, Entry] | None = None,
    chat: FakeChatModel | None = None,
    groups: Sequence[TagGroup] = (),
) -> Golden:
    (found,) = await measure_golden(
        OneModel(chat or FakeChatModel([answer])),
        ["dpo"],
        rows,
        entries or {},
        groups,
        engine_of,
        lambda label, wanted, done: None,
    )
    return found


async def test_an_answer_that_holds_what_it_must_passes(engine_of: EngineOf) -> None:
    asked = row("帆布鞋怎么洗？", must=[["30度", "三十度"], ["阴干"]], must_not=["机洗"])
    found = await measured(engine_of, TEXT, asked)
    assert (found.overall.n, found.overall.passed, found.overall.by_model) == (1, 1, 1)
    assert found.failures == ()


async def test_a_failure_says_what_is_wrong(engine_of: EngineOf) -> None:
    asked = row("帆布鞋怎么洗？", must=[["晒干", "烘干"]], must_not=["温水"])
    (failure,) = (await measured(engine_of, TEXT, asked)).failures
    assert failure.problems == ("lacks 晒干 / 烘干", "holds '温水'")
    assert (failure.outcome, failure.answer) == ("answered", TEXT)


async def test_a_quote_is_not_the_models_own(engine_of: EngineOf) -> None:
    asked = row("帆布鞋怎么洗？", must=[["30 度"]])
    found = await measured(engine_of, "帆布鞋用 90 度的水洗。", asked)
    assert (found.overall.passed, found.overall.by_model) == (1, 0)


async def test_shares_are_counted_by_kind_and_language(engine_of: EngineOf) -> None:
    rows = (
        row("帆布鞋怎么洗？", must=[["30 度"]]),
        row("帆布鞋能烘干吗？", must=[["不能"]], lang="en"),
        row("红烧肉怎么做？", kind="refusal"),
    )
    found = await measured(engine_of, TEXT, *rows)
    assert {one.name: (one.n, one.passed) for one in found.kinds} == {
        "facts": (2, 0.5),
        "refusal": (1, 1),
    }
    assert {one.name: one.passed for one in found.languages} == {"zh": 1, "en": 0}


async def test_the_history_comes_before_the_question(engine_of: EngineOf) -> None:
    said = [{"role": "user", "content": "帆布鞋脏了"}, {"role": "assistant", "content": "可以洗。"}]
    chat = FakeChatModel([TEXT])
    await measured(engine_of, TEXT, row("那帆布怎么洗？", history=said), chat=chat)
    assert [one.content for one in chat.asked[0].prompt[1:3]] == ["帆布鞋脏了", "可以洗。"]


async def test_the_model_reads_the_rows_tags_as_if_from_a_photo(engine_of: EngineOf) -> None:
    tags = [{"name": "红色", "phrase": "red", "score": 0.8}]
    groups = [TagGroup("颜色", "colour", (Tag("红色", "red", "colour"),))]
    chat = FakeChatModel([TEXT])
    asked = row("这双帆布鞋怎么洗？", kind="photo", tags=tags)
    await measured(engine_of, TEXT, asked, chat=chat, groups=groups)
    assert "照片：红色 80%" in chat.asked[0].prompt[-1].content


async def test_text_figures_are_of_the_rows_with_an_entry(engine_of: EngineOf) -> None:
    rows = (row("帆布鞋怎么洗？", entry="canvas"), row("红烧肉怎么做？", kind="refusal"))
    answer = f"您好，关于{CANVAS.title}：{TEXT}"
    found = await measured(engine_of, answer, *rows, entries={"canvas": CANVAS})
    assert found.bleu_4 == pytest.approx(100)


async def test_speed_and_examples_are_told_beside_the_shares(engine_of: EngineOf) -> None:
    rows = [row(f"帆布鞋怎么洗第 {n} 遍？", must=[["30 度"]]) for n in range(12)]
    rows[6] = row("红烧肉怎么做？", kind="refusal")
    found = await measured(engine_of, TEXT, *rows)
    assert [one.question for one in found.examples] == [
        rows[n * 12 // 10].question for n in range(10)
    ]
    assert found.examples[0].answer == TEXT
    data = found.to_json()
    assert data["answers_per_second"] > 0
    # A refusal waits for no model and says nothing of the first token.
    assert data["first_token_ms"] > 0
    assert data["tokens_per_second"] is None


@pytest.mark.parametrize("refused", [True, False])
async def test_what_no_model_was_asked_has_no_first_token(
    engine_of: EngineOf, refused: bool
) -> None:
    asked = row("红烧肉怎么做？", kind="refusal") if refused else row("帆布鞋怎么洗？")
    found = await measured(engine_of, TEXT, asked)
    assert (found.speed.first_token_ms == 0) == refused


async def test_models_stand_side_by_side(engine_of: EngineOf) -> None:
    found = await measured(engine_of, TEXT, row("帆布鞋怎么洗？", must=[["30 度"]]))
    results = [replace(found, label=label) for label in LABELS]
    report = golden_report(results, failures=False)
    assert list(report.models) == ["base", "sft", "dpo"]
    shares, figures, examples = report.tables
    assert [len(table.columns) for table in (shares, figures, examples)] == [8, 4, 4]  # type: ignore[union-attr]


async def test_failures_are_listed_only_where_they_are_wanted(engine_of: EngineOf) -> None:
    result = await measured(engine_of, TEXT, row("帆布鞋怎么洗？", must=[["晒干"]]))
    assert len(golden_report([result], failures=True).tables) == 4
    report = golden_report([result], failures=False)
    assert len(report.tables) == 3
    assert report.models["dpo"]["passed"] == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("尺码是４２ 码", "42码"),
        ("a drop of 8 mm", "8mm"),
        ("8mm drop", "8 mm"),
        ("Use a Soft Brush", "soft  brush"),
        ("脚长 25.5 厘米", "25.5厘米"),
        ("## 标题", "## "),
        ("Is the sole glued?", " the "),
    ],
)
def test_capitals_spaces_and_wide_digits_make_no_difference(text: str, words: str) -> None:
    assert says(text, words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("脚长 13 厘米", "3 厘米"),
        ("脚长 25.5 厘米", "5 厘米"),
        ("0 到 100 度", "0 到 10"),
        ("Other shoes", " the "),
        ("a softbrush", "soft brush"),
        ("Comma, please", "，"),
    ],
)
def test_other_numbers_and_words_are_not_taken_for_it(text: str, words: str) -> None:
    assert not says(text, words)


@pytest.mark.parametrize("lang", ["zh", "en"])
def test_a_refusal_may_be_the_engines_or_the_models(lang: Language) -> None:
    refusal = row("问", kind="refusal", lang=lang)
    assert problems_with(refusal, reply("换个问题吧。", Outcome.REFUSED)) == ()
    said = "资料里没有提到。"
    assert is_refusal(said)
    assert problems_with(refusal, reply(said)) == ()
    assert problems_with(refusal, reply("三百元。")) == ("is no refusal",)
    assert problems_with(refusal, reply("你想问的是？", Outcome.CLARIFY)) == ("is no refusal",)
