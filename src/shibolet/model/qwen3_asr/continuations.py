"""How likely texts are after prompts that rows hold: the audio is neither encoded nor read again.

The last hidden state of a prompt gives the first label's logit; the text's tokens enter packed, without padding, and
attend to the keys and values of their row's prompt and to the tokens before them.

Shapes: U texts, T tokens, K keys, L labels, R rows, D model dim.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from shibolet.model.fast.device import send_to
from shibolet.model.fast.kernels import cross_entropy_
from shibolet.model.qwen3_asr.packed import CACHE, output_head, packed_attention
from shibolet.model.qwen3_asr.rows import OldPrompts, Rows

PASS_KEYS = 65_536  # of one forward at most: 270 MB a layer at the real size
LOGIT_ROWS = 2048  # at once: 150,000 tokens each are 0.6 GB in bf16


@dataclass(frozen=True, slots=True)
class Text:
    """What may follow the prompt of a row: its tokens with their end are the labels."""

    row: int
    num_prompt: int  # tokens of the prompt
    labels: Sequence[int]


def continuation_logps(model: PreTrainedModel, rows: Rows, texts: Sequence[Text]) -> Tensor:
    """Log-probability of each label of each text in turn, `[L]` float32; nothing waits for the device."""
    return torch.cat([_one_pass(model, rows, part) for part in _passes(texts)])


def _passes(texts: Sequence[Text]) -> Iterator[list[Text]]:
    part, num_keys = [], 0
    for text in texts:
        own = text.num_prompt + len(text.labels)
        if part and num_keys + own > PASS_KEYS:
            yield part
            part, num_keys = [], 0
        part.append(text)
        num_keys += own
    if part:
        yield part


def _one_pass(model: PreTrainedModel, rows: Rows, texts: Sequence[Text]) -> Tensor:
    hidden, nums_own = rows.hidden, np.array([len(text.labels) - 1 for text in texts])  # the end is only a label
    if longer := [text for text in texts if len(text.labels) > 1]:
        hidden = torch.cat([hidden, _hidden_after(model, rows, longer)])
    places, firsts = [], np.cumsum(nums_own) - nums_own + rows.num_rows
    for text, first, num_own in zip(texts, firsts, nums_own, strict=True):
        places += [[text.row], np.arange(first, first + num_own)]
    labels = np.concatenate([text.labels for text in texts])
    at, labels = _send_all(model.device, np.concatenate(places), labels)
    losses = [
        cross_entropy_(output_head(model)(hidden.index_select(0, own)), own_labels)
        for own, own_labels in zip(at.split(LOGIT_ROWS), labels.split(LOGIT_ROWS), strict=True)
    ]
    return -torch.cat(losses)


def _hidden_after(model: PreTrainedModel, rows: Rows, texts: Sequence[Text]) -> Tensor:
    """Last hidden states `[T, D]` at the tokens of each text but its end."""
    nums_own = np.array([len(text.labels) - 1 for text in texts])
    nums_keys = nums_own + [text.num_prompt for text in texts]
    positions = [np.arange(text.num_prompt, num_keys) for text, num_keys in zip(texts, nums_keys, strict=True)]
    source = np.concatenate([
        text.row * rows.num_positions + np.minimum(np.arange(num_keys), text.num_prompt - 1)
        for text, num_keys in zip(texts, nums_keys, strict=True)
    ])  # fmt: skip
    own = np.concatenate([first + at for first, at in zip(np.cumsum(nums_keys) - nums_keys, positions, strict=True)])
    boundaries = [np.concatenate(([0], lengths.cumsum())) for lengths in (nums_own, nums_keys)]
    labels = np.concatenate([text.labels[:-1] for text in texts])
    source = np.concatenate((source, source + rows.keys[0].shape[0]))  # keys, then values
    ids, positions, source, own, *boundaries = _send_all(
        model.device, labels, np.concatenate(positions), source, own, *boundaries
    )
    own_boundaries, key_boundaries = (each.to(torch.int32) for each in boundaries)
    with packed_attention(model):
        return model.model.language_model(
            inputs_embeds=model.get_input_embeddings()(ids)[None],
            attention_mask={"full_attention": None},
            position_ids=positions[None],
            **{CACHE: OldPrompts(rows, source, own)},
            use_cache=True,
            cu_seq_lens_q=own_boundaries,
            cu_seq_lens_k=key_boundaries,
            max_length_q=int(nums_own.max()),
            max_length_k=int(nums_keys.max()),
        ).last_hidden_state[0]


def _send_all(device: torch.device, *arrays: np.ndarray) -> Sequence[Tensor]:
    """Arrays of whole numbers on a device, in one copy."""
    together = send_to(device, torch.from_numpy(np.concatenate(arrays)))
    return together.split_with_sizes([len(array) for array in arrays])
