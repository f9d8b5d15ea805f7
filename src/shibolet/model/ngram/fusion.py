"""Shallow fusion: a beam's log-probability, and with a weight that of an n-gram (Gulcehre et al. 2015, "On using
monolingual corpora in neural machine translation", section 4.1)."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from shibolet.model.family import LoadedModel
from shibolet.model.ngram.arpa import read_arpa
from shibolet.model.ngram.table import Ngram
from shibolet.model.protocols import Decoding


class Fusion:
    """An n-gram on a device, which `processors` adds to what `generate` finds."""

    def __init__(self, ngram: Ngram, weight: float, stop_ids: Sequence[int], device: torch.device) -> None:
        """`stop_ids` are all ids that end a text: each has the probability of the end."""
        self._ngram, self.weight, self._device = ngram, weight, device
        self._unigrams = torch.tensor(ngram.unigrams(), dtype=torch.float32, device=device)
        self._others = [id for id in stop_ids if id != ngram.end_id]

    def processors(self, num_prompt: int) -> LogitsProcessorList:
        """For one call of `generate` with prompts of so many tokens, padding counted."""
        return LogitsProcessorList([_AddNgram(self, num_prompt)])

    def logps(self, written: Tensor) -> Tensor:
        """Log-probabilities `[R, V]` of the next token of texts that begin with the ids `[R, T]`."""
        longest = len(self._ngram.orders) - 1
        begin = np.full((len(written), 1), self._ngram.begin_id)
        contexts = np.hstack([begin, written.cpu().numpy()])[:, max(0, 1 + written.shape[1] - longest) :]
        loss, overrides = self._ngram.after(contexts)
        to_device = lambda values, dtype: torch.as_tensor(values, dtype=dtype).to(self._device)  # noqa: E731
        found = self._unigrams + to_device(loss, torch.float32)[:, None]
        for rows, tokens, values in overrides:
            at = to_device(rows, torch.long), to_device(tokens, torch.long)
            found[at] = to_device(values, torch.float32)
        if self._others:
            found[:, self._others] = found[:, [self._ngram.end_id]]
        return found


class _AddNgram(LogitsProcessor):
    """Beam search gives it log-probabilities; after greedy decoding's logits the choice is the same."""

    def __init__(self, fusion: Fusion, num_prompt: int) -> None:
        self._fusion, self._num_prompt = fusion, num_prompt

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores + self._fusion.weight * self._fusion.logps(input_ids[:, self._num_prompt :])


def fusion_of(loaded: LoadedModel, how: Decoding, stop_ids: Sequence[int]) -> Fusion | None:
    """What a way to decode adds; None: nothing. `stop_ids`: the end that texts are trained with first.

    DataError and ModelError as `read_arpa`.
    """
    if how.ngram is None:
        return None
    vocab_size = loaded.family.head(loaded.model).out_features
    ngram = read_arpa(how.ngram, loaded.tokenizer.get_vocab(), vocab_size, stop_ids[0])
    return Fusion(ngram, how.ngram_weight, stop_ids, loaded.model.device)
