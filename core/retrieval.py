"""A question -> ranked passages, and what they are worth: an answer, a choice, or nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from core.calibration import Calibration, Signals, confidence
from core.embedding import Embedder, Vectors
from core.index import Index
from core.knowledge import Chunk
from core.language import language_of
from core.lexical import Match
from core.messages import ImageTag, Language, Passage
from core.naming import compared, goes_over, is_called, related
from core.quantities import Quantity, holds, quantities
from core.tags import COLOUR
from core.terms import Analyzer, is_concept, is_word, subject_of, subject_words

Fusion = Literal["weighted", "rrf"]

# Reciprocal rank fusion's constant: Cormack, Clarke and Büttcher (2009).
_RRF_K = 60
# A colour's words count this much beside the question's own. Nearly every photo has a colour, and
# few questions are about it; in full they drew "how do I care for these?" to entries on colours
# (held-out questions with a colour: the right entry first in 62 %, so in 69 %, as without a photo).
_COLOUR_WEIGHT = 0.3
# An entry whose title is all that a question names comes before others whose titles hold it, too:
# 漆皮 before 漆皮护理 for "漆皮是什么". It leads the best of them by a quarter.
_NAMED = 1.25
# More entries than this are never listed.
_LISTED = 20
# What is asked back about and at least this likely is shown at once: of held-out questions that are
# asked back, half have such a passage, and it is the right one for four of five of those. Of those
# that nothing answers, 11 of 114 near the subject and 2 of 78 far from it are shown one; at 0.2, 19
# and 7. Cosine, coverage, or the share of the first three beside it tell them apart no better.
_WORTH_SHOWING = 0.3
# Beside it is offered what has so much of its probability: half of the second and third, and of
# those that are the right one 27 of 31.
_WORTH_OFFERING = 0.08
# A passage that is this much less likely than the best, or than certainty, is not worth reading.
_WORTH_OF_BEST = 0.2
_WORTH_READING = 0.03
# The second of two things that are compared may be far behind the best: down to a hundredth of its
# probability was seen.
_WORTH_COMPARING = 0.005
# A follow-up's own words have to be worth so much for their absence to say something: 多少钱 and
# "cost" are worth 2.4 and 3.4, "when she is five" 1.
_TELLING = 2.0
# A passage says what is asked that has so much of its words.
_MOSTLY = 0.6
# Where more passages than this, and than this share of all, hold all that a question says, it
# singles out none: 鞋, "size", "shoes".
_MANY, _SHARE = 10, 0.025


class Relevance(StrEnum):
    """What the passages found are good for; the values are those of `Outcome`."""

    ANSWER = "answered"
    CLARIFY = "clarify"
    REFUSE = "refused"


@dataclass(frozen=True, slots=True)
class Query:
    """What to look for. A tag's words count by its score; `language` overrides the text's own.

    `topic` is what a follow-up goes on from: a title, or the question before it.
    """

    text: str
    tags: tuple[ImageTag, ...] = ()
    language: Language | None = None
    topic: str = ""


@dataclass(frozen=True, slots=True)
class Retrieved:
    """Passages, best first: those worth reading (ANSWER), to offer (CLARIFY), none (REFUSE).

    Where the question compares things, the passages are on them and `compares` is true. Of those
    to offer, the first is `likely` where it is worth being shown at once. `lacking` is the topic
    of a follow-up whose entry does not say what is asked, while those to offer are about it.
    """

    relevance: Relevance
    passages: tuple[Passage, ...] = ()
    compares: bool = False
    likely: bool = False
    lacking: str = ""


@dataclass(frozen=True, slots=True)
class Ranking:
    """Every candidate of a question, best first, with how likely one of the top is right.

    `common` where the question's words stand in so many passages that they single out none.
    """

    hits: tuple[Hit, ...]
    confidence: float
    relevance: Relevance
    common: bool = False

    def shows(self, best: Hit, relevance: Relevance) -> bool:
        """Whether the best hit, asked back about, is likely enough to be shown at once."""
        offers = relevance is Relevance.CLARIFY and not self.common
        return offers and best.probability >= _WORTH_SHOWING


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that was found; `score` ranks it, `probability` is what the score is worth.

    `named` where its title is all that the question says.
    """

    chunk: Chunk
    score: float
    signals: Signals
    probability: float
    named: bool = False

    @property
    def passage(self) -> Passage:
        chunk = self.chunk
        return Passage(
            chunk.id,
            chunk.title,
            chunk.text,
            chunk.source,
            chunk.topic,
            chunk.lang,
            round(self.probability, 4),
        )


