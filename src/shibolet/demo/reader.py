"""Packs of clips whose features are in memory, for the training loop: each clip masked anew in every epoch."""

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from shibolet.demo.clips import Clip, mask_features
from shibolet.demo.objectives import PaddedClips
from shibolet.train.data import TrainExample
from shibolet.train.reader import PackRequest

_OF_LIKE_LENGTH = 32  # clips that are padded together

# Features [F, M] of each example -> what the objective takes, on the device.
Collate = Callable[[Sequence[TrainExample], Sequence[Tensor]], Any]


class ClipReader:
    """A `Reader` of clips, by the id of their example."""

    def __init__(self, clips: Mapping[str, Clip], collate: Collate, seed: int) -> None:
        self._clips, self._collate, self._seed = clips, collate, seed
        self.waited_s = 0.0

    def lengths(self, examples: Sequence[TrainExample], epoch: int) -> list[int]:
        return [example.num_tokens for example in examples]

    def enter_phase(self, step: int, upcoming: Callable[[], Iterable[PackRequest]]) -> None:
        """Nothing is read ahead."""

    def read(self, model: nn.Module, requests: Sequence[PackRequest]) -> Iterator[Any]:
        for request in requests:
            yield self._pack(request.examples, request.epoch)

    def prepare(self, requests: Sequence[PackRequest]) -> None:
        """Clips are in memory."""

    def longest_pack(self, examples: Sequence[TrainExample]) -> Any:
        return self._pack(examples, epoch=0)

    def end_step(self, step: int) -> None:
        """Nothing is kept of a step."""

    def close(self) -> None:
        """Nothing is open."""

    def _pack(self, examples: Sequence[TrainExample], epoch: int) -> Any:
        started = time.perf_counter()
        features = [
            mask_features(
                torch.from_numpy(self._clips[example.id].features).float(),
                random.Random(f"{self._seed} {epoch} {example.id}"),
            )
            for example in examples
        ]
        pack = self._collate(examples, features)
        self.waited_s += time.perf_counter() - started
        return pack


def padded_clips(
    features: Sequence[Tensor], letters: Sequence[list[int]], device: torch.device | str
) -> list[PaddedClips]:
    """Batches of clips of like length, of features `[F, M]`."""
    order, batches = sorted(range(len(features)), key=lambda u: features[u].shape[1]), []
    for at in range(0, len(order), _OF_LIKE_LENGTH):
        chosen = order[at : at + _OF_LIKE_LENGTH]
        lengths = [features[u].shape[1] for u in chosen]
        mask = (torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]).long()
        rows = nn.utils.rnn.pad_sequence([features[u].T for u in chosen], batch_first=True)
        batches.append(PaddedClips(rows.to(device), mask.to(device), lengths, [letters[u] for u in chosen]))
    return batches
