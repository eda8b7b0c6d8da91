"""Starting weights that can already copy: a previous-token head and induction heads, written in.

A model this small finds copying by itself only after millions of tokens, if at all (Olsson et al.,
"In-context Learning and Induction Heads", 2022, describe the circuit). Here it is written into
layers 0 and 1 before training: head 0 of layer 0 notes in a spare subspace which token came before;
heads 0 and 1 of layer 1 look for places whose note equals the current token and copy what stands
there; heads 0 and 1 of layer 2 look for the current token itself elsewhere. Training is free to
change all of it.
"""

from __future__ import annotations

import torch
from transformers import LlamaForCausalLM

_SPREAD = 0.3  # size of an embedding's parts
_PREVIOUS_SHARPNESS = 7.0  # the offset of -1 beats -2 by about 6 nats
_MATCH_LOGIT = 20.0  # attention logit where note and token agree
_SAME_LOGIT = 14.0  # the same where token and token agree
_NOTE_GAIN = 2.0
_COPY_GAIN = 6.0
_SLOW = 0.004  # radians a position; slower rotary pairs compare content, not place


def seed_induction(model: LlamaForCausalLM, seed: int) -> None:
    """Overwrite the embedding and some heads of the first three layers, in place.

    Every embedding gets one constant direction that queries and keys can lean on. The rotary
    embedding is the usual one that turns the two halves of a head against each other.
    """
    config = model.config
    width, head = config.hidden_size, config.hidden_size // config.num_attention_heads
    half = head // 2
    dice = torch.Generator().manual_seed(seed)
    speed = config.rope_parameters["rope_theta"] ** (-torch.arange(half).float() / half)
    slow = torch.nonzero(speed < _SLOW).flatten()
    matched = min(2 * len(slow), head)
    basis = torch.linalg.qr(torch.randn(width, width, generator=dice))[0].T
    constant, notes, content = basis[0], basis[1 : 1 + matched], basis[1 + matched :]

    with torch.no_grad():
        length = _SPREAD * content.shape[0] ** 0.5
        spread = torch.randn(config.vocab_size, content.shape[0], generator=dice) * _SPREAD
        faint = torch.randn(config.vocab_size, matched, generator=dice) * 0.1 * _SPREAD
        model.model.embed_tokens.weight.copy_(spread @ content + faint @ notes + length * constant)
        norm = (2 / width) ** 0.5 * length  # the root mean square that RMSNorm divides by

        first = model.model.layers[0].self_attn
        query = torch.cat([torch.ones(half), torch.zeros(half)])
        key = torch.cat([speed.cos(), speed.sin()])
        leaning = constant / (length / norm)
        first.q_proj.weight[:head] = _PREVIOUS_SHARPNESS * query[:, None] * leaning
        first.k_proj.weight[:head] = _PREVIOUS_SHARPNESS * key[:, None] * leaning
        first.v_proj.weight[:head] = 0
        first.v_proj.weight[:matched] = content[:matched]
        first.o_proj.weight[:, :head] = 0
        first.o_proj.weight[:, :matched] = (_NOTE_GAIN * norm * notes).T

        second = model.model.layers[1].self_attn
        turning = torch.cat([slow, slow + half])[:matched]
        scale = (_MATCH_LOGIT * head**0.5 / (matched * (_SPREAD / norm) ** 2 * _NOTE_GAIN)) ** 0.5
        for index in range(min(2, config.num_attention_heads)):
            rows = slice(index * head, (index + 1) * head)
            copied = content[index * head : (index + 1) * head]
            second.q_proj.weight[rows] = 0
            second.k_proj.weight[rows] = 0
            second.v_proj.weight[rows] = 0
            second.q_proj.weight[index * head + turning] = scale * content[:matched]
            second.k_proj.weight[index * head + turning] = scale * notes
            second.v_proj.weight[index * head : index * head + copied.shape[0]] = copied
            second.o_proj.weight[:, index * head : index * head + copied.shape[0]] = (
                _COPY_GAIN * norm * copied
            ).T
        for layer in model.model.layers[2:3]:
            same = (_SAME_LOGIT * head**0.5 / (matched * (_SPREAD / norm) ** 2)) ** 0.5
            for index in range(min(2, config.num_attention_heads)):
                for weight in (layer.self_attn.q_proj.weight, layer.self_attn.k_proj.weight):
                    weight[index * head : (index + 1) * head] = 0
                    weight[index * head + turning] = same * content[:matched]
        # The tied output must not start out too sure of itself.
        model.model.norm.weight.fill_(1.5 / (_SPREAD * width**0.5))
