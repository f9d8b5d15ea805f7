"""From utterances to packs on the device: decoding and augmentation in worker processes, features where training is.

What a pack holds follows from its utterances, the seed and the epoch; workers and reading ahead only change when.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, compress
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from shibolet.errors import DataError
from shibolet.listen.processes import give_way, leave_signals_to_parent
from shibolet.model.family import Family
from shibolet.model.protocols import Frame, Movable, Pack, SpecMask
from shibolet.speech.audio import SAMPLE_RATE_HZ, load
from shibolet.train.augment import Augmentation, augmentation_of
from shibolet.train.config import AugmentConfig
from shibolet.train.data import TOLERANCE_SAMPLES, TrainExample
from shibolet.train.encoder_cache import EncoderCache
from shibolet.train.launch import begin_to_load_workers
from shibolet.train.objective import Needs

_AHEAD = 2  # packs that each worker has ready or in work


@dataclass(frozen=True, slots=True)
class PackRequest:
    """The utterances of a pack, where in the training it comes, and the epoch that hears them."""

    step: int  # from 0
    number: int  # of the pack within the step, from 0
    epoch: int
    examples: tuple[TrainExample, ...]

    @property
    def place(self) -> tuple[int, int]:
        return self.step, self.number


@dataclass(frozen=True, slots=True)
class Decoded:
    """A pack without features, and what they are made from; None where features are kept already."""

    pack: Pack
    num_frames: tuple[int, ...]  # of each utterance, as decoded
    samples: Movable | None

    def pin_memory(self) -> "Decoded":
        return Decoded(self.pack.pin_memory(), self.num_frames, self.samples and self.samples.pin_memory())


_Taken = tuple[Pack, Sequence[int]]  # a pack on the device, with features or encoder states, and its frames


class Decoder(Dataset):
    """Decodes, augments and lays out; a copy of it lives in each worker."""

    def __init__(
        self, family: Family, frame: Frame, augment: AugmentConfig | None, seed: int, num_bins: int,
        needs: Needs | None,
    ) -> None:  # fmt: skip
        self._family, self._frame, self._augment, self._seed = family, frame, augment, seed
        self._num_bins, self._needs = num_bins, needs

    def __getitem__(self, request: PackRequest) -> Decoded:
        clips = self._clips(request)
        frames = self._frames(clips)
        drawn = [self.augmentation(example, request.epoch) for example in request.examples]
        heard = [self._family.num_heard_frames(len(clip)) for clip in clips]
        masks = [d.mask(n, self._num_bins) if d else SpecMask() for d, n in zip(drawn, heard, strict=True)]
        samples = self._family.lay_samples(clips, masks, self._num_bins)
        return Decoded(self.lay_out(request.examples, frames), frames, samples)

    def _clips(self, request: PackRequest) -> list[np.ndarray]:
        """Of each utterance; read in the order in which they lie, as a row of a table is read with its neighbours."""
        examples = request.examples
        places = sorted(range(len(examples)), key=lambda i: (examples[i].audio.path, examples[i].audio.row or 0))
        clips = {place: self.clip(examples[place], request.epoch) for place in places}
        return [clips[place] for place in range(len(examples))]

    def longest(self, examples: Sequence[TrainExample]) -> Decoded:
        """A pack of these utterances as long as any epoch has them, silent: their audio is not read."""
        clips = [np.zeros(example.longest(self._augment), np.float32) for example in examples]
        frames = self._frames(clips)
        return Decoded(self.lay_out(examples, frames), frames, self._family.lay_samples(clips, None, self._num_bins))

    def _frames(self, clips: Sequence[np.ndarray]) -> tuple[int, ...]:
        return tuple(self._family.num_frames(len(clip)) for clip in clips)

    def augmentation(self, example: TrainExample, epoch: int) -> Augmentation | None:
        """What the epoch does to an utterance."""
        return augmentation_of(self._augment, self._seed, example, epoch)

    def num_samples(self, example: TrainExample, epoch: int) -> int:
        """How many samples the epoch hears of an utterance, by the table's duration."""
        drawn = self.augmentation(example, epoch)
        return drawn.num_samples(example.num_samples) if drawn else example.num_samples

    def clip(self, example: TrainExample, epoch: int) -> np.ndarray:
        """The samples of an utterance as the epoch hears them."""
        samples = load(example.audio)
        most, has_s = self._family.max_samples, len(samples) / SAMPLE_RATE_HZ
        where = f"({example.audio.path} row {example.audio.row})"
        if abs(len(samples) - example.num_samples) > TOLERANCE_SAMPLES:
            raise DataError(
                f"utterance '{example.id}': the table says {example.duration_s:.2f} s but its audio has {has_s:.2f} s "
                f"{where}; run 'shibolet prepare'"
            )
        if most is not None and len(samples) > most:
            raise DataError(
                f"utterance '{example.id}': its audio has {has_s:.3f} s and a {self._family.title} takes "
                f"{most / SAMPLE_RATE_HZ:g} s at most {where}; cut it, and run 'shibolet prepare'"
            )
        drawn = self.augmentation(example, epoch)
        return drawn.apply(samples) if drawn else samples

    def lay_out(self, examples: Sequence[TrainExample], num_frames: Sequence[int]) -> Pack:
        frames = [one.frame or self._frame for one in examples]
        pack = self._family.lay_out(frames, [example.text_ids for example in examples], num_frames)
        if len(pack.labels) != sum(example.num_targets for example in examples):
            raise AssertionError(f"{len(pack.labels)} labels in a pack that was counted to have another number")
        if self._needs is None:
            return pack
        extras = ({"num_frames": num, **self._needs(one)} for one, num in zip(examples, num_frames, strict=True))
        return replace(pack, extras=tuple(extras))