@dataclass(frozen=True, slots=True)
class RetrievalOptions:
    """How passages are found. `depth` candidates of each leg are fused; `top_k` are given.

    A question whose confidence is below `min_relevance` is refused whatever the calibration says.
    """

    top_k: int
    dense_weight: float
    fusion: Fusion
    min_relevance: float
    depth: int = 50


class Reranker(Protocol):
    """Anything that scores question-passage pairs, 0 to 1."""

    def scores(self, question: str, texts: Sequence[str]) -> NDArray[np.float32]: ...


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one search works on from its beginning to its end."""

    index: Index
    calibration: Calibration


class Retriever:
    """Searches the newest snapshot it was given; safe to use from many tasks and threads."""

    def __init__(
        self,
        snapshot: Snapshot,
        options: RetrievalOptions,
        reranker: Reranker | None = None,
    ) -> None:
        self._snapshot = snapshot
        self._options = options
        self._reranker = reranker

    @property
    def snapshot(self) -> Snapshot:
        return self._snapshot

    def use(self, snapshot: Snapshot) -> None:
        """Search this one from now on; searches under way finish on theirs."""
        self._snapshot = snapshot

    def on(self, snapshot: Snapshot) -> Retriever:
        """The same way of searching over other knowledge."""
        return Retriever(snapshot, self._options, self._reranker)

    async def search(self, query: Query) -> Retrieved:
        """What there is to answer a question with."""
        query = _in_one_language(self._snapshot.index, query)
        ranking = await self.rank(query)
        if ranking.relevance is Relevance.REFUSE:
            # Who shows a photo is told no less than who asks the same without it.
            words = replace(query, tags=())
            return await self.search(words) if query.tags else Retrieved(ranking.relevance)
        least = _WORTH_COMPARING * ranking.hits[0].probability
        worth = [hit for hit in ranking.hits if hit.probability >= least]
        if both := compared(query.text, [hit.chunk.title for hit in worth]):
            passages = tuple(worth[place].passage for place in both)
            return Retrieved(Relevance.ANSWER, passages, compares=True)
        relevance, best = self._chosen(query, ranking)
        if relevance is Relevance.REFUSE:
            return await self._elsewhere(query)
        if likely := ranking.shows(best[0], relevance):
            least = _WORTH_OFFERING * best[0].probability
            best = tuple(hit for hit in best if hit.probability >= least)
        return Retrieved(relevance, tuple(hit.passage for hit in best), likely=likely)

    async def _elsewhere(self, query: Query) -> Retrieved:
        """What has in its title what a follow-up asks and its topic does not say, to offer."""
        own = query.text.removeprefix(query.topic).strip()
        language = language_of(own)
        ranking = await self.rank(Query(own, language=query.language))
        asked = self._snapshot.index.recipe.analyzer.question(subject_of(own))
        passages = tuple(
            hit.passage
            for hit in ranking.hits
            if hit.chunk.lang == language and sum(asked.values()) >= _TELLING
            if self._titles(asked, hit) >= _MOSTLY * sum(asked.values())
        )[: self._options.top_k]
        if not passages:
            return Retrieved(Relevance.REFUSE)
        return Retrieved(Relevance.CLARIFY, passages, lacking=query.topic)

    def _chosen(self, query: Query, ranking: Ranking) -> tuple[Relevance, tuple[Hit, ...]]:
        """The hits to answer with or to offer, and which of both."""
        relevance, best = ranking.relevance, ranking.hits[: self._options.top_k]
        topic = subject_words(query.topic)
        if relevance is Relevance.CLARIFY and ranking.common:
            best = self._titled(query.text, ranking.hits)[: self._options.top_k]
        if relevance is Relevance.ANSWER:
            best = _worth_reading(best)
        elif seen := self._seen_in_photo(query, best):
            return Relevance.ANSWER, (seen,)
        # What goes on from a topic, and is not surely about another, is about that topic.
        elif on_topic := [hit for hit in best if topic and subject_words(hit.chunk.title) == topic]:
            relevance, best = Relevance.ANSWER, tuple(on_topic[:1])
        if not topic or all(subject_words(hit.chunk.title) != topic for hit in best):
            return relevance, best
        text = query.text.removeprefix(query.topic).strip()
        said = [self._said(text, hit) for hit in best]
        if max(said) >= _MOSTLY:
            # What the others add is read before the topic's passage, if that lacks it.
            order = sorted(range(len(best)), key=lambda place: said[place] < _MOSTLY)
            return relevance, tuple(best[place] for place in order)
        # Another entry about the same thing may say it: 帆布鞋, where 帆布鞋清洗 does not.
        kin = [
            hit
            for hit in ranking.hits
            if related(hit.chunk.title, query.topic) and self._said(text, hit) >= _MOSTLY
        ]
        if kin:
            return Relevance.ANSWER, tuple(kin[: self._options.top_k])
        # What was asked of suede is asked of canvas now: an entry may be called that.
        listed = ranking.hits if goes_over(text) else ()
        others = [hit for hit in listed if is_called(hit.chunk.title, text)]
        others = others[: self._options.top_k]
        if not others:
            shares = any(self._shares_a_word(text, hit) for hit in best)
            return (relevance, best) if shares else (Relevance.REFUSE, ())
        sure = confidence([hit.probability for hit in others])
        answers = sure >= self._snapshot.calibration.answer_from
        return Relevance.ANSWER if answers else Relevance.CLARIFY, tuple(others)

    def _seen_in_photo(self, query: Query, hits: Sequence[Hit]) -> Hit | None:
        """The entry about what the photo surely shows, where it says something of what is asked."""
        seen = {
            subject_words(name)
            for tag in query.tags
            if tag.sure and tag.group != COLOUR
            for name in (tag.name, tag.phrase)
        }
        about = (hit for hit in hits if subject_words(hit.chunk.title) in seen)
        return next((hit for hit in about if self._shares_a_word(query.text, hit)), None)

    def _titled(self, text: str, hits: Sequence[Hit]) -> tuple[Hit, ...]:
        """The hits whose titles have most of a question's words first."""
        analyzer = self._snapshot.index.recipe.analyzer
        asked = analyzer.question(text)
        least = _MOSTLY * sum(asked.values())
        return tuple(sorted(hits, key=lambda hit: self._titles(asked, hit) < least))

    def _titles(self, asked: Mapping[str, float], hit: Hit) -> float:
        """The weight of a question's terms that a hit has in its title."""
        analyzer = self._snapshot.index.recipe.analyzer
        return sum(asked[term] for term in asked.keys() & analyzer.question(hit.chunk.title))

    def _shares_a_word(self, text: str, hit: Hit) -> bool:
        """Whether a hit has some word of a follow-up's own, or means it: not 防水 in 温水."""
        if (said := self._said(text, hit)) in (0.0, 1.0):
            return bool(said)
        analyzer, chunk = self._snapshot.index.recipe.analyzer, hit.chunk
        held = analyzer.passage(chunk.title, chunk.text, chunk.keywords)
        return any(
            term in held
            for term in analyzer.question(subject_of(text))
            if is_concept(term) or (is_word(term) if term.isascii() else len(term) > 1)
        )

    def _said(self, text: str, hit: Hit) -> float:
        """The share of a follow-up's own terms, by weight, that a hit has, or of what they mean.

        1 where their absence would say nothing: they are too few, or in another language.
        """
        analyzer, chunk = self._snapshot.index.recipe.analyzer, hit.chunk
        terms = analyzer.question(subject_of(text))
        if chunk.lang != language_of(text) or (total := sum(terms.values())) < _TELLING:
            return 1.0
        # Who goes over to another thing names it: words that this is asked with do not say that.
        keywords = () if goes_over(text) else chunk.keywords
        shared = terms.keys() & analyzer.passage(chunk.title, chunk.text, keywords)
        concepts = {term for term in terms if is_concept(term)}
        # Two characters or a word are a concept's, where no word is left without one.
        said = sum(1 if term.isascii() else 0.5 for term in terms if is_word(term))
        meant = len(concepts & shared) / len(concepts) if said <= len(concepts) > 0 else 0.0
        return max(meant, sum(terms[term] for term in shared) / total)

    async def rank(self, query: Query) -> Ranking:
        """All candidates, whatever they are worth: for listings and for measuring."""
        return await asyncio.to_thread(self._rank, query, None)

    async def rank_without(self, query: Query, entry: str) -> Ranking:
        """As if the knowledge base lacked this entry: how a question nobody can answer looks."""
        return await asyncio.to_thread(self._rank, query, entry)

    def _rank(self, query: Query, hidden: str | None) -> Ranking:
        snapshot, options = self._snapshot, self._options
        if not len(snapshot.index):
            return Ranking((), 0.0, Relevance.REFUSE)
        query = replace(query, text=subject_of(query.text))
        # Only a reranker brings up what is never listed otherwise; one candidate may be hidden.
        most = _LISTED + 1 if self._reranker is None else len(snapshot.index)
        asked, common = _figures_asked_for(query), _is_common(snapshot.index, query)
        found = [
            one
            for one in _candidates(snapshot.index, query, options, most, by_keyword=not common)
            if (hidden is None or one.chunk.entry != hidden)
            and not _is_of_another_figure(one.chunk, asked)
        ]
        if self._reranker is not None:
            found = _reranked(found, query, self._reranker)
        hits = tuple(_hits(found[:_LISTED], snapshot.calibration))
        sure = confidence([hit.probability for hit in hits[: options.top_k]])
        relevance = self._relevance(sure, snapshot.calibration)
        if relevance is Relevance.ANSWER and common and not hits[0].named:
            relevance = Relevance.CLARIFY
        return Ranking(hits, sure, relevance, common)

    def _relevance(self, sure: float, calibration: Calibration) -> Relevance:
        if sure < max(calibration.clarify_from, self._options.min_relevance) or sure == 0:
            return Relevance.REFUSE
        return Relevance.ANSWER if sure >= calibration.answer_from else Relevance.CLARIFY


