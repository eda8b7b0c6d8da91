"""What the data report finds in small data files, and that the shipped ones are clean."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from core.messages import Passage
from core.prompt import build_prompt
from training.report import FileReport, Report, inspect_data, render

ROOT = Path(__file__).parents[2]
SLIDE = {
    "id": "slide",
    "title": "一字拖",
    "content": "一字拖只有一条横带。它适合在家穿 2 小时。",
    "topic": "types",
    "lang": "zh",
    "source": "test",
}
SLIDE_EN = SLIDE | {
    "id": "slide.en",
    "title": "Slide",
    "content": "A slide has a single band. It suits two hours at home.",
    "lang": "en",
}
WELT = SLIDE | {"id": "welt", "title": "沿条", "content": "固特异沿条把鞋面和大底缝在一起。"}
ASKED = {
    "entry": "slide",
    "lang": "zh",
    "style": "plain",
    "question": "一字拖长什么样？",
    "sentences": [1],
}
MEASURED = ASKED | {"id": "r1", "question": "在屋里能连着踩它多久"}
UNKNOWN = {"id": "u1", "question": "你们店几点关门？", "lang": "zh", "distance": "near"}
REMINDER = {"entry": "slide", "lang": "zh", "question": "这种拖鞋周末在家能穿吗？"}
CORRECTION = {
    "id": "c1",
    "lang": "zh",
    "entry": "slide",
    "question": "一字拖在家能穿几小时？",
    "correction": "适合在家穿 2 小时哦～",
    "rephrased": "下班以后趿拉多长时间合适？",
}
PAIR = {"prompt": "它适合哪儿？", "chosen": "穿 2 小时没问题哦", "rejected": "适合居家 2 小时。"}


class DataFolder:
    """A small data folder without problems; tests overwrite one file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "eval").mkdir(parents=True)
        self.knowledge(SLIDE, SLIDE_EN, WELT)
        self.lines("questions.jsonl", ASKED)
        self.lines("eval/retrieval.jsonl", MEASURED)
        self.lines("eval/unanswerable.jsonl", UNKNOWN)
        self.write("eval/held_out_entries.json", json.dumps(["welt"]))
        self.write("tags.txt", "# 颜色 | colour\n黑色 | black\n")
        self.write("size_table.json", (ROOT / "data/size_table.json").read_text("utf-8"))

    def write(self, name: str, text: str) -> None:
        (self.root / name).write_text(text, encoding="utf-8")

    def lines(self, name: str, *rows: object) -> None:
        self.write(name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

    def knowledge(self, *entries: object) -> None:
        self.write("knowledge_base.json", json.dumps(entries, ensure_ascii=False, indent=1))

    def says(self, *contents: str) -> None:
        extra = (
            SLIDE | {"id": f"x{number}", "title": f"x{number}", "content": content}
            for number, content in enumerate(contents)
        )
        self.knowledge(SLIDE, SLIDE_EN, WELT, *extra)

    def report(self) -> Report:
        return inspect_data(self.root, self.root / "tags.txt")

    def problems(self) -> list[str]:
        return [str(problem) for problem in self.report().problems]

    def warnings(self) -> list[str]:
        return [str(warning) for warning in self.report().warnings]


@pytest.fixture
def data(tmp_path: Path) -> DataFolder:
    return DataFolder(tmp_path / "data")


def sft(question: str, *passages: Passage, output: str = "在家穿就好。" * 5) -> dict[str, Any]:
    prompt = build_prompt(question, language="zh", passages=passages)
    return {
        "instruction": prompt[-1].content,
        "input": "",
        "output": output,
        "system": prompt[0].content,
        "history": [],
    }


def file_named(report: Report, name: str) -> FileReport:
    return next(one for one in report.files if one.file == name)


@pytest.fixture(scope="module")
def shipped() -> Report:
    return inspect_data(ROOT / "data", ROOT / "clip_data" / "sneaker_tag.txt")


def test_the_shipped_data_has_no_problems(shipped: Report) -> None:
    assert [str(problem) for problem in shipped.problems] == []


@pytest.mark.parametrize("width", [80, 120])
def test_the_report_on_the_shipped_data_is_cut_nowhere(shipped: Report, width: int) -> None:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(render(shipped))
    shown = console.export_text()
    assert "…" not in shown
    for words in ("distinct-2", "normalised", "median", "data/eval/unanswerable.jsonl"):
        assert words in shown


def test_clean_files_have_no_findings(data: DataFolder) -> None:
    report = data.report()
    assert (report.problems, report.warnings, report.ok) == ([], [], True)


def test_a_missing_field_is_named_with_file_and_line(data: DataFolder) -> None:
    data.knowledge(SLIDE, {key: value for key, value in WELT.items() if key != "topic"})
    assert "data/knowledge_base.json, line 10, field 'topic': is missing" in data.problems()


def test_an_unknown_field_is_named(data: DataFolder) -> None:
    data.lines("questions.jsonl", ASKED | {"colour": "red"})
    problems = data.problems()
    assert problems == ["data/questions.jsonl, line 1, field 'colour': is not a known field"]


def test_a_broken_line_is_named_and_the_others_are_still_read(data: DataFolder) -> None:
    data.write("questions.jsonl", "{oops\n" + json.dumps(ASKED) + "\n")
    report = data.report()
    assert str(report.problems[0]).startswith("data/questions.jsonl, line 1: not valid JSON")
    assert file_named(report, "data/questions.jsonl").rows == 1


@pytest.mark.parametrize("content", [b"\xff\xfe", b"{}", b"[1", b"[1]", b'[{"id": 3}]', b""])
def test_a_broken_knowledge_base_is_a_problem_and_no_exception(
    data: DataFolder, content: bytes
) -> None:
    (data.root / "knowledge_base.json").write_bytes(content)
    assert any(one.startswith("data/knowledge_base.json") for one in data.problems())


def test_a_missing_required_file_is_a_problem(data: DataFolder) -> None:
    (data.root / "questions.jsonl").unlink()
    assert data.problems() == ["data/questions.jsonl: is missing; restore it"]


def test_training_files_may_be_absent(data: DataFolder) -> None:
    names = ["shoes.jsonl", "shoes_dpo.jsonl", "demo_corrections.jsonl", "spoken.jsonl"]
    names += ["reminders.jsonl", "unanswerable.jsonl", "synonyms.txt"]
    names += ["eval/golden.jsonl", "eval/probes.jsonl", "eval/dpo.jsonl"]
    report = data.report()
    assert sorted(report.absent) == sorted(f"data/{name}" for name in names)
    assert report.problems == []


def test_without_a_size_table_only_foot_lengths_are_compared(data: DataFolder) -> None:
    (data.root / "size_table.json").unlink()
    data.says("脚长 25 cm 对应国标 260。欧码大约是 43。")
    assert len(data.problems()) == 1
    assert "data/size_table.json" in data.report().absent


@pytest.mark.parametrize("content", [b"\xff", b"{}", b"[3]", b""])
def test_a_broken_list_of_held_out_entries_is_a_problem(data: DataFolder, content: bytes) -> None:
    (data.root / "eval/held_out_entries.json").write_bytes(content)
    assert "data/eval/held_out_entries.json: must be a JSON list of entry ids" in data.problems()


def test_an_id_used_twice_names_the_first_line(data: DataFolder) -> None:
    data.lines("eval/unanswerable.jsonl", UNKNOWN, UNKNOWN | {"question": "鞋今天打折吗？"})
    assert any("line 2, field 'id': 'u1' is already used in line 1" in p for p in data.problems())


def test_a_question_about_an_entry_that_does_not_exist_is_a_problem(data: DataFolder) -> None:
    data.lines("questions.jsonl", ASKED | {"entry": "clog"})
    assert any("'clog' is not in the knowledge base" in problem for problem in data.problems())


def test_a_sentence_number_beyond_the_entry_is_a_problem(data: DataFolder) -> None:
    data.lines("questions.jsonl", ASKED | {"sentences": [1, 3]})
    assert any("3 is too high: 'slide' has 2 sentences" in problem for problem in data.problems())


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"entry": "clog"}, "'clog' is not in the knowledge base"),
        ({"lang": "en"}, "is 'en', but 'slide' is 'zh'"),
        ({"question": MEASURED["question"]}, "is the same as data/reminders.jsonl, line 1"),
    ],
)
def test_a_reminder_that_is_about_nothing_or_measured_too_is_a_problem(
    data: DataFolder, change: dict[str, str], expected: str
) -> None:
    data.lines("reminders.jsonl", REMINDER | change)
    assert any(expected in problem for problem in data.problems())


