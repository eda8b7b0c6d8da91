"""The base model: a small Llama, trained from nothing on the corpus, resumable and repeatable."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from training.corpus import Corpus, Exercise, Place, request_text
from training.guidance import Guide, Places
from training.induction import seed_induction
from training.muon import Muon
from training.tokenizer import END, START
from training.weights import save_halved

NEWLINE = "\n"
_CHECKPOINT = "checkpoint.pt"
_POOL = 128  # sequences that are sorted by length together, so that batches hold little padding
_GUIDANCE = 0.6  # weight of the heads' loss beside the text's
_UNSEEN = torch.finfo(torch.float32).min


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of the model; 4.7 million parameters as it stands."""

    layers: int = 6
    width: int = 256
    heads: int = 4
    inner: int = 384
    context: int = 1024

    def __post_init__(self) -> None:
        assert self.layers >= 5, "guided heads sit in layers 1, 2 and 4"
        assert self.heads >= 3, "guided heads have the numbers 0 and 2"


@dataclass(frozen=True, slots=True)
class PretrainPlan:
    """How long and how fast; `tokens` counts what is read, padding left out."""

    tokens: int = 7_000_000
    batch_tokens: int = 3_000
    muon_rate: float = 0.012
    adam_rate: float = 2.5e-3
    warmup_share: float = 0.02
    decay_share: float = 0.35
    plain_share: float = 0.08
    seed: int = 17
    save_every: int = 2


@dataclass(frozen=True, slots=True)
class Step:
    """Where the training is: tokens read, of how many, and the last loss (nats a token)."""

    tokens: int
    total: int
    loss: float


@dataclass(frozen=True, slots=True)
class Tokens:
    """One training sequence, as lists of one length.

    `block` is 0 for what every request sees and 1, 2, … for the requests, which do not see one
    another; `taught` marks the tokens whose prediction is learned. `sentence` numbers the sentences
    of the documents (or the documents, where those are asked for) from 1, `wanted` the one that a
    request's token is about.
    """

    ids: list[int] = field(default_factory=list)
    block: list[int] = field(default_factory=list)
    taught: list[bool] = field(default_factory=list)
    sentence: list[int] = field(default_factory=list)
    wanted: list[int] = field(default_factory=list)

    def add(
        self,
        ids: Sequence[int],
        *,
        block: int = 0,
        taught: bool = False,
        sentence: int = 0,
        wanted: int = 0,
    ) -> None:
        """Append tokens that have all of this in common."""
        self.ids.extend(ids)
        self.block.extend([block] * len(ids))
        self.taught.extend([taught] * len(ids))
        self.sentence.extend([sentence] * len(ids))
        self.wanted.extend([wanted] * len(ids))