class Reader(Protocol):
    """What the loop reads from: packs that its objective can compute a loss of."""

    waited_s: float  # of the loop for packs; the loop sets it back

    def lengths(self, examples: Sequence[TrainExample], epoch: int) -> list[int]:
        """Tokens of each utterance as the epoch hears it; those of a pack are added up to stay within a limit."""

    def enter_phase(self, step: int, upcoming: Callable[[], Iterable[PackRequest]]) -> None:
        """A phase begins, or goes on, at a step; `upcoming` are its requests in order, as far as is known."""

    def read(self, model: nn.Module, requests: Sequence[PackRequest]) -> Iterator[Any]:
        """The packs on the device, one by one, within the objective's context."""

    def prepare(self, requests: Sequence[PackRequest]) -> None:
        """The host has time now: what `read` will be asked for next may be made ready. What fails, `read` raises."""

    def longest_pack(self, examples: Sequence[TrainExample]) -> Any:
        """One pack of these utterances, as long as any epoch can have it; what is heard in it is of no matter."""

    def end_step(self, step: int) -> None:
        """Step `step` (from 1) is over on this rank."""

    def close(self) -> None:
        """No pack is asked for any more."""


class PackReader:
    """Packs of a rank, in the order they are asked for, read ahead by workers where it is known what comes next."""

    def __init__(
        self,
        family: Family,
        frame: Frame,
        extractor: Any,
        *,
        device: torch.device | str = "cpu",
        augment: AugmentConfig | None = None,
        seed: int = 0,
        cache_gib: float = 0.0,
        num_workers: int = 0,
        needs: Needs | None = None,
        open_cache: Callable[[int], EncoderCache | None] = lambda step: None,
    ) -> None:
        """`cache_gib` of features are kept where this process decodes and nothing is augmented.

        `open_cache` gives the encoder states that a phase which goes on from a step may use, if it may. `frame` is the
        prompt of those that have none of their own.
        """
        self._family, self._device = family, torch.device(device)
        self._features = family.features(extractor, self._device)
        self._decoder = Decoder(family, frame, augment, seed, self._features.num_bins, needs)
        self._keeps = not (augment or num_workers)
        self._left_bytes = int(cache_gib * 2**30)
        self._kept: dict[str, Tensor] = {}  # utterance id -> features
        self._frames: dict[str, int] = {}
        self._ahead = _ReadAhead(self._decoder, num_workers, self._device.type == "cuda") if num_workers else None
        self._open_cache = open_cache
        self._prepared: tuple[PackRequest, _Taken | Exception] | None = None
        self.encoder_cache: EncoderCache | None = None
        self.waited_s = 0.0  # for workers, or decoding here; the caller sets it back

    def lengths(self, examples: Sequence[TrainExample], epoch: int) -> list[int]:
        """Tokens of each sequence as the epoch hears it."""
        return [example.tokens_of(self._decoder.num_samples(example, epoch)) for example in examples]

    def enter_phase(self, step: int, upcoming: Callable[[], Iterable[PackRequest]]) -> None:
        """Read ahead in this order, and keep encoder states while no encoder trains."""
        self.encoder_cache, self._prepared = self._open_cache(step), None
        self.follow(upcoming)

    def end_step(self, step: int) -> None:
        """Write the encoder states of a step (from 1)."""
        if self.encoder_cache:
            self.encoder_cache.write(step)

    def follow(self, upcoming: Callable[[], Iterable[PackRequest]]) -> None:
        """Read ahead in this order from now on; what comes before the pack that is asked for is passed over."""
        if self._ahead:
            self._ahead.follow(lambda: (request for request in upcoming() if not self._is_encoded(request)))

    def read(self, model: nn.Module, requests: Sequence[PackRequest]) -> Iterator[Pack]:
        """The packs on the device, one by one, with features or encoder states; within `Family.packed`."""
        for request in requests:
            pack, num_frames = self._prepared_for(request) or self._take(request)
            if self.encoder_cache and pack.encoded is None:
                states = self._states(model, pack, request.examples, num_frames)
                pack = replace(pack, encoded=states, features=None)
            yield pack

    def prepare(self, requests: Sequence[PackRequest]) -> None:
        """Take the first pack from the workers and send it to the device."""
        if not self._ahead or not requests:
            return
        try:
            self._prepared = requests[0], self._take(requests[0])
        except torch.OutOfMemoryError:
            self._prepared = None  # the workers decode it again
        except Exception as error:  # its own step raises it: the one that ends now has a row and perhaps a checkpoint
            self._prepared = requests[0], error

    def _prepared_for(self, request: PackRequest) -> _Taken | None:
        held, self._prepared = self._prepared, None
        if held is None or held[0] != request:
            return None
        if isinstance(held[1], Exception):
            raise held[1]
        # The step in between may have encoded all of its utterances: then states are read, as in a run that resumes.
        return held[1] if self._is_encoded(request) == (held[1][0].encoded is not None) else None

    def _take(self, request: PackRequest) -> _Taken:
        started = time.perf_counter()
        if self._is_encoded(request):
            states, num_frames = self.encoder_cache.read(request.examples)
            pack = self._decoder.lay_out(request.examples, num_frames)
            if self._device.type == "cuda":
                pack = pack.pin_memory()  # or the host would wait until the device has come to the copy
            self.waited_s += time.perf_counter() - started
            return replace(pack.to(self._device), encoded=states.to(self._device, non_blocking=True)), num_frames
        decoded = self._decoded(request)
        self.waited_s += time.perf_counter() - started
        return self._with_features(decoded, request.examples), decoded.num_frames

    @torch.no_grad()
    def _states(
        self, model: nn.Module, pack: Pack, examples: Sequence[TrainExample], num_frames: Sequence[int]
    ) -> Tensor:
        """Encoder states `[A, E]` of a pack with features: kept ones are read, the others computed and kept."""
        new = [not self.encoder_cache.holds([example]) for example in examples]
        own, frames = list(compress(examples, new)), list(compress(num_frames, new))
        if not all(new):  # on several nodes, where another one had some of them
            features = self._features.join(list(compress(self._features.split(pack.features, num_frames), new)))
            pack = replace(self._decoder.lay_out(own, frames).to(self._device), features=features.to(self._device))
        states = self._family.encode(model, pack)
        self.encoder_cache.hold(own, frames, states)
        if all(new):
            return states
        computed = iter(states.split([self._family.num_states(num) for num in frames]))
        pieces = [
            next(computed) if is_new else self.encoder_cache.read([example])[0].to(self._device, non_blocking=True)
            for example, is_new in zip(examples, new, strict=True)
        ]
        return torch.cat(pieces)

    def pack(self, examples: Sequence[TrainExample], epoch: int = 0) -> Pack:
        """One pack with features, decoded here and now."""
        return self._with_features(self._decode(PackRequest(0, 0, epoch, tuple(examples))), examples)

    def longest_pack(self, examples: Sequence[TrainExample]) -> Pack:
        """One pack of silence, as long as these utterances are at the slowest speed there is."""
        decoded = self._decoder.longest(examples)
        return replace(decoded.pack.to(self._device), features=self._features(decoded.samples))

    def close(self) -> None:
        """End the workers."""
        if self._ahead:
            self._ahead.close()

    def _is_encoded(self, request: PackRequest) -> bool:
        return self.encoder_cache is not None and self.encoder_cache.holds(request.examples)

    def _decoded(self, request: PackRequest) -> Decoded:
        return self._ahead.take(request) if self._ahead else self._decode(request)

    def _decode(self, request: PackRequest) -> Decoded:
        if self._keeps and all(example.id in self._kept for example in request.examples):
            frames = tuple(self._frames[example.id] for example in request.examples)
            return Decoded(self._decoder.lay_out(request.examples, frames), frames, None)
        return self._decoder[request]

    def _with_features(self, decoded: Decoded, examples: Sequence[TrainExample]) -> Pack:
        pack = decoded.pack.to(self._device)
        if decoded.samples is None:
            features = self._features.join([self._kept[e.id] for e in examples])
            return replace(pack, features=features.to(self._device))
        features = self._features(decoded.samples)
        if self._keeps:
            self._keep(examples, decoded.num_frames, features.cpu())
        return replace(pack, features=features)

    def _keep(self, examples: Sequence[TrainExample], num_frames: Sequence[int], features: Tensor) -> None:
        pieces = self._features.split(features, num_frames)
        for example, frames, piece in zip(examples, num_frames, pieces, strict=True):
            num_bytes = piece.numel() * piece.element_size()
            if example.id not in self._kept and num_bytes <= self._left_bytes:
                self._left_bytes -= num_bytes
                self._kept[example.id], self._frames[example.id] = piece.clone(), frames


class _ReadAhead:
    """A torch DataLoader over requests; starts over whenever another pack is asked for than the next in its order."""

    def __init__(self, decoder: Decoder, num_workers: int, pin_memory: bool) -> None:
        self._order = _Order()
        self._loader = DataLoader(
            decoder,
            batch_size=None,
            sampler=self._order,
            num_workers=num_workers,
            prefetch_factor=_AHEAD,
            persistent_workers=True,
            pin_memory=pin_memory,
            collate_fn=_as_it_is,
            worker_init_fn=_begin_worker,
            multiprocessing_context=begin_to_load_workers(),
            generator=torch.Generator(),  # its own: the default one's numbers are dropout's
        )
        self._items: Iterator[Decoded] | None = None

    def follow(self, upcoming: Callable[[], Iterable[PackRequest]]) -> None:
        self._order.upcoming = upcoming
        self._begin(None)

    def _begin(self, first: PackRequest | None) -> None:
        self._order.sent.clear()
        self._order.first = first
        self._items = iter(self._loader)  # the workers read from now on

    def take(self, request: PackRequest) -> Decoded:
        if self._items is None or request not in self._order.sent:
            self._begin(request)
        while self._order.sent[0] != request:  # what the encoder cache holds by now is not asked for any more
            self._order.sent.popleft()
            next(self._items)
        decoded = next(self._items)
        self._order.sent.popleft()
        return decoded

    def close(self) -> None:
        self._items = None
        if self._loader._iterator is not None:
            self._loader._iterator._shutdown_workers()
            self._loader._iterator = None


class _Order(Sampler):
    """The request that was asked for, if one was, then what is known to follow it."""

    def __init__(self) -> None:
        self.first: PackRequest | None = None
        self.upcoming: Callable[[], Iterable[PackRequest]] = tuple
        self.sent: deque[PackRequest] = deque()  # given to workers and not yet taken

    def __iter__(self) -> Iterator[PackRequest]:
        first = self.first
        later = (request for request in self.upcoming() if first is None or request.place > first.place)
        for request in chain([first] if first else [], later):
            self.sent.append(request)
            yield request


def _as_it_is(decoded: Decoded) -> Decoded:
    return decoded


def _begin_worker(worker: int) -> None:
    leave_signals_to_parent()
    give_way()
    pa.set_cpu_count(1)  # torch sets its own
