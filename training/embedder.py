"""Trains the small static embedding that ships with Solemate: questions near their passages.

A table of token rows, one a Chinese character or an English word piece; a text is the mean of its
rows. It learns from the training questions, from parallel Chinese and English passages and from the
synonym lexicon, and never sees held-out entries, nor the questions kept for calibration.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import (  # type: ignore[import-untyped]
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from torch import Tensor
from torch.nn import functional

from core.calibration import kept_for_calibration
from core.embedding import prepared
from core.terms import synonym_groups
from training.material import Entry, Material, load_material

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class EmbedderPlan:
    """The shape of the table and how long it is trained."""

    width: int = 256
    vocabulary: int = 4200
    steps: int = 1000
    batch: int = 256
    learning_rate: float = 0.01
    temperature: float = 0.15
    dropped_tokens: float = 0.3
    seed: int = 7


@dataclass(frozen=True, slots=True)
class Pair:
    """A text and the entry it asks for or comes from."""

    text: str
    entry: str


def train_embedder(data: Path, target: Path, plan: EmbedderPlan | None = None) -> None:
    """Train on what is in `data` and save to `target`, a folder SentenceTransformer loads.

    Deterministic for a plan on one kind of machine; a minute on one core.
    """
    plan = plan or EmbedderPlan()
    torch.manual_seed(plan.seed)
    material = load_material(data)
    groups = synonym_groups(data / "synonyms.txt")
    pairs = list(training_pairs(material))
    tokenizer = train_tokenizer(_all_texts(material, pairs, groups), plan.vocabulary)
    table = _Table(tokenizer, _first_rows(tokenizer, material, plan))
    _train(table, material, pairs, groups, plan)
    save_embedder(tokenizer, table.rows.detach(), target)


def training_pairs(material: Material) -> Iterator[Pair]:
    """Questions, titles, keywords and single sentences, each with the entry it belongs to.

    The questions of an entry are shown to be near it; what is embedded of it lacks them.
    """
    for question in material.questions:
        if not kept_for_calibration(question.text):
            yield Pair(question.text, _base(question.entry))
    for entry in material.entries.values():
        for words in (entry.title, *entry.keywords, *entry.questions):
            yield Pair(words, _base(entry.id))
        for sentence in entry.sentences:
            yield Pair(sentence, _base(entry.id))


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> Tokenizer:
    """Single Chinese characters and English word pieces."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.BertNormalizer(lowercase=True, handle_chinese_chars=True)]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary, special_tokens=["[UNK]"], show_progress=False
    )
    tokenizer.train_from_iterator([prepared(text) for text in texts], trainer)
    # The trainer finds the same pieces each time, but numbers them in another order.
    pieces = {piece: number for number, piece in enumerate(sorted(tokenizer.get_vocab()))}
    tokenizer.model = models.WordPiece(pieces, unk_token="[UNK]")
    return tokenizer


def save_embedder(tokenizer: Tokenizer, rows: Tensor, target: Path) -> None:
    """Write a sentence-transformers folder with half-precision rows."""
    module = StaticEmbedding(tokenizer, embedding_weights=rows.half().numpy())
    model = SentenceTransformer(modules=[module.half()], device="cpu")
    model.save(str(target), create_model_card=False)


class _Table:
    """Token rows under training."""

    def __init__(self, tokenizer: Tokenizer, rows: Tensor) -> None:
        self.rows = rows.requires_grad_()
        self._tokenizer = tokenizer

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        encoded = self._tokenizer.encode_batch([prepared(text) for text in texts])
        return [one.ids or [0] for one in encoded]

    def encode(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Unit rows (n, width)."""
        flat = torch.tensor([token for one in ids for token in one])
        starts = torch.tensor([0, *(len(one) for one in ids[:-1])]).cumsum(0)
        means = functional.embedding_bag(flat, self.rows, starts, mode="mean")
        return functional.normalize(means, dim=1)


def _train(
    table: _Table,
    material: Material,
    pairs: Sequence[Pair],
    groups: Sequence[Sequence[str]],
    plan: EmbedderPlan,
) -> None:
    chance = random.Random(plan.seed)
    documents = table.ids([_whole(entry) for entry in material.entries.values()])
    owners = [_base(name) for name in material.entries]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(owners))}
    owner_of_document = torch.tensor([numbers[name] for name in owners])
    asked = table.ids([pair.text for pair in pairs])
    wanted = [numbers[pair.entry] for pair in pairs]
    names = [table.ids(group) for group in groups]
    optimizer = torch.optim.Adam([table.rows], lr=plan.learning_rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, plan.steps)
    for step in range(plan.steps):
        chosen = chance.sample(range(len(pairs)), min(plan.batch, len(pairs)))
        queries = [_thinned(asked[one], plan.dropped_tokens, chance) for one in chosen]
        right = torch.tensor([wanted[one] for one in chosen])[:, None] == owner_of_document[None]
        scores = table.encode(queries) @ table.encode(documents).T / plan.temperature
        loss = _contrast(scores, right) + 0.3 * _synonym_loss(table, names, chance, plan)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            log.info("embedder_training", step=step, loss=round(loss.item(), 4))


def _contrast(scores: Tensor, right: Tensor) -> Tensor:
    """Cross-entropy where every document of the right entry counts as right."""
    hit = scores.masked_fill(~right, float("-inf")).logsumexp(1)
    return (scores.logsumexp(1) - hit).mean()


def _synonym_loss(
    table: _Table, names: Sequence[Sequence[list[int]]], chance: random.Random, plan: EmbedderPlan
) -> Tensor:
    """Two names of a group are nearer to each other than to names of other groups."""
    drawn = [chance.sample(group, 2) for group in names if len(group) > 1]
    left = table.encode([one for one, _ in drawn])
    right = table.encode([other for _, other in drawn])
    return functional.cross_entropy(left @ right.T / plan.temperature, torch.arange(len(drawn)))


def _first_rows(tokenizer: Tokenizer, material: Material, plan: EmbedderPlan) -> Tensor:
    """Random directions, longer for rare tokens: already a bag-of-words cosine weighted by idf."""
    texts = [prepared(_whole(entry)) for entry in material.entries.values()]
    holding = torch.zeros(tokenizer.get_vocab_size())
    for encoded in tokenizer.encode_batch(texts):
        holding[list(set(encoded.ids))] += 1
    weights = torch.log1p(len(texts) / (holding + 1))
    return torch.randn(len(weights), plan.width) * (weights / weights.mean())[:, None] / 16


def _thinned(ids: list[int], share: float, chance: random.Random) -> list[int]:
    return [one for one in ids if chance.random() >= share] or ids


def _all_texts(
    material: Material, pairs: Sequence[Pair], groups: Sequence[Sequence[str]]
) -> list[str]:
    return [
        *(_whole(entry) for entry in material.entries.values()),
        *(pair.text for pair in pairs),
        *(name for group in groups for name in group),
    ]


def _whole(entry: Entry) -> str:
    """An entry as the index embeds it."""
    return "\n".join([entry.title, entry.text, " ".join(entry.keywords)])


def _base(entry: str) -> str:
    return entry.removesuffix(".en")