def new_model(tokenizer: PreTrainedTokenizerFast, shape: Shape, seed: int) -> LlamaForCausalLM:
    """A Llama with starting weights that can already copy; the same seed gives the same ones."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=shape.context,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config._attn_implementation = "sdpa"
    model = LlamaForCausalLM(config)
    seed_induction(model, seed)
    return model


def encode_exercise(tokenizer: PreTrainedTokenizerFast, exercise: Exercise, limit: int) -> Tokens:
    """The exercise as tokens; only answers are taught. Requests beyond `limit` are left out."""
    encoded = Tokens()
    encoded.add(_ids(tokenizer, START))
    units: dict[Place, int] = {}
    for number, document in enumerate(exercise.documents):
        # Where whole documents are asked for, the title belongs to what is to be found.
        unit = len(units) + 1 if exercise.whole else 0
        encoded.add(_ids(tokenizer, f"{NEWLINE if number else ''}<doc {number + 1}"))
        encoded.add(_ids(tokenizer, f" {document.title}"), sentence=unit)
        encoded.add(_ids(tokenizer, f">{NEWLINE}"), sentence=unit)
        for place, sentence in enumerate(document.sentences):
            units[number, place] = unit or len(units) + 1
            joint = document.joint if place else ""
            encoded.add(_ids(tokenizer, joint + sentence), sentence=units[number, place])
        encoded.add(_ids(tokenizer, f"{NEWLINE}</doc>"))
    for block, request in enumerate(exercise.requests, 1):
        wanted = units[request.place] if request.place else 0
        asked = _ids(tokenizer, request_text(request))
        said = _ids(tokenizer, request.answer + END)
        if len(encoded.ids) + len(asked) + len(said) > limit:
            break
        encoded.add(asked, block=block, wanted=wanted)
        encoded.add(said, block=block, wanted=wanted, taught=True)
    return encoded


def encode_plain(tokenizer: PreTrainedTokenizerFast, text: str, limit: int) -> Tokens:
    """Plain text as tokens; all of it is taught."""
    ids = _ids(tokenizer, START + text + END)[:limit]
    encoded = Tokens()
    encoded.add(ids[:1])
    encoded.add(ids[1:], taught=True)
    return encoded


def pretrain(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    corpus: Corpus,
    plan: PretrainPlan,
    folder: Path,
    on_step: Callable[[Step], None] = lambda step: None,
) -> None:
    """Train `model` in place and save it with its tokenizer to `folder`.

    A checkpoint in `folder` is taken up where it ended: batches depend on the seed and on how
    many there were, not on the process. It is removed when the model is saved.
    """
    folder.mkdir(parents=True, exist_ok=True)
    optimizers = _optimizers(model, plan)
    state = _State.load(folder / _CHECKPOINT, model, optimizers)
    guide = Guide(model)
    model.train()
    while state.tokens < plan.tokens:
        for batch in _batches(tokenizer, corpus, plan, state):
            if state.tokens >= plan.tokens:
                break
            _set_rates(optimizers, plan, state.tokens / plan.tokens)
            loss = _learn(guide, batch, optimizers)
            state.tokens += batch.size
            on_step(Step(state.tokens, plan.tokens, loss))
        state.pools += 1
        if state.pools % plan.save_every == 0:
            state.save(folder / _CHECKPOINT, model, optimizers)
    save_model(model, tokenizer, folder)
    (folder / _CHECKPOINT).unlink(missing_ok=True)


def save_model(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the weights in half precision, with configuration and tokenizer."""
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    save_halved(model, folder)
    tokenizer.save_pretrained(folder)


@dataclass(frozen=True, slots=True)
class Batch:
    """Tensors of shape (sequences, tokens); the mask is (sequences, 1, tokens, tokens)."""

    ids: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    taught: torch.Tensor
    places: Places
    size: int


def collate(sequences: Sequence[Tokens], pad: int) -> Batch:
    """Pad on the right. A request's positions follow the reading, as if it were the only one."""
    ids = _padded([one.ids for one in sequences], pad)
    block = _padded([one.block for one in sequences], -1)
    sentence = _padded([one.sentence for one in sequences], 0)
    taught = _padded([one.taught for one in sequences], 0).bool()
    # The cue is the last two tokens before the answer: they look for the sentence as well.
    answering = taught.clone()
    for shift in (1, 2):
        answering[:, :-shift] |= taught[:, shift:]
    before = torch.zeros_like(sentence)
    before[:, 1:] = sentence[:, :-1]
    longest = ids.shape[1]
    same = block[:, :, None] == block[:, None, :]
    seen = torch.ones(longest, longest, dtype=torch.bool).tril() & (same | (block == 0)[:, None, :])
    return Batch(
        ids=ids,
        positions=_padded([list(_positions(one.block)) for one in sequences], 0),
        mask=torch.zeros(seen.shape).masked_fill(~seen, _UNSEEN)[:, None],
        taught=taught,
        places=Places(
            sentence=sentence,
            starts=(sentence > 0) & (sentence != before),
            wanted=_padded([one.wanted for one in sequences], 0),
            answering=answering,
        ),
        size=int((block >= 0).sum()),
    )