def test_an_entry_of_six_sentences_is_a_problem(data: DataFolder) -> None:
    data.says("鞋好。" * 6)
    assert any("has 6 sentences; keep it to 5" in problem for problem in data.problems())


def test_a_text_in_another_language_than_it_says_is_a_problem(data: DataFolder) -> None:
    data.lines("questions.jsonl", ASKED | {"lang": "en"})
    assert any("field 'lang': is 'en', but the question is not" in p for p in data.problems())


@pytest.mark.parametrize(
    ("english", "expected"),
    [
        ("A slide has a single band. It suits 3 hours at home.", "'3' does not stand in 'slide'"),
        ("A slide has a single band.", "'2' stands in 'slide', but not here"),
        ("A slide has a single band. It suits 2 days at home.", "2 day is 2 h in 'slide'"),
    ],
)
def test_twins_whose_figures_differ_are_a_problem(
    data: DataFolder, english: str, expected: str
) -> None:
    data.knowledge(SLIDE, SLIDE_EN | {"content": english}, WELT)
    assert any(expected in problem for problem in data.problems())


def test_an_english_twin_of_nothing_is_a_problem(data: DataFolder) -> None:
    data.knowledge(SLIDE, WELT, SLIDE_EN | {"id": "clog.en"})
    assert any("'clog.en' needs a Chinese entry of that name" in p for p in data.problems())