@dataclass(slots=True)
class _Candidate:
    """The best chunk of an entry, before it is judged."""

    chunk: Chunk
    score: float
    overlap: float
    coverage: float
    cosine: float
    central: float
    named: bool = False
    reranked: float | None = None


def question_terms(analyzer: Analyzer, query: Query) -> dict[str, float]:
    """The terms to look up: the person's words in full, a tag's by how sure vision is of it."""
    terms = analyzer.question(query.text)
    for tag in query.tags:
        worth = tag.score * (_COLOUR_WEIGHT if tag.group == COLOUR else 1.0)
        for term, weight in analyzer.question(f"{tag.name} {tag.phrase}").items():
            terms[term] = max(terms.get(term, 0.0), weight * worth)
    return terms


def _in_one_language(index: Index, query: Query) -> Query:
    """A follow-up's topic by its title in the language that is asked in, where it has one.

    "What about canvas?" after 麂皮清洁 goes on from "Cleaning suede".
    """
    named = index.titled.get(query.topic)
    own = query.text.removeprefix(query.topic).strip()
    language = query.language or language_of(own)
    if named is None or language is None or named.lang == language:
        return query
    twin = index.first_rows.get((named.entry, language))
    if twin is None:
        return query
    topic = index.chunks[twin].title
    goes_on = query.text.startswith(query.topic)
    return replace(query, text=f"{topic} {own}" if goes_on else query.text, topic=topic)


def _worth_reading(best: tuple[Hit, ...]) -> tuple[Hit, ...]:
    floor = max(_WORTH_READING, _WORTH_OF_BEST * max(hit.probability for hit in best))
    kept = tuple(hit for hit in best if hit.probability >= floor) or best[:1]
    # What only mentions the thing in question leads a small model astray.
    return kept[:1] if kept[0].named else kept


def _candidates(
    index: Index, query: Query, options: RetrievalOptions, most: int, *, by_keyword: bool
) -> list[_Candidate]:
    """The best chunk of each of the `most` best entries that either leg found, best first."""
    match = index.lexical.scores(question_terms(index.recipe.analyzer, query))
    rows = _top_rows(match.scores, options.depth)
    cosines = np.zeros(len(rows), np.float32)
    if index.dense is not None and index.recipe.embedder is not None:
        rows, cosines = _with_dense(index, index.recipe.embedder, query, rows, options.depth)
    fused = _fused(match.scores[rows], cosines, index.dense is not None, options)
    language = query.language or language_of(query.text) or "en"
    found = _one_per_entry(index, rows, fused, cosines, match, language, most)
    return _named_first(found, query.text, by_keyword=by_keyword)


def _figures_asked_for(query: Query) -> set[Quantity]:
    """The question's figures; a follow-up's own ones have the topic's units: 26 cm, and 27?"""
    before = quantities(query.topic)
    own = quantities(query.text.removeprefix(query.topic)) if query.topic else set()
    units = {unit for _, unit in before}
    return {
        (value, one) for value, unit in own for one in ({unit} if unit else units or {unit})
    } or quantities(query.text)


def _is_common(index: Index, query: Query) -> bool:
    """Whether so many passages hold all that a question says that it singles out none.

    A colour seen in its photo singles out little; a material or a kind of shoe does.
    """
    terms = index.recipe.analyzer.question(query.text)
    only_colours = all(tag.group == COLOUR for tag in query.tags)
    return only_colours and index.lexical.in_more_than(max(_MANY, _SHARE * len(index)), terms)


def _is_of_another_figure(chunk: Chunk, asked: set[Quantity]) -> bool:
    """Whether an entry is about one figure and the question about another: 27 cm, and 29 cm.

    It shares all other words with the question, and would be taken for its answer.
    """
    own = quantities(chunk.title)
    units = {unit for _, unit in own if unit}
    wanted = [one for one in asked if one[1] in units]
    if not wanted:
        return False
    held = own | quantities(chunk.text)
    return not any(holds(held, *one) for one in wanted)


def _top_rows(scores: NDArray[np.float32], depth: int) -> NDArray[np.int64]:
    """The rows of the `depth` best scores above 0."""
    if len(scores) > depth:
        rows = np.argpartition(-scores, depth)[:depth]
    else:
        rows = np.arange(len(scores))
    return rows[scores[rows] > 0]


def _with_dense(
    index: Index, embedder: Embedder, query: Query, rows: NDArray[np.int64], depth: int
) -> tuple[NDArray[np.int64], Vectors]:
    """Both legs' rows, and the cosine of every one: a row that one leg missed is not punished."""
    assert index.dense is not None
    words = " ".join([query.text, *(tag.name for tag in query.tags if tag.sure)])
    vector = embedder.encode_queries([words])[0]
    if not vector.any():
        return rows, np.zeros(len(rows), np.float32)
    keys, _ = index.dense.search(vector, depth)
    near = np.fromiter((index.row_of_key[int(key)] for key in keys), np.int64, len(keys))
    rows = np.union1d(rows, near)
    return rows, index.dense.cosines(vector, index.keys[rows])


def _fused(
    lexical: NDArray[np.float32],
    cosines: Vectors,
    dense: bool,
    options: RetrievalOptions,
) -> NDArray[np.float32]:
    if not len(lexical):
        return lexical
    if not dense:
        return lexical / max(float(lexical.max()), 1e-9)
    share = options.dense_weight
    if options.fusion == "rrf":
        return (1 - share) / (_RRF_K + _ranks(lexical)) + share / (_RRF_K + _ranks(cosines))
    return (1 - share) * lexical / max(float(lexical.max()), 1e-9) + share * cosines


def _ranks(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    ranks = np.empty(len(scores), np.float32)
    ranks[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    return ranks


def _one_per_entry(
    index: Index,
    rows: NDArray[np.int64],
    fused: NDArray[np.float32],
    cosines: Vectors,
    match: Match,
    language: Language,
    most: int,
) -> list[_Candidate]:
    """The best entries with their best scores, each shown in the asker's language if it can be."""
    ideal = max(match.ideal, 1e-9)
    best: dict[str, _Candidate] = {}
    for place in np.argsort(-fused, kind="stable"):
        row = int(rows[place])
        chunk = index.chunks[row]
        entry = chunk.entry
        known = best.get(entry)
        if known is None:
            if len(best) == most:
                continue
            best[entry] = _Candidate(
                chunk,
                float(fused[place]),
                float(match.scores[row]) / ideal,
                float(match.covered[row]) / ideal,
                float(cosines[place]),
                match.central,
            )
        elif known.chunk.lang != language and chunk.lang == language:
            known.chunk = chunk
    for one in best.values():
        if one.chunk.lang != language:
            twin = index.first_rows.get((one.chunk.entry, language))
            one.chunk = one.chunk if twin is None else index.chunks[twin]
    return list(best.values())


def _named_first(found: list[_Candidate], text: str, *, by_keyword: bool) -> list[_Candidate]:
    """Put the entry first that the question names by its whole title, and nothing else.

    Where no title is that, a keyword that only one entry has names it `by_keyword`.
    """
    name = subject_words(text)
    listed = found[:_LISTED] if name else []
    named = [one for one in listed if subject_words(one.chunk.title) == name]
    if not named and by_keyword:
        called = [one for one in listed if name in map(subject_words, one.chunk.keywords)]
        named = called if len(called) == 1 else []
    for one in named:
        one.score, one.named = found[0].score * _NAMED, True
    return sorted(found, key=lambda one: -one.score)


def _reranked(found: list[_Candidate], query: Query, reranker: Reranker) -> list[_Candidate]:
    texts = [f"{one.chunk.title}\n{one.chunk.text}" for one in found]
    if texts:
        for one, score in zip(found, reranker.scores(query.text, texts), strict=True):
            one.score = one.reranked = float(score)
    return sorted(found, key=lambda one: -one.score)


def _hits(found: Sequence[_Candidate], calibration: Calibration) -> list[Hit]:
    """Judge candidates; one that is ranked lower is never called likelier."""
    hits: list[Hit] = []
    ceiling = 1.0
    for place, one in enumerate(found):
        rival = found[1 if place == 0 else 0] if len(found) > 1 else None
        behind = rival.score if rival else 0.0
        lead = one.coverage * (one.score - behind) / max(found[0].score, 1e-9)
        reranked = 0.0 if one.reranked is None else one.reranked - 0.5
        signals = Signals(one.overlap, one.coverage, one.cosine, lead, reranked, one.central)
        ceiling = min(ceiling, calibration.probability(signals))
        hits.append(Hit(one.chunk, one.score, signals, ceiling, one.named))
    return hits