def loss_of(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """The mean loss over the taught tokens; logits are computed for those alone."""
    hidden = model.model(
        input_ids=batch.ids,
        position_ids=batch.positions,
        attention_mask=batch.mask,
        use_cache=False,
    ).last_hidden_state
    logits = model.lm_head(hidden[:, :-1][batch.taught[:, 1:]])
    return functional.cross_entropy(logits, batch.ids[:, 1:][batch.taught[:, 1:]])


@dataclass
class _State:
    """How far the training has come."""

    pools: int = 0
    tokens: int = 0

    @classmethod
    def load(
        cls, path: Path, model: LlamaForCausalLM, optimizers: Sequence[torch.optim.Optimizer]
    ) -> _State:
        if not path.exists():
            return cls()
        saved = torch.load(path, weights_only=True)
        model.load_state_dict(saved["model"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        return cls(saved["pools"], saved["tokens"])

    def save(
        self, path: Path, model: LlamaForCausalLM, optimizers: Sequence[torch.optim.Optimizer]
    ) -> None:
        fresh = path.with_suffix(".new")
        torch.save(
            {
                "model": model.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "pools": self.pools,
                "tokens": self.tokens,
            },
            fresh,
        )
        fresh.replace(path)


def _batches(
    tokenizer: PreTrainedTokenizerFast, corpus: Corpus, plan: PretrainPlan, state: _State
) -> Iterator[Batch]:
    """The batches of one pool, each of about `batch_tokens`, in shuffled order."""
    dice = random.Random(f"{plan.seed}:{state.pools}")
    progress = state.tokens / plan.tokens
    limit = 1024
    sequences = sorted(
        (
            encode_plain(tokenizer, corpus.plain(dice), limit)
            if dice.random() < plan.plain_share
            else encode_exercise(tokenizer, corpus.exercise(dice, progress), limit)
            for _ in range(_POOL)
        ),
        key=lambda one: len(one.ids),
    )
    groups: list[list[Tokens]] = [[]]
    for one in sequences:
        if groups[-1] and (len(groups[-1]) + 1) * len(one.ids) > plan.batch_tokens:
            groups.append([])
        groups[-1].append(one)
    dice.shuffle(groups)
    pad = tokenizer.pad_token_id
    return (collate(group, pad) for group in groups)


def _learn(guide: Guide, batch: Batch, optimizers: Sequence[torch.optim.Optimizer]) -> float:
    """One optimizer step; the loss of the text alone."""
    model = guide.model
    with guide.watching():
        loss = loss_of(model, batch)
        looking = guide.loss(batch.places, batch.mask)
    torch.autograd.backward(loss + _GUIDANCE * looking)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


def _optimizers(model: LlamaForCausalLM, plan: PretrainPlan) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the matrices inside, AdamW for the embedding and the norms."""
    inside: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, weight in model.named_parameters():
        (inside if weight.ndim == 2 and "embed" not in name else others).append(weight)
    return (
        Muon(inside, lr=plan.muon_rate),
        torch.optim.AdamW(others, lr=plan.adam_rate, betas=(0.9, 0.98), weight_decay=0.0),
    )


def _set_rates(
    optimizers: Sequence[torch.optim.Optimizer], plan: PretrainPlan, progress: float
) -> None:
    """Warm up, hold, then fall linearly to a twentieth."""
    scale = min(1.0, (progress + 1e-3) / plan.warmup_share, (1.05 - progress) / plan.decay_share)
    for optimizer, rate in zip(optimizers, (plan.muon_rate, plan.adam_rate), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, scale)


def _positions(block: Sequence[int]) -> Iterator[int]:
    shared = sum(1 for number in block if number == 0)
    current, place = 0, -1
    for number in block:
        if number != current:
            current, place = number, shared - 1
        place += 1
        yield place


def _padded(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *([value] * (longest - len(row)))] for row in rows])


def _ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids
