"""Pairs that are trained on beside people's, so that a model goes on answering all else as it did.

They look like what is served every day: a question with its passages, mostly the one that answers
it, and the whole of that told in talk. Where people's few pairs are all of one kind, it is by these
that the model tells when that kind is wanted and when it is not. So they ask what no training has
asked before: questions that a model knows by heart it answers as ever, whatever it does to others.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from core.knowledge import sentences
from core.messages import Passage
from core.prompt import build_prompt
from training.corpus import Corpus
from training.dpo_rows import ShippedPair, kept_for_measuring
from training.material import Entry, Material
from training.rows import ReminderRow
from training.sft_rows import Row
from training.spoken import spoken_entry

# How often a question that is answered comes with so many passages.
_PASSAGES = {1: 0.65, 2: 0.2, 3: 0.15}


def make_anchors(
    material: Material, reminders: Sequence[ReminderRow], seed: int
) -> list[ShippedPair]:
    """A pair about each of these questions, in another order for another seed.

    *Chosen* is talk by rule: the shipped model learns only from answers that it could give already,
    and hand-written ones are beyond it. *Rejected* is the entry's first sentence alone: a model
    that was corrected where it said too much must not cut short all else as well. What is about an
    entry that training may not see, or that is kept for measuring, is left out.
    """
    dice = random.Random(seed)
    corpus = Corpus(material)
    pairs = []
    for reminder in dice.sample(reminders, len(reminders)):
        entry = material.entries.get(reminder.entry)
        if entry is None or kept_for_measuring(entry.id):
            continue
        passages = list(_passages(dice, corpus, entry))
        prompt = build_prompt(reminder.question, language=entry.lang, passages=passages)
        row = Row(prompt, sentences(entry.text)[0], "answered", entry.id)
        pairs.append(ShippedPair(row, spoken_entry(dice, entry)))
    return pairs


def _passages(dice: random.Random, corpus: Corpus, entry: Entry) -> Iterator[Passage]:
    """The answering passage, and seldom others after it."""
    (count,) = dice.choices(list(_PASSAGES), list(_PASSAGES.values()))
    yield entry.passage()
    for other in corpus.neighbours(dice, entry, count - 1)[1:]:
        yield other.passage()