def test_a_wrong_size_in_an_entry_is_a_problem(data: DataFolder) -> None:
    data.says("脚长 25 cm 对应国标 250。欧码大约是 43。")
    assert any("'脚长 25 cm' and '欧码大约是 43'" in problem for problem in data.problems())


def test_a_wrong_size_table_is_a_problem(data: DataFolder) -> None:
    text = (data.root / "size_table.json").read_text("utf-8")
    data.write("size_table.json", text.replace('"cn_old": 40', '"cn_old": 40.5'))
    assert any("foot 250 mm: cn_old is 40.5" in problem for problem in data.problems())


def test_the_same_question_with_other_punctuation_is_a_problem(data: DataFolder) -> None:
    data.lines("questions.jsonl", ASKED, ASKED | {"question": "一字拖长什么样?!"})
    assert any("the same but for case, width and punctuation" in p for p in data.problems())


def test_nearly_the_same_question_is_a_warning(data: DataFolder) -> None:
    asked = ["低帮的徒步鞋适合走什么路线", "低帮的徒步鞋适合走什么路线呢"]
    data.lines("questions.jsonl", *(ASKED | {"question": one} for one in asked))
    assert any("is nearly (0.92) the same as" in warning for warning in data.warnings())


def test_questions_that_differ_in_a_figure_are_different(data: DataFolder) -> None:
    asked = ["What Chinese size is a 24 cm foot?", "What Chinese size is a 25 cm foot?"]
    rows = (ASKED | {"entry": "slide.en", "lang": "en", "question": one} for one in asked)
    data.lines("questions.jsonl", *rows)
    assert data.warnings() == []


def test_a_training_question_that_is_also_measured_is_a_problem(data: DataFolder) -> None:
    data.lines("eval/retrieval.jsonl", MEASURED | {"question": "一字拖，长什么样"})
    assert any(
        one.startswith("data/eval/retrieval.jsonl, line 1, field 'question': is the same but")
        for one in data.problems()
    )


def test_a_question_that_an_entry_is_found_by_leaks_too(data: DataFolder) -> None:
    asked = SLIDE | {"questions": ["露脚跟的那种拖鞋叫啥", MEASURED["question"]]}
    data.knowledge(asked, SLIDE_EN, WELT)
    assert any("is the same as data/knowledge_base.json" in problem for problem in data.problems())


def test_a_question_inside_a_training_prompt_leaks_too(data: DataFolder) -> None:
    slide = Passage("slide", "一字拖", SLIDE["content"], "", "types", "zh")
    data.lines("shoes.jsonl", sft(MEASURED["question"], slide))
    assert any("is the same as data/shoes.jsonl, line 1" in problem for problem in data.problems())


def test_a_question_in_a_training_history_leaks_too(data: DataFolder) -> None:
    row = sft("那它防水吗？") | {"history": [[MEASURED["question"], "能"]]}
    data.lines("shoes.jsonl", row)
    assert any("is the same as data/shoes.jsonl, line 1" in problem for problem in data.problems())


def test_a_file_nobody_described_is_listed_and_compared(data: DataFolder) -> None:
    data.lines("eval/others.jsonl", {"question": ASKED["question"], "must": ["横带"]})
    report = data.report()
    assert report.not_checked == ["data/eval/others.jsonl"]
    assert "data/eval/others.jsonl, line 1" in str(report.problems[0])


GOLDEN = {"id": "g1", "lang": "zh", "question": "这拖鞋是啥样的", "kind": "facts", "entry": "slide"}
SPOKEN = {"entry": "slide", "lang": "zh", "spoken": "一字拖嘛，就是一条横带的拖鞋哦～"}
MEASURED_PAIR = PAIR | {"prompt": "沙滩上能穿吗", "entry": "slide", "lang": "zh"}


