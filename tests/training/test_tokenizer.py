"""The tokenizer keeps every text, and chats in the form LLaMA-Factory trains on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from training.tokenizer import TEMPLATE_NAME, load_tokenizer, make_tokenizer, save_tokenizer

TEXTS = ["一字拖是拖鞋。", "A slide sandal has one wide band across the foot.", "鞣制的皮革"]
CHAT = [
    {"role": "system", "content": "你是专家。"},
    {"role": "user", "content": "<doc 1 一字拖>\n一字拖是拖鞋。\n</doc>\n问题：多少 mm？"},
    {"role": "assistant", "content": "您好，25.5 cm。"},
    {"role": "user", "content": "And in inches?"},
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(make_tokenizer(TEXTS), folder)
    return load_tokenizer(folder)


@pytest.mark.parametrize(
    "text",
    [
        "一字拖 25.5 cm",
        " two  spaces ",
        "😀 龘 bytes",
        "a\nb\n\nc",
        "GORE-TEX®，don’t",
        "%/<doc 1 x>",
    ],
)
def test_every_text_comes_back(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_a_chinese_character_and_a_digit_are_one_token_each(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    assert tokenizer.tokenize("鞣制255") == ["鞣", "制", "2", "5", "5"]


def test_the_vocabulary_stays_small(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer) <= 6_000


def test_the_same_texts_give_the_same_tokenizer(tokenizer: PreTrainedTokenizerFast) -> None:
    assert make_tokenizer(TEXTS).get_vocab() == tokenizer.get_vocab()


def test_the_chat_template_equals_llamafactorys(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    save_tokenizer(tokenizer, tmp_path)
    program = (
        "import json, sys, types\n"
        "from importlib.machinery import ModuleSpec\n"
        "sys.modules['torchaudio'] = types.ModuleType('torchaudio')\n"
        "sys.modules['torchaudio'].__spec__ = ModuleSpec('torchaudio', None)\n"
        "from llamafactory.data.template import TEMPLATES\n"
        "from training.tokenizer import load_tokenizer\n"
        "from pathlib import Path\n"
        "folder, name, chat = sys.argv[1:]\n"
        "system, *messages = json.loads(chat)\n"
        "messages.append({'role': 'assistant', 'content': 'x'})\n"
        "tokenizer, template = load_tokenizer(Path(folder)), TEMPLATES[name]\n"
        "template.fix_special_tokens(tokenizer)\n"
        "pairs = template.encode_multiturn(tokenizer, messages, system['content'])\n"
        "ids = [one for prompt, answer in pairs[:-1] for one in prompt + answer] + pairs[-1][0]\n"
        "print(json.dumps({'ids': ids, 'eos': tokenizer.eos_token}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, tmp_path, TEMPLATE_NAME, json.dumps(CHAT)],
        capture_output=True,
        text=True,
        check=True,
    )
    trained = json.loads(done.stdout.splitlines()[-1])
    served = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True)["input_ids"]
    assert trained == {"ids": served, "eos": tokenizer.eos_token}
