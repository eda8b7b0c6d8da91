"""People who ask, like and dislike: turns and verdicts in a real store, and rules to collect by."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import sqlalchemy as sa

from core.messages import (
    ChatMessage,
    Feedback,
    Language,
    Outcome,
    Passage,
    Platform,
    Rating,
    Reason,
    Reply,
    Source,
    Turn,
)
from core.prompt import build_prompt
from core.store import Store
from core.tables import duels
from training.collect import PairRules
from training.filters import Measures, SensitiveWords
from training.judge import SecondTry
from training.pairs import Origin, PairState, PoolRules, PreferencePair, Review, pair_id
from training.review import ReviewPolicy

DAY = 86_400.0
NOW = 1_000 * DAY
QUESTION = "帆布鞋怎么洗？"
PASSAGE = Passage(
    "canvas",
    "清洗帆布鞋",
    "帆布鞋用软刷蘸 30 度温水和中性洗衣液轻轻刷洗，鞋带拆下来单独洗。"
    "洗好后塞纸，放在阴凉通风处晾干，不要暴晒，否则会发黄。",
    "written",
    "care",
    "zh",
    0.9,
)
ANSWER = "您好，帆布鞋用软刷蘸 30 度温水轻轻刷洗，洗好后塞纸，放在阴凉处晾干。"
BETTER = "嗨，用软刷蘸 30 度温水和中性洗衣液轻轻刷就行，别暴晒，不然会发黄哦～"
WORDS = SensitiveWords.load(Path(__file__).parents[2] / "data" / "sensitive_words.txt")


def count_characters(prompt: Sequence[ChatMessage], answer: str) -> int:
    """A token a character."""
    return sum(len(message.content) for message in prompt) + len(answer)


MEASURES = Measures(WORDS, count_characters, 2_000)


def rules(
    review: Review = "none",
    *,
    typed_accepts: int = 2,
    pairs_per_person: int = 3,
    quarantine_seconds: float = 0.0,
    train_on_chats: bool = True,
    second_try: SecondTry | None = None,
) -> PairRules:
    return PairRules(
        ReviewPolicy(review, typed_accepts),
        PoolRules(pairs_per_person, quarantine_seconds, train_on_chats),
        MEASURES,
        second_try,
    )


def make_pair(
    chosen: str = BETTER,
    rejected: str = ANSWER,
    *,
    user: str = "ann",
    question: str = QUESTION,
    passage: Passage = PASSAGE,
    language: Language = "zh",
    created_at: float = NOW,
    origin: Origin = Origin.CORRECTION,
    state: PairState = PairState.WAITING,
) -> PreferencePair:
    """A pair as it is collected, before any filter."""
    reply_id = f"r-{user}-{question}"
    return PreferencePair(
        id=pair_id(reply_id, user, chosen),
        reply_id=reply_id,
        user_id=user,
        conversation_id="",
        origin=origin,
        prompt=build_prompt(question, language=language, passages=(passage,)),
        passages=(passage,),
        chosen=chosen,
        rejected=rejected,
        adapter="shoes-v1",
        language=language,
        reason=None,
        state=state,
        refusal="",
        accepted_by=(),
        created_at=created_at,
    )


@dataclass
class World:
    """Asks and rates; a new reply id for each question."""

    store: Store
    asked: int = 0
    turns: dict[str, Turn] = field(default_factory=dict)

    async def ask(
        self,
        question: str = QUESTION,
        answer: str = ANSWER,
        *,
        user: str = "ann",
        passages: tuple[Passage, ...] = (PASSAGE,),
        history: Sequence[ChatMessage] = (),
        outcome: Outcome = Outcome.ANSWERED,
        complete: bool = True,
        adapter: str = "shoes-v1",
        failure: str = "",
        language: Language = "zh",
        conversation: str = "",
    ) -> str:
        """Store a question and its answer; the reply's id."""
        self.asked += 1
        reply_id = f"reply-{self.asked}"
        reply = Reply(
            id=reply_id,
            conversation_id=conversation or f"chat-{user}-{self.asked}",
            text=answer,
            outcome=outcome,
            language=language,
            sources=tuple(map(Source.of, passages)),
            adapter="" if failure else adapter,
            complete=complete and not failure,
        )
        prompt = build_prompt(question, language=language, passages=passages, history=history)
        turn = Turn(
            reply=reply,
            message_id=f"m-{self.asked}",
            user_id=user,
            platform=Platform.WEB,
            question=question,
            query=question,
            prompt=prompt,
            passages=passages,
            sampling={"max_tokens": 200},
            asked_at=NOW - DAY,
            asked=adapter,
            failure=failure,
        )
        await self.store.add_turn(turn)
        self.turns[reply_id] = turn
        return reply_id

    async def rate(
        self,
        reply_id: str,
        rating: Rating,
        correction: str = "",
        *,
        user: str = "ann",
        reason: Reason | None = None,
        comment: str = "",
        at: float = NOW,
    ) -> None:
        feedback = Feedback(reply_id, user, rating, reason, comment, correction)
        await self.store.add_feedback(feedback, now=at)

    async def dislike(
        self,
        reply_id: str,
        correction: str = "",
        *,
        user: str = "ann",
        reason: Reason | None = None,
        at: float = NOW,
    ) -> None:
        await self.rate(reply_id, Rating.DOWN, correction, user=user, reason=reason, at=at)

    async def like(self, reply_id: str, *, user: str = "bob", at: float = NOW) -> None:
        await self.rate(reply_id, Rating.UP, user=user, at=at)

    async def duel(self, reply_id: str, text: str, winner: str, *, user: str = "ann") -> None:
        """A person compared the reply with `text`, and chose."""
        row = {
            "id": f"duel-{reply_id}-{user}",
            "reply_id": reply_id,
            "user_id": user,
            "text": text,
            "adapter": "shoes-v2",
            "winner": winner,
            "created_at": NOW,
            "decided_at": NOW,
        }
        await self.store.run(lambda connection: connection.execute(sa.insert(duels).values(row)))


@asynccontextmanager
async def opened_world(url: str) -> AsyncIterator[World]:
    async with Store(url) as store:
        yield World(store)


def accepted_pair(pair: PreferencePair) -> PreferencePair:
    return replace(pair, state=PairState.ACCEPTED)
