"""Review on the terminal: one pair after the other, with its context, the difference, and a key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.text import Text

from core.errors import NotFound, SolemateError
from core.messages import ChatMessage, Passage, Turn
from core.printing import printable
from core.second_answers import own_text
from core.store import Store
from training.collect import PairRules, write_pair
from training.filters import Objection, Pool
from training.pairs import OPEN, PairState, PreferencePair, pair_named, read_pairs
from training.review import (
    accept,
    accepts_needed,
    add,
    decide,
    differences,
    edit,
    refuse,
    unanswered,
    waiting,
)
from training.verdicts import Verdict

_STYLES = {"same": "", "only_rejected": "red strike", "only_chosen": "bold green"}
_WORDS = {"a": "accepted", "e": "edited", "r": "refused"}


@dataclass(slots=True)
class ReviewDesk:
    """Who reviews, by which rules, and how they are asked; `read` raises EOFError at the end."""

    store: Store
    rules: PairRules
    operator: str
    console: Console
    read: Callable[[str], str]
    clock: Callable[[], float]
    done: Counter[str] = field(default_factory=Counter)

    async def review(self, pairs: Sequence[PreferencePair] | None = None) -> Counter[str]:
        """Show these pairs, by default all that wait; how many were accepted, edited, …"""
        found = await waiting(self.store) if pairs is None else pairs
        for number, pair in enumerate(found, 1):
            self._show(pair, f"{number} of {len(found)}")
            if not await self._decide(pair):
                break
        return self.done

    async def answer(self) -> Counter[str]:
        """Show the thumbs-down that nobody has answered, and take better answers to them."""
        found = await unanswered(self.store)
        for number, (verdict, turn) in enumerate(found, 1):
            self._show_case(verdict, turn, f"{number} of {len(found)}")
            if not await self._write(verdict, turn):
                break
        return self.done

    async def _decide(self, pair: PreferencePair) -> bool:
        """Take a decision on one pair; false to stop."""
        while True:
            key = self._ask("accept, edit, refuse, skip, quit [a/e/r/s/q]")
            if key == "q":
                return False
            if key == "s":
                self.done["skipped"] += 1
                return True
            after = await self._after(pair, key)
            if after is not None and await self._commit(pair, after):
                self.done[_WORDS[key]] += 1
                return True

    async def _after(self, pair: PreferencePair, key: str) -> PreferencePair | None:
        match key:
            case "a":
                return accept(pair, self.operator, self.rules.policy)
            case "e":
                return await self._edited(pair)
            case "r":
                return refuse(pair, self.operator, self._ask("why (may be empty)", raw=True))
        self._say("Type one of the letters a, e, r, s and q.", "yellow")
        return None

    async def _edited(self, pair: PreferencePair) -> PreferencePair | None:
        text = self._ask("the better answer (empty: leave it)", raw=True)
        if not text:
            return None
        result = edit(pair, text, self.operator, self.rules.measures, await self._pool(pair))
        if isinstance(result, Objection):
            self._say(f"Not taken: {result.sentence}.", "yellow")
            return None
        return result

    async def _commit(self, before: PreferencePair, after: PreferencePair) -> bool:
        try:
            await decide(self.store, before, after, self.operator, self.clock())
        except SolemateError as exc:
            self._say(str(exc), "red")
            return True
        if after.state is PairState.WAITING:
            needed = accepts_needed(after, self.rules.policy)
            self._say(
                f"{len(after.accepted_by)} of {needed} accepts; another operator has to accept it "
                "too (feedback.typed_accepts).",
                "cyan",
            )
        return True

    async def _write(self, verdict: Verdict, turn: Turn) -> bool:
        while True:
            text = self._ask("a better answer (empty: skip, q: quit)", raw=True)
            if text in ("", "q"):
                self.done["skipped"] += text == ""
                return text == ""
            pair = write_pair(verdict, turn, text)
            result = edit(pair, text, self.operator, self.rules.measures, await self._pool(pair))
            if isinstance(result, Objection):
                self._say(f"Not taken: {result.sentence}.", "yellow")
            elif await add(self.store, result, self.operator, self.clock()):
                self.done["written"] += 1
                return True
            elif await self._is_known(result):
                known = f"solemate pairs review {result.id[:8]}"
                self._say(f"This answer was refused before; `{known}` takes it up again.", "yellow")
            else:
                self._say("Not kept: what it answers has been erased meanwhile.", "yellow")
                return True

    async def _is_known(self, pair: PreferencePair) -> bool:
        try:
            return bool(await pair_named(self.store, pair.id))
        except NotFound:
            return False

    async def _pool(self, pair: PreferencePair) -> Pool:
        """The open pairs but this one: it is no duplicate of itself."""
        found = await read_pairs(self.store, OPEN)
        return Pool([one for one in found if one.whole and one.id != pair.id])

    def _ask(self, question: str, *, raw: bool = False) -> str:
        try:
            said = self.read(f"{question}: ").strip()
        except EOFError:
            return "q" if not raw else ""
        return said if raw else said[:1].lower()

    def _show(self, pair: PreferencePair, place: str) -> None:
        needed = accepts_needed(pair, self.rules.policy)
        facts = (
            f"pair {pair.id[:8]}",
            pair.origin,
            pair.language,
            pair.reason or "no reason",
            pair.adapter or "imported",
            f"{len(pair.accepted_by)} of {needed} accepts",
        )
        self._head(place, facts)
        if pair.refusal:
            self._say(f"! {pair.refusal}", "yellow")
        self._context(pair.prompt, pair.passages, pair.question)
        self._field("rejected", pair.rejected)
        self._field("chosen", pair.chosen)
        changes = Text("difference: ", style="dim")
        for change in differences(pair.rejected, pair.chosen):
            changes.append(printable(change.text), style=_STYLES[change.kind] or "not dim")
        self.console.print(changes)

    def _show_case(self, verdict: Verdict, turn: Turn, place: str) -> None:
        self._head(place, (verdict.language, verdict.reason or "no reason", verdict.adapter))
        self._context(turn.prompt, turn.passages, verdict.question)
        self._field("disliked", own_text(turn))
        if verdict.comment:
            self._field("comment", verdict.comment)

    def _context(
        self, prompt: Sequence[ChatMessage], passages: Sequence[Passage], question: str
    ) -> None:
        for message in prompt[1:-1]:
            self._say(f"  {message.role}: {message.content}", "dim")
        for passage in passages:
            self._say(f"  · {passage.title}: {passage.text}", "dim")
        self._field("question", question)

    def _head(self, place: str, facts: Sequence[str]) -> None:
        self.console.rule(Text(f"{place} · {' · '.join(facts)}"))

    def _field(self, name: str, text: str) -> None:
        self.console.print(Text.assemble((f"{name}: ", "bold"), printable(text)))

    def _say(self, text: str, style: str) -> None:
        self.console.print(Text(printable(text), style=style))
