"""The three families of models, tiny and untrained, built here and loaded from disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    ChineseCLIPConfig,
    ChineseCLIPImageProcessorPil,
    ChineseCLIPModel,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
)

from core.clip import ClipEncoder, load_clip
from core.errors import ConfigError
from core.tags import Tag, TagGroup
from core.vision import ClipVision

SIZE = 32
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": SIZE,
    "patch_size": 16,
}
TEXT = {
    "vocab_size": 300,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 24,
}
GROUPS = [
    TagGroup("颜色", "colour", (Tag("红色", "red", "colour"), Tag("蓝色", "blue", "colour"))),
    TagGroup("类型", "type", (Tag("靴", "boot", "type"), Tag("跑鞋", "running", "type"))),
]


def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes as tokens, with a start, an end and padding."""
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    alphabet = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    raw = Tokenizer(models.BPE({token: place for place, token in enumerate(alphabet)}, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )


def save_clip(folder: Path) -> None:
    text = TEXT | {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = CLIPConfig(text_config=text, vision_config=VISION, projection_dim=8)
    CLIPModel(config).save_pretrained(folder)
    size = {"shortest_edge": SIZE}
    crop = {"height": SIZE, "width": SIZE}
    CLIPImageProcessorPil(size=size, crop_size=crop).save_pretrained(folder)


def save_siglip(folder: Path) -> None:
    text = TEXT | {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "projection_size": 16}
    SiglipModel(SiglipConfig(text_config=text, vision_config=VISION)).save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": SIZE, "width": SIZE}).save_pretrained(folder)


def save_chinese_clip(folder: Path) -> None:
    config = ChineseCLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=8)
    ChineseCLIPModel(config).save_pretrained(folder)
    size = {"height": SIZE, "width": SIZE}
    ChineseCLIPImageProcessorPil(size=size, crop_size=size).save_pretrained(folder)


FAMILIES = {"clip": save_clip, "siglip": save_siglip, "chinese_clip": save_chinese_clip}


@pytest.fixture(scope="module", params=list(FAMILIES))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(FAMILIES[request.param], tmp_path_factory.mktemp(request.param))


def saved(save: Callable[[Path], None], folder: Path) -> Path:
    torch.manual_seed(0)
    save(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(folder: Path) -> ClipEncoder:
    return load_clip(str(folder), "cpu")


def photo(colour: str = "red") -> Image.Image:
    return Image.new("RGB", (80, 60), colour)


def test_texts_and_photos_become_unit_vectors_of_one_space(encoder: ClipEncoder) -> None:
    texts, seen = (
        encoder.encode_texts(["red shoe", "蓝色的鞋"]),
        encoder.encode_photos([photo()])[0],
    )
    assert texts.shape == (2, *seen.shape)
    lengths = np.linalg.norm([*texts, seen], axis=-1)
    assert lengths == pytest.approx(np.ones(3), abs=1e-5)


def test_cosines_are_those_of_the_model_itself(encoder: ClipEncoder, folder: Path) -> None:
    texts = ["red", "blue", "green"]
    model, read = encoder._model, tokenizer()
    padded = "max_length" if "siglip" in folder.name else True
    length = TEXT["max_position_embeddings"]
    inputs = read(texts, padding=padded, truncation=True, max_length=length, return_tensors="pt")
    pixels = encoder._processor(images=photo(), return_tensors="pt")
    with torch.inference_mode():
        wanted = model(**inputs, **pixels).logits_per_image[0].numpy()
    got = encoder.scale * (encoder.encode_texts(texts) @ encoder.encode_photos([photo()])[0])
    # SigLIP adds the same bias to every text, which no softmax sees.
    assert got - got[0] == pytest.approx(wanted - wanted[0], abs=1e-3)


def test_photos_read_together_are_seen_as_each_alone(encoder: ClipEncoder) -> None:
    photos = [photo("red"), Image.new("RGB", (30, 90), "blue"), photo("green")]
    together = encoder.encode_photos(photos)
    alone = np.concatenate([encoder.encode_photos([one]) for one in photos])
    assert together == pytest.approx(alone, abs=1e-4)


def test_a_text_beyond_the_model_s_length_is_cut(encoder: ClipEncoder) -> None:
    assert encoder.encode_texts(["鞋" * 200]).shape[0] == 1


def test_more_texts_than_a_batch_keep_their_order(encoder: ClipEncoder) -> None:
    texts = [f"shoe {number}" for number in range(70)]
    assert encoder.encode_texts(texts)[69] == pytest.approx(
        encoder.encode_texts(texts[69:])[0], abs=1e-5
    )


def test_only_chinese_clip_reads_chinese(encoder: ClipEncoder, folder: Path) -> None:
    assert encoder.language == ("zh" if "chinese" in folder.name else "en")


async def test_a_photo_gets_tags_whose_shares_sum_to_one(
    encoder: ClipEncoder, tmp_path: Path
) -> None:
    vision = ClipVision(encoder, GROUPS, max_tags=5, min_score=0.0, cache=tmp_path)
    shares = vision.shares(photo())
    assert [float(group.sum()) for group in shares] == pytest.approx([1, 1], abs=1e-5)
    assert len(await vision.tags(photo())) <= 3


def test_the_same_folder_has_the_same_identity(encoder: ClipEncoder, folder: Path) -> None:
    assert load_clip(str(folder), "cpu").identity == encoder.identity


def test_other_weights_of_the_same_name_have_another_identity(tmp_path: Path) -> None:
    first = load_clip(str(saved(save_clip, tmp_path / "model")), "cpu")
    torch.manual_seed(1)
    save_clip(tmp_path / "model")
    assert load_clip(str(tmp_path / "model"), "cpu").identity != first.identity


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        load_clip(str(tmp_path / "nowhere"), "cpu")


def test_a_model_of_another_family_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ConfigError, match="'bert'"):
        load_clip(str(tmp_path), "cpu")


def test_weights_that_are_no_safetensors_are_refused(tmp_path: Path) -> None:
    folder = saved(save_clip, tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="safetensors"):
        load_clip(str(folder), "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_card_that_is_not_here_is_named_with_what_to_do(tmp_path: Path, device: str) -> None:
    folder = saved(save_clip, tmp_path / "model")
    with pytest.raises(ConfigError, match=r"vision\.device is 'cuda.* set vision\.device to"):
        load_clip(str(folder), device)
