"""Attention heads that are told where to look while the base is trained, so that it learns to find.

Finding the sentence that answers takes four steps, and so small a model seldom discovers them by
itself: a word of a document looks at the start of its sentence (layer 1), a word of a request looks
into the sentence asked for (layer 2), the answer's cue gathers what the request has found (layer
3), and the answer looks into that sentence (layer 4). One head each is taught to do the first,
second and fourth: the loss is the negative logarithm of the attention it pays to the right tokens.
At inference nothing is left of this.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch.utils.hooks import RemovableHandle
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

# Added to the attention paid, so that no single token's loss runs away; much of it for requests,
# where a word that says nothing ("please") must not be forced to look.
_FLOOR, _REQUEST_FLOOR = 1e-4, 0.05


@dataclass(frozen=True, slots=True)
class Places:
    """Where tokens stand, as tensors of shape (sequences, tokens); 0 means nowhere.

    `sentence` numbers the sentences of the documents, `starts` marks the first token of each,
    `wanted` is the sentence that a request's token is about, `answering` marks the tokens from
    the answer's cue on.
    """

    sentence: torch.Tensor
    starts: torch.Tensor
    wanted: torch.Tensor
    answering: torch.Tensor


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a layer's attention was called with."""

    hidden: torch.Tensor
    rotary: tuple[torch.Tensor, torch.Tensor]


@dataclass
class Guide:
    """Watches three layers of a model and says how far their heads look away."""

    model: LlamaForCausalLM
    seen: dict[int, _Seen] = field(default_factory=dict)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within, `loss` speaks of the last forward pass."""
        handles = [self._watch(layer) for layer in _LAYERS]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self.seen.clear()

    def loss(self, places: Places, mask: torch.Tensor) -> torch.Tensor:
        """The mean over the three heads, of the tokens that each is taught at.

        `mask` is what the model got: shape (sequences, 1, tokens, tokens), added to the scores.
        """
        inside = places.sentence > 0
        own_start = (places.sentence[:, :, None] == places.sentence[:, None, :]) & places.starts[
            :, None, :
        ]
        wanted = (places.wanted[:, :, None] == places.sentence[:, None, :]) & inside[:, None, :]
        asking = (places.wanted > 0) & ~places.answering
        return torch.stack(
            [
                self._looks(_START_LAYER, 2, mask, own_start, inside),
                self._looks(_REQUEST_LAYER, 0, mask, wanted, asking, _REQUEST_FLOOR),
                self._looks(_ANSWER_LAYER, 0, mask, wanted, (places.wanted > 0) & places.answering),
            ]
        ).mean()

    def _watch(self, layer: int) -> RemovableHandle:
        def remember(module: object, args: object, kwargs: dict[str, torch.Tensor]) -> None:
            rotary = kwargs["position_embeddings"]
            self.seen[layer] = _Seen(kwargs["hidden_states"], (rotary[0], rotary[1]))

        attention = self.model.model.layers[layer].self_attn
        handle: RemovableHandle = attention.register_forward_pre_hook(remember, with_kwargs=True)
        return handle

    def _looks(
        self,
        layer: int,
        head: int,
        mask: torch.Tensor,
        right: torch.Tensor,
        rows: torch.Tensor,
        floor: float = _FLOOR,
    ) -> torch.Tensor:
        """The mean of -log(attention of `head` on `right`) over the tokens marked in `rows`."""
        if not rows.any():
            return torch.zeros(())
        attention, seen = self.model.model.layers[layer].self_attn, self.seen[layer]
        part = slice(head * attention.head_dim, (head + 1) * attention.head_dim)
        query = seen.hidden @ attention.q_proj.weight[part].T
        key = seen.hidden @ attention.k_proj.weight[part].T
        turned, turned_key = apply_rotary_pos_emb(query[:, None], key[:, None], *seen.rotary)
        scores = (turned @ turned_key.transpose(-1, -2))[:, 0] * attention.scaling
        paid = torch.softmax(scores + mask[:, 0], -1)
        on_right = (paid * right).sum(-1)[rows]
        return -torch.log(on_right + floor).mean()


_START_LAYER, _REQUEST_LAYER, _ANSWER_LAYER = _LAYERS = (1, 2, 4)
