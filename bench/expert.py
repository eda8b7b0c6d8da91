"""The expert that is measured: the real engine on the real knowledge, with the settings shipped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.effort import Effort
from core.calibration import DEFAULT
from core.embedding import open_embedder
from core.engine import Engine
from core.index import Index, Recipe
from core.knowledge import load_knowledge
from core.messages import Platform, UserMessage
from core.model import ChatModel
from core.opening import engine_options, open_vision
from core.retrieval import RetrievalOptions, Retriever, Snapshot
from core.retrieval_eval import load_questions
from core.settings import Settings, at_root
from core.store import Store
from core.terms import Analyzer, load_lexicon

_IDS = count()


@dataclass(frozen=True)
class Expert:
    """What every measurement starts from; `folder` is for files, on the disk that is measured."""

    settings: Settings
    folder: Path
    effort: Effort
    model: Path

    @cached_property
    def recipe(self) -> Recipe:
        """How texts are indexed; without a dense leg where no embedder has been shipped."""
        analyzer = Analyzer(load_lexicon(at_root("data/synonyms.txt")))
        folder = at_root(self.settings.retrieval.embedding_model)
        return Recipe(analyzer, open_embedder(str(folder) if folder.is_dir() else "", "cpu"), "cpu")

    @cached_property
    def index(self) -> Index:
        """The shipped knowledge base."""
        knowledge = at_root(self.settings.retrieval.knowledge)
        return Index.of(self.recipe, load_knowledge(knowledge), knowledge.name)

    @cached_property
    def questions(self) -> list[str]:
        """Questions that the knowledge base answers, in Chinese and English."""
        return [one.text for one in load_questions(at_root("data/eval/retrieval.jsonl"))]

    def some_questions(self, number: int) -> list[str]:
        """So many of them, from all over the file."""
        step = max(1, len(self.questions) // number)
        return self.questions[::step][:number]

    def retriever(self, index: Index) -> Retriever:
        """A search of this index, which answers what it finds at all likely."""
        wanted = self.settings.retrieval
        options = RetrievalOptions(
            wanted.top_k, wanted.dense_weight, wanted.fusion, wanted.min_relevance
        )
        # Refusals are quicker than answers, and would flatter the figures.
        willing = replace(DEFAULT, answer_from=0.05, clarify_from=0.02)
        return Retriever(Snapshot(index, willing), options)

    def store(self) -> Store:
        """A new database."""
        return Store(f"sqlite:///{self.folder / f'store-{next(_IDS)}.db'}")

    def engine(self, store: Store, model: ChatModel) -> Engine:
        """The engine around a model, with everything else as shipped."""
        settings = self.settings

        async def choose_adapter(_user_id: str) -> str:
            return settings.model.base_model

        return Engine(
            store=store,
            retriever=self.retriever(self.index),
            vision=open_vision(settings),
            model=model,
            choose_adapter=choose_adapter,
            options=engine_options(settings),
        )


def message(text: str, conversation: str = "", max_tokens: int | None = None) -> UserMessage:
    """A question as it comes from the API, in a conversation of its own unless one is named."""
    number = next(_IDS)
    return UserMessage(
        id=f"message-{number}",
        platform=Platform.API,
        conversation_id=conversation or f"conversation-{number}",
        user_id=conversation or f"person-{number}",
        text=text,
        max_tokens=max_tokens,
    )


@contextmanager
def workplace(settings: Settings) -> Iterator[Path]:
    """A temporary folder on the disk of the database, not in memory as /tmp may be."""
    settings.state.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=settings.state, prefix="bench-") as folder:
        yield Path(folder)
