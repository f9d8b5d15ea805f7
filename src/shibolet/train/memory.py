"""Memory and time of a phase before it runs: what stays, what a pack adds, what is set aside, how long a step takes.

Arithmetic over the family's `Cost`; every constant that is not arithmetic stands here, with where it is from.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from shibolet.errors import RecipeError
from shibolet.model.outline import Outline
from shibolet.model.protocols import Cost, PackSize
from shibolet.speech.audio import SAMPLE_RATE_HZ
from shibolet.train.data import TrainExample, frame_tolerance
from shibolet.train.packing import divide, fullest, packs_of

if TYPE_CHECKING:
    import torch

    from shibolet.train.config import AugmentConfig

GIB = 2**30
BLOCK_NUMEL = 1 << 26  # numbers that ranks exchange at once
SLOTS = 2  # blocks of gradients under way at once


@dataclass(frozen=True, slots=True)
class Gpu:
    """What a step's time is predicted from; rates by datasheet, dense."""

    bf16_tflops: float
    memory_tb_s: float


GPUS = {"A100": Gpu(312, 1.555), "H100": Gpu(989, 3.35), "H200": Gpu(989, 4.8)}
# Share of the datasheet's rate that the model's operations reach: 0.42 to 0.47 with 64 to 128 utterances a pack on an
# H200 (benchmarks/train_speed.py). Other GPUs are projected with it.
MODEL_SHARE = 0.45
COPY_SHARE = 0.9  # of the datasheet's bandwidth, by a device-to-device copy on an H200

# Of a pack, however small: what is not launched as a graph takes the host so long (benchmarks/RESULTS.md, two GPUs).
PACK_S = 0.07
PACK_TOKENS = 8192  # of a pack where no memory bounds it: no GPU is known, or there is none

# Beside what tensors take.
CONTEXT_GIB = 0.6  # CUDA context and loaded kernels
WORKSPACE_GIB = 0.13  # cuBLAS and cuDNN
NCCL_GIB = 0.8  # its buffers, with more than one rank
FRAGMENT_FRAC = 0.03  # of the tensors' peak, lost between them under expandable segments
# Of the activations, that graphs of layers hold more, in a training of many shapes (benchmarks/RESULTS.md, two GPUs).
GRAPHS_FRAC = 1.5

# The specification gives no hours of audio; the team's utterances are 5.8 s long on average (our assumption).
MEAN_S, MIN_S, MAX_S = 5.8, 0.5, 15.0

Sizes = tuple[int, int, int]  # tokens, frames and labels of an utterance


def longest_sizes(examples: Sequence[TrainExample], augment: "AugmentConfig | None") -> list[Sizes]:
    """The sizes of utterances, as an epoch hears them longest."""
    return [_size(example, example.longest(augment)) for example in examples]


def usual_sizes(examples: Sequence[TrainExample], augment: "AugmentConfig | None") -> list[Sizes]:
    """The same, as epochs hear them on average."""
    return [_size(example, example.usual(augment)) for example in examples]


def _size(example: TrainExample, num_samples: int) -> Sizes:
    return example.tokens_of(num_samples), example.frames_of(num_samples), example.num_targets


def assumed_sizes(family: Outline, num: int, pauses_s: float = 0.0, seed: int = 0) -> list[Sizes]:
    """Utterances as they are assumed before there are any: 0.5 to 15 s, 5.8 s on average, and pauses around them."""
    durations_s = MIN_S + (MAX_S - MIN_S) * np.random.default_rng(seed).beta(1.5, 2.604, num)  # mean of 5.8
    sizes = []
    for duration_s in durations_s:
        frames = family.num_frames(int(SAMPLE_RATE_HZ * (duration_s + pauses_s)))
        labels = family.target_tokens + round(family.text_tokens_per_s * duration_s)
        sizes.append((family.prompt_tokens + family.num_audio_tokens(frames) + labels, frames, labels))
    return sizes


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseMemory:
    """The memory of a rank in a phase."""

    cost: Cost
    parameters: int
    trainable: int
    width: int  # bytes of a weight
    world_size: int
    encoder_kept: bool  # states come from the cache
    teacher: int = 0  # weights of a teacher beside the model
    passes: float = 1.0  # forward and backward, of the references' work each; writing texts is not counted

    def fullest_pack(self, sizes: Sequence[Sizes], pack_tokens: int, most: int) -> PackSize:
        """The pack that takes most memory."""
        chosen = fullest([tokens for tokens, _, _ in sizes], pack_tokens, most)
        return self.cost.size_of(sizes[u] for u in chosen)

    @property
    def lasting(self) -> dict[str, int]:
        """Bytes that a whole phase holds."""
        own, mixed = -(-self.trainable // self.world_size), self.width < 4
        lasting = {
            "weights": self.parameters * self.width,
            "masters": own * 4 * mixed,
            "moments": own * 8,
            **({"teacher": self.teacher * self.width} if self.teacher else {}),
        }
        if self.world_size > 1:
            lasting["exchange"] = (own + self._exchanged) * self.width
        return lasting

    @property
    def _exchanged(self) -> int:
        """Numbers that are on their way to other ranks at once."""
        return SLOTS * BLOCK_NUMEL if self.trainable > BLOCK_NUMEL else self.trainable

    def peak(self, pack: PackSize, several: bool) -> dict[str, int]:
        """Bytes at the moment of a step that takes most, by purpose; `several`: gradients of an earlier pack wait."""
        whole = self.trainable * self.width
        made = whole if self.world_size == 1 else self._exchanged * self.width  # other ranks' leave within the pass
        held = whole if several else 0
        parts = self.cost.kept(pack, encoder=not self.encoder_kept)
        kept = sum(stays for _, stays, _ in parts)
        stays, logits = self.cost.loss_bytes(pack)
        moments = [{"gradients": held, "activations": kept, "logits": logits + stays}]
        grown = 0
        for _, stays_of_part, passing in reversed(parts):
            moments.append({"gradients": max(held, grown), "activations": kept + passing, "logits": stays})
            kept -= stays_of_part
            grown = min(made, grown + whole // len(parts))
        moments.append({"gradients": made, "activations": 0, "logits": 0})  # for the update
        worst = max(moments, key=lambda moment: sum(moment.values()))
        return self.lasting | worst

    def reserve(self, tensors: int) -> dict[str, int]:
        """Bytes that no tensor takes."""
        nccl = NCCL_GIB if self.world_size > 1 else 0.0
        return {
            "context": int(CONTEXT_GIB * GIB),
            "workspace": int(WORKSPACE_GIB * GIB),
            "nccl": int(nccl * GIB),
            "fragments": int(FRAGMENT_FRAC * tensors),
        }

    def total(self, pack: PackSize, several: bool) -> int:
        tensors = sum(self.peak(pack, several).values())
        return tensors + sum(self.reserve(tensors).values())

    @property
    def idle(self) -> int:
        """Bytes that are taken between two steps."""
        lasting = sum(self.lasting.values())
        return lasting + sum(self.reserve(lasting).values())

    def graphs(self, pack: PackSize) -> int:
        """Bytes that graphs of layers hold beside the total where they are recorded, at most."""
        return int(GRAPHS_FRAC * sum(stays for _, stays, _ in self.cost.kept(pack, encoder=not self.encoder_kept)))

    def largest_pack_tokens(self, sizes: Sequence[Sizes], most: int, budget: float) -> int:
        """The most `pack_tokens` that keep the fullest pack within `budget` bytes; 0: one utterance does not fit."""
        most_tokens = sum(sorted((size[0] for size in sizes), reverse=True)[:most])
        low, high = 0, most_tokens
        while low < high:
            middle = (low + high + 1) // 2
            pack = self.fullest_pack(sizes, middle, most)
            fits = self.total(pack, several=pack.tokens < most_tokens) <= budget
            low, high = (middle, high) if fits else (low, middle - 1)
        return low if low >= max(size[0] for size in sizes) else 0

    def operations(self, utterances: Iterable[Sizes]) -> float:
        """Of the forward and backward passes over a pack of them."""
        return self.cost.operations(self.cost.size_of(utterances), encoder=not self.encoder_kept) * self.passes

    def step_s(self, utterances: Sequence[Sizes], pack_tokens: int, gpu: Gpu) -> float:
        """Predicted time of a step of these utterances: the busiest rank's packs, then the update's bytes."""
        lengths = [size[0] for size in utterances]
        shares = divide(range(len(lengths)), lengths, self.world_size)
        rate = gpu.bf16_tflops * 1e12 * MODEL_SHARE
        packs_s = max(
            sum(
                max(PACK_S, self.operations(utterances[u] for u in pack) / rate)
                for pack in packs_of(share, lengths, pack_tokens)
            )
            for share in shares
            if share
        )
        # The update reads and writes master and moments, writes the weight, and reads the gradient after its norm did.
        update = self.trainable * (2 * 4 * 3 + (self.width if self.width < 4 else 0) + 2 * self.width)
        return packs_s + update / self.world_size / (gpu.memory_tb_s * 1e12 * COPY_SHARE)


def most_states(example: TrainExample) -> int:
    """Rows of the encoder's output that may be kept of an utterance."""
    # One more: fewer frames can have more states where a family rounds within each second.
    return example.family.num_states(example.num_frames + frame_tolerance(example.family)) + 1


def cache_bytes(examples: Sequence[TrainExample], dim: int, width: int) -> int:
    """Disk that the encoder's kept output takes, at most; `width` bytes a number."""
    return sum(most_states(example) for example in examples) * dim * width


def known_gpu(device: "torch.device") -> str | None:
    """Which of `GPUS` a device is; None for another one or a CPU."""
    if device.type != "cuda":
        return None
    import torch

    name = torch.cuda.get_device_name(device)
    return next((known for known in GPUS if known in name), None)


def gpu_named(name: str) -> Gpu:
    if name.upper() not in GPUS:
        raise RecipeError(f"GPU '{name}' is not known; known are {', '.join(GPUS)}")
    return GPUS[name.upper()]