@pytest.mark.parametrize(
    ("file", "row", "expected"),
    [
        ("eval/golden.jsonl", GOLDEN | {"entry": "clog"}, "'clog' is not in the knowledge base"),
        ("eval/golden.jsonl", GOLDEN | {"lang": "en"}, "is 'en', but 'slide' is 'zh'"),
        ("eval/golden.jsonl", GOLDEN | {"kind": "fact"}, "line 1, field 'kind': "),
        ("eval/probes.jsonl", GOLDEN | {"question": ASKED["question"]}, "is the same as"),
        (
            "eval/dpo.jsonl",
            MEASURED_PAIR | {"entry": "clog"},
            "'clog' is not in the knowledge base",
        ),
        (
            "eval/dpo.jsonl",
            MEASURED_PAIR | {"chosen": "穿 3 小时吧"},
            "figures differ from rejected",
        ),
        ("spoken.jsonl", SPOKEN | {"entry": "clog"}, "'clog' is not in the knowledge base"),
        ("spoken.jsonl", SPOKEN | {"spoken": "Just slip in."}, "is 'zh', but the spoken is not"),
        ("spoken.jsonl", {"entry": "slide"}, "line 1, field 'spoken': is missing"),
        ("unanswerable.jsonl", {"question": "几点下班"}, "line 1, field 'distance': is missing"),
    ],
)
def test_a_bad_row_of_any_shipped_file_is_a_problem(
    data: DataFolder, file: str, row: dict[str, Any], expected: str
) -> None:
    data.lines(file, row)
    assert any(f"data/{file}" in one and expected in one for one in data.problems())


@pytest.mark.parametrize(
    ("file", "row"),
    [
        ("eval/golden.jsonl", GOLDEN),
        ("eval/dpo.jsonl", MEASURED_PAIR),
        ("spoken.jsonl", SPOKEN),
        ("unanswerable.jsonl", {"question": "几点下班呀", "lang": "zh", "distance": "far"}),
    ],
)
def test_a_right_row_of_any_shipped_file_is_clean_and_counted(
    data: DataFolder, file: str, row: dict[str, Any]
) -> None:
    data.lines(file, row)
    report = data.report()
    assert report.problems == []
    assert file_named(report, f"data/{file}").rows == 1
    assert report.not_checked == []


def test_two_spoken_answers_of_one_entry_are_a_problem(data: DataFolder) -> None:
    data.lines("spoken.jsonl", SPOKEN, SPOKEN)
    assert any("'slide' is already used in line 1" in problem for problem in data.problems())


def test_what_calibration_learns_from_must_not_be_measured_with(data: DataFolder) -> None:
    data.lines(
        "unanswerable.jsonl",
        {"question": UNKNOWN["question"], "lang": "zh", "distance": "near"},
    )
    assert any("is the same as data/unanswerable.jsonl, line 1" in p for p in data.problems())


def test_a_group_of_one_synonym_is_a_problem(data: DataFolder) -> None:
    data.write("synonyms.txt", "一字拖, slide\n凉鞋\n")
    assert any("line 2: a group needs two names" in problem for problem in data.problems())


def test_a_held_out_entry_in_a_training_prompt_is_a_problem(data: DataFolder) -> None:
    welt = Passage("welt", "沿条", WELT["content"], "", "types", "zh")
    data.lines("shoes.jsonl", sft("它防水吗？", welt))
    assert any("holds a sentence of 'welt'" in problem for problem in data.problems())


def test_a_held_out_entry_in_a_preference_pair_is_a_problem(data: DataFolder) -> None:
    data.lines("shoes_dpo.jsonl", PAIR | {"rejected": WELT["content"]})
    assert any("holds a sentence of 'welt'" in problem for problem in data.problems())


def test_a_correction_taken_from_its_entry_is_clean(data: DataFolder) -> None:
    data.lines("demo_corrections.jsonl", CORRECTION)
    report = data.report()
    assert (report.problems, report.warnings, report.not_checked) == ([], [], [])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"entry": "clog"}, "field 'entry': 'clog' is not in the knowledge base"),
        ({"lang": "en"}, "field 'lang': is 'en', but 'slide' is 'zh'"),
        ({"rephrased": "How long?"}, "field 'lang': is 'zh', but the rephrased is not"),
        ({"correction": "适合在家穿 3 小时"}, "'3' does not stand in 'slide'"),
        ({"correction": "看心情吧～适合在家穿"}, "takes 57% of its words from 'slide', not 75%"),
        ({"entry": "welt"}, "holds a sentence of 'welt', which is held out from training"),
        (
            {"rephrased": "一字拖，在家能穿几小时"},
            "the same but for case, width and punctuation as",
        ),
        ({"rephrased": ASKED["question"]}, "is the same as data/questions.jsonl, line 1"),
        ({"question": MEASURED["question"]}, "is the same as data/demo_corrections.jsonl, line 1"),
    ],
)
def test_a_bad_correction_is_a_problem(
    data: DataFolder, change: dict[str, str], expected: str
) -> None:
    data.lines("demo_corrections.jsonl", CORRECTION | change)
    assert any(expected in problem for problem in data.problems())


def test_an_english_correction_is_compared_by_its_pairs_of_words(data: DataFolder) -> None:
    english = {
        "entry": "slide.en",
        "lang": "en",
        "question": "How long may I wear a slide at home?",
        "correction": "It suits home at two hours",
        "rephrased": "After how many hours should I take them off?",
    }
    data.lines("demo_corrections.jsonl", CORRECTION | english)
    expected = "takes 40% of its words from 'slide.en', not 75%"
    assert any(expected in problem for problem in data.problems())


def test_two_corrections_of_one_entry_are_a_problem(data: DataFolder) -> None:
    again = {"id": "c2", "question": "它的带子长啥样", "rephrased": "鞋面有几条带"}
    data.lines("demo_corrections.jsonl", CORRECTION, CORRECTION | again)
    assert any(
        "line 2, field 'entry': 'slide' is already used in line 1" in p for p in data.problems()
    )


def test_a_held_out_name_that_does_not_exist_is_a_problem(data: DataFolder) -> None:
    data.write("eval/held_out_entries.json", '["clog"]')
    assert data.problems() == [
        "data/eval/held_out_entries.json: 'clog' is not in the knowledge base"
    ]


def test_training_rows_that_repeat_are_one_warning(data: DataFolder) -> None:
    data.lines("shoes.jsonl", *[sft("它防水吗？")] * 3)
    repeated = "data/shoes.jsonl, line 2: is the same row as line 1; 2 rows repeat another"
    assert repeated in data.warnings()


def test_a_pair_with_other_facts_is_a_problem(data: DataFolder) -> None:
    data.lines("shoes_dpo.jsonl", PAIR | {"chosen": "穿 3 小时没问题哦"})
    assert any("figures differ from rejected: 2, 3" in problem for problem in data.problems())


def test_a_pair_of_equal_answers_is_a_problem(data: DataFolder) -> None:
    data.lines("shoes_dpo.jsonl", PAIR | {"chosen": PAIR["rejected"]})
    assert any("is the same as chosen" in problem for problem in data.problems())


def test_a_pair_of_very_different_lengths_is_a_warning(data: DataFolder) -> None:
    data.lines("shoes_dpo.jsonl", PAIR | {"chosen": "好" * 40 + "2 小时"})
    assert any("lengths differ much" in warning for warning in data.warnings())


def test_short_answers_are_a_warning(data: DataFolder) -> None:
    data.lines("shoes.jsonl", sft("它防水吗？", output="不防水。"))
    assert any("half of the answers are shorter than 20" in one for one in data.warnings())


def test_a_tag_without_english_is_a_warning(data: DataFolder) -> None:
    data.write("tags.txt", "# 颜色 | colour\n黑色 | black\n青色\n")
    assert data.warnings() == ["tags.txt: '青色' has no English phrase"]


def test_figures_are_counted(data: DataFolder) -> None:
    report = data.report()
    figures = file_named(report, "data/knowledge_base.json")
    assert (figures.rows, figures.counts["lang"]) == (3, {"zh": 2, "en": 1})
    assert (figures.lengths["title"].shortest, figures.lengths["title"].longest) == (2, 5)
    assert report.tags == {"colour": 1}


def test_the_report_becomes_json(data: DataFolder) -> None:
    data.lines("questions.jsonl", ASKED | {"entry": "clog"})
    found = json.loads(json.dumps(data.report().to_json()))
    assert found["ok"] is False
    assert found["problems"][0]["line"] == 1


def test_the_report_shows_its_findings_on_a_terminal(data: DataFolder) -> None:
    data.lines("questions.jsonl", ASKED | {"entry": "[b]clog[/b]"})
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(render(data.report()))
    shown = console.export_text()
    assert "'[b]clog[/b]' is not in the knowledge base" in shown
    assert "1 problems, 0 warnings" in shown
