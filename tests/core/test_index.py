"""The index on disk: what is kept, what is refused, and what a reader sees meanwhile."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from core.dense import DenseIndex
from core.embedding import Embedder, unit
from core.errors import DataError, IndexMissing
from core.index import Index, IndexFolder, Recipe, write_atomically
from core.knowledge import Chunk
from core.terms import Analyzer
from tests.core.documents import LetterEmbedder, write_objects

Write = Callable[..., Path]

CLOGS = {"id": "clogs", "title": "洞洞鞋", "content": "洞洞鞋怕高温。", "source": "s"}
LACES = {"id": "laces", "title": "鞋带", "content": "鞋带可以手洗。", "source": "s"}


@pytest.fixture
def write_knowledge(tmp_path: Path) -> Write:
    return partial(write_objects, tmp_path)


@pytest.fixture
def letters() -> LetterEmbedder:
    return LetterEmbedder()


def chunk(name: str, text: str) -> Chunk:
    return Chunk(name, name, text, "s", "", "zh")


def folder(tmp_path: Path, embedder: Embedder | None = None) -> IndexFolder:
    return IndexFolder(tmp_path / "index", Recipe(Analyzer(), embedder, "cpu"))


def contents(index: Index) -> dict[str, tuple[str, float]]:
    """Every chunk's text and its score for one question."""
    scores = index.lexical.scores(index.recipe.analyzer.question("洞洞鞋的鞋带")).scores
    return {
        one.id: (one.text, round(float(score), 4))
        for one, score in zip(index.chunks, scores, strict=True)
    }


async def test_what_was_built_is_loaded(
    tmp_path: Path, write_knowledge: Write, letters: Embedder
) -> None:
    built = await folder(tmp_path, letters).build(write_knowledge([CLOGS, LACES]))
    loaded = await folder(tmp_path, letters).load()
    assert contents(loaded) == contents(built)
    assert loaded.dense is not None
    assert len(loaded.dense) == 2


async def test_an_unchanged_knowledge_base_is_not_written_again(
    tmp_path: Path, write_knowledge: Write
) -> None:
    index = folder(tmp_path)
    await index.build(write_knowledge([CLOGS]))
    version = index.version
    await index.build(write_knowledge([CLOGS]))
    assert index.version == version


async def test_only_what_changed_is_embedded_again(
    tmp_path: Path, write_knowledge: Write, letters: LetterEmbedder
) -> None:
    index = folder(tmp_path, letters)
    await index.build(write_knowledge([CLOGS, LACES]))
    letters.documents_seen = 0
    await index.build(write_knowledge([CLOGS, {**LACES, "content": "鞋带要拆下来洗。"}]))
    assert letters.documents_seen == 1


async def test_an_updated_index_equals_one_made_at_once(
    tmp_path: Path, write_knowledge: Write, letters: Embedder
) -> None:
    updated = folder(tmp_path / "a", letters)
    await updated.build(write_knowledge([CLOGS, LACES]))
    new = write_knowledge([{**LACES, "content": "鞋带打蜡。"}, {"id": "x", "content": "新的。"}])
    await updated.build(new)
    made = folder(tmp_path / "b", letters)
    await made.build(new)
    assert contents(await updated.load()) == contents(await made.load())
    assert (await updated.load()).digest == (await made.load()).digest


async def test_another_file_is_added_replaced_and_removed_by_its_name(
    tmp_path: Path, write_knowledge: Write
) -> None:
    index = folder(tmp_path)
    await index.build(write_knowledge([CLOGS]))
    await index.add(write_knowledge([LACES], "more.json"))
    assert set(contents(await index.load())) == {"clogs", "laces"}
    await index.add(write_knowledge([{**LACES, "id": "strings"}], "more.json"))
    assert set(contents(await index.load())) == {"clogs", "strings"}
    await index.remove("more.json")
    assert set(contents(await index.load())) == {"clogs"}


async def test_another_knowledge_base_takes_the_place_of_the_one_before(
    tmp_path: Path, write_knowledge: Write, letters: Embedder
) -> None:
    await folder(tmp_path).build(write_knowledge([CLOGS]))
    await folder(tmp_path).add(write_knowledge([LACES], "more.json"))
    other = write_knowledge([{**CLOGS, "content": "Bread rises."}], "bread.json")
    await folder(tmp_path, letters).build(other)
    assert (await folder(tmp_path, letters).load()).origins == ("more.json", "bread.json")


async def test_the_knowledge_base_is_neither_removed_nor_replaced_by_a_namesake(
    tmp_path: Path, write_knowledge: Write
) -> None:
    index = folder(tmp_path)
    await index.build(write_knowledge([CLOGS]))
    with pytest.raises(DataError, match="is the knowledge base"):
        await index.remove("knowledge.json")
    (tmp_path / "elsewhere").mkdir()
    namesake = write_objects(tmp_path / "elsewhere", [LACES])
    with pytest.raises(DataError, match="has the name of the knowledge base"):
        await index.add(namesake)
    assert set(contents(await index.load())) == {"clogs"}


async def test_an_id_of_another_file_is_refused(tmp_path: Path, write_knowledge: Write) -> None:
    index = folder(tmp_path)
    await index.build(write_knowledge([CLOGS]))
    with pytest.raises(DataError, match=r"more.json.*'clogs'.*knowledge.json"):
        await index.add(write_knowledge([CLOGS], "more.json"))


async def test_a_wrong_knowledge_file_leaves_the_old_index(
    tmp_path: Path, write_knowledge: Write
) -> None:
    index = folder(tmp_path)
    await index.build(write_knowledge([CLOGS]))
    with pytest.raises(DataError):
        await index.build(write_knowledge([{"content": 3}]))
    assert set(contents(await index.load())) == {"clogs"}


async def test_another_recipe_asks_for_a_build_which_keeps_added_files(
    tmp_path: Path, write_knowledge: Write, letters: Embedder
) -> None:
    knowledge = write_knowledge([CLOGS])
    await folder(tmp_path).build(knowledge)
    await folder(tmp_path).add(write_knowledge([LACES], "more.json"))
    with pytest.raises(IndexMissing, match="kb build"):
        await folder(tmp_path, letters).load()
    await folder(tmp_path, letters).build(knowledge)
    assert set(contents(await folder(tmp_path, letters).load())) == {"clogs", "laces"}


async def test_what_a_newer_program_keeps_of_a_chunk_is_passed_over(
    tmp_path: Path,
    write_knowledge: Write,
    letters: Embedder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = LACES | {"questions": ["怎么换带子"]}
    knowledge = write_knowledge([CLOGS])
    with monkeypatch.context() as newer:
        newer.setattr("core.index.asdict", lambda one: asdict(one) | {"mood": ["good"]})
        await folder(tmp_path).build(knowledge)
        await folder(tmp_path).add(write_knowledge([asked], "more.json"))
    await folder(tmp_path, letters).build(knowledge)
    loaded = await folder(tmp_path, letters).load()
    assert {one.id: one.questions for one in loaded.chunks} == {
        "clogs": (),
        "laces": ("怎么换带子",),
    }


async def test_no_index_yet_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(IndexMissing, match="kb build"):
        await folder(tmp_path).load()


@pytest.mark.parametrize(
    "name", ["chunks.json", "terms.json", "rows.npy", "vectors.faiss", "manifest.json"]
)
@pytest.mark.parametrize("how", ["cut", "flipped", "gone"])
async def test_a_damaged_file_is_named_and_a_build_repairs_it(
    tmp_path: Path, write_knowledge: Write, letters: Embedder, name: str, how: str
) -> None:
    index = folder(tmp_path, letters)
    knowledge = write_knowledge([CLOGS, LACES])
    await index.build(knowledge)
    path = tmp_path / "index" / index.version / name
    data = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        middle = len(data) // 2
        changed = data[middle] ^ 1
        path.write_bytes(data[:middle] + (bytes([changed]) + data[middle + 1 :]) * (how != "cut"))
    with pytest.raises(IndexMissing, match=rf"{name}.*kb build"):
        await index.load()
    await index.build(knowledge)
    assert set(contents(await index.load())) == {"clogs", "laces"}


async def test_no_file_is_a_pickle(
    tmp_path: Path, write_knowledge: Write, letters: Embedder
) -> None:
    index = folder(tmp_path, letters)
    await index.build(write_knowledge([CLOGS]))
    for path in (tmp_path / "index" / index.version).iterdir():
        assert path.suffix in {".json", ".npy", ".faiss"}
        if path.suffix == ".npy":
            np.load(path, allow_pickle=False)


async def test_readers_always_see_a_whole_version_while_builds_follow_each_other(
    tmp_path: Path, write_knowledge: Write
) -> None:
    first, second = ([{**CLOGS, "id": f"{kind}-{n}"} for n in range(20)] for kind in "ab")
    index = folder(tmp_path)
    await index.build(write_knowledge(first))

    async def read() -> None:
        for _ in range(30):
            kinds = {one.id[0] for one in (await index.load()).chunks}
            assert kinds in ({"a"}, {"b"})

    async def write() -> None:
        for turn in range(10):
            await index.build(write_knowledge(first if turn % 2 else second))

    await asyncio.gather(read(), write())


async def test_two_builders_take_turns(tmp_path: Path, write_knowledge: Write) -> None:
    await folder(tmp_path).build(write_knowledge([CLOGS]))
    more = [write_knowledge([{**LACES, "id": f"x{n}"}], f"m{n}.json") for n in range(6)]
    await asyncio.gather(*(folder(tmp_path).add(path) for path in more))
    assert len(await folder(tmp_path).load()) == 7


async def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, write_knowledge: Write
) -> None:
    (tmp_path / "index").write_text("a file where the folder should be", "utf-8")
    with pytest.raises(DataError, match="Cannot write the index"):
        await folder(tmp_path).build(write_knowledge([CLOGS]))


def test_a_file_that_cannot_be_replaced_is_named(tmp_path: Path) -> None:
    (tmp_path / "calibration.json").mkdir()
    with pytest.raises(DataError, match=r"Cannot write '.*calibration.json'"):
        write_atomically(tmp_path / "calibration.json", b"{}")
    assert [path.name for path in tmp_path.iterdir()] == ["calibration.json"]


@pytest.mark.parametrize("exact_limit", [1000, 100])
def test_vectors_are_found_changed_and_reloaded(tmp_path: Path, exact_limit: int) -> None:
    chance = np.random.default_rng(5)
    vectors = unit(chance.normal(size=(400, 16)).astype(np.float32))
    dense = DenseIndex.build(np.arange(400), vectors, "cpu", exact_limit)
    extra = unit(np.ones((1, 16), np.float32))
    changed = dense.changed(np.array([3]), np.array([400]), extra)
    changed.save(tmp_path / "v.faiss")
    loaded = DenseIndex.load(tmp_path / "v.faiss", "cpu")
    assert loaded.search(extra[0], 1)[0].tolist() == [400]
    assert 3 not in loaded.search(vectors[3], 10)[0]
    assert dense.search(vectors[3], 1)[0].tolist() == [3]
    np.testing.assert_allclose(loaded.cosines(vectors[7], np.array([7])), [1.0], rtol=1e-5)


def test_the_digest_does_not_depend_on_the_order() -> None:
    recipe = Recipe(Analyzer(), None, "cpu")
    one, two = chunk("a", "甲"), chunk("b", "乙")
    assert Index.of(recipe, [one, two]).digest == Index.of(recipe, [two, one]).digest
    assert Index.of(recipe, [one]).digest != Index.of(recipe, [two]).digest


def test_a_manifest_lists_every_file(tmp_path: Path, write_knowledge: Write) -> None:
    asyncio.run(folder(tmp_path).build(write_knowledge([CLOGS])))
    home = tmp_path / "index" / folder(tmp_path).version
    listed = set(json.loads((home / "manifest.json").read_text("utf-8"))["files"])
    assert listed == {path.name for path in home.iterdir()} - {"manifest.json"}
