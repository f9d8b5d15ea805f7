"""The frozen encoder's output on disk, one stretch an utterance, while the whole encoder is frozen.

    encoder_cache/<key>/  states.bin (the model's dtype), entries.bin, meta.json

The key is a hash of the encoder's weights and of the utterances and the files they are in. Files are memory-mapped and
never synced: they outlive a killed process, not a machine, so a cache of another boot is started anew. An entry knows
the step that wrote it; a run that continues from an earlier step forgets later ones and so takes the same path again.

Shapes: A encoder states, E encoder dim, N utterances.
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from shibolet.errors import RecipeError
from shibolet.model.encoder import encoder_hash
from shibolet.model.family import family_of
from shibolet.records.ahead import Ahead
from shibolet.records.files import hash_json, make_folder, write_json
from shibolet.records.reading import read_cached
from shibolet.train.data import TrainExample
from shibolet.train.memory import most_states

_BOOT = Path("/proc/sys/kernel/random/boot_id")


class EncoderCache:
    """States `[A, E]` of utterances that were encoded before, shared by the ranks of a machine."""

    def __init__(
        self,
        root: Path,
        model: nn.Module,
        examples: Sequence[TrainExample],
        *,
        step: int,
        is_main: bool,
        wait: Callable[[], None],
    ) -> None:
        """Open the cache under `root` that fits, or start one; `wait` returns once every rank has called it."""
        self._family = family_of(model.config)
        dim, dtype = self._family.encoder_dim(model), model.dtype
        spans, total = {}, 0
        for index, example in enumerate(examples):
            spans[example.id] = (index, total)
            total += most_states(example)
        self._spans = spans
        folder = root / _key(model, examples)
        if is_main:
            _start(root, folder, total * dim * dtype.itemsize)
        wait()
        self._states = torch.from_file(str(folder / "states.bin"), shared=True, size=total * dim, dtype=dtype)
        self._states = self._states.view(total, dim)
        # [N, 2]: the step (from 1) that wrote the entry, 0 for none, and its frames
        entries = torch.from_file(str(folder / "entries.bin"), shared=True, size=2 * len(examples), dtype=torch.int64)
        self._entries = entries.view(len(examples), 2)
        if is_main:
            self._entries[self._entries[:, 0] > step] = 0
        wait()
        self._held: list[tuple[Sequence[TrainExample], Sequence[int], Ahead[None]]] = []
        self._placed: set[str] = set()  # of the utterances that are held

    def holds(self, examples: Sequence[TrainExample]) -> bool:
        """Whether every utterance was encoded in an earlier step."""
        return all(self._entries[self._spans[example.id][0], 0] for example in examples)

    def read(self, examples: Sequence[TrainExample]) -> tuple[Tensor, list[int]]:
        """States `[A, E]` of utterances laid end to end, pinned where there is a GPU, and their frames."""
        frames, pieces = [], []
        for example in examples:
            index, start = self._spans[example.id]
            frames.append(int(self._entries[index, 1]))
            pieces.append(self._states[start : start + self._family.num_states(frames[-1])])
        size = (sum(map(len, pieces)), self._states.shape[1])
        states = torch.empty(size, dtype=self._states.dtype, pin_memory=torch.cuda.is_available())
        return torch.cat(pieces, out=states), frames

    def hold(self, examples: Sequence[TrainExample], num_frames: Sequence[int], states: Tensor) -> None:
        """Take states on their way from the device, and put them to their places while the step goes on."""
        event, device = None, states.device
        if states.is_cuda:
            copied = torch.empty(states.shape, dtype=states.dtype, pin_memory=True)
            copied.copy_(states, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            states = copied
        sizes = [self._family.num_states(frames) for frames in num_frames]
        places = [
            (self._spans[example.id][1], piece)
            for example, piece in zip(examples, states.split(sizes), strict=True)
            if not self.holds([example]) and example.id not in self._placed  # a step that is taken again holds twice
        ]
        self._placed |= {example.id for example in examples}

        def put() -> None:
            if event is not None:
                with torch.cuda.device(device):  # a new thread's is the first one
                    event.synchronize()
            for start, piece in places:
                self._states[start : start + len(piece)] = piece

        self._held.append((examples, num_frames, Ahead(put)))

    def write(self, step: int) -> None:
        """Make what step `step` (from 1) held readable; before ranks meet, so that all see it after."""
        for examples, num_frames, putting in self._held:
            putting.get()
            for example, frames in zip(examples, num_frames, strict=True):
                index, _ = self._spans[example.id]
                if not self._entries[index, 0]:
                    self._entries[index, 1] = frames
                    self._entries[index, 0] = step
        self._held.clear()
        self._placed.clear()


def boot_id() -> str | None:
    """What tells one boot of the machine from the next; None where nothing does: no cache then outlives its process."""
    return _BOOT.read_text().strip() if _BOOT.exists() else None


def _key(model: nn.Module, examples: Sequence[TrainExample]) -> str:
    shards = {path: Path(path).stat() for path in sorted({example.audio.path for example in examples})}
    data = [[path, stat.st_size, stat.st_mtime_ns] for path, stat in shards.items()]
    return hash_json([encoder_hash(model), data, [[e.id, e.num_frames] for e in examples]])


def _start(root: Path, folder: Path, num_bytes: int) -> None:
    """Make the folder if there is none that still holds; caches of other weights or data are deleted."""
    boot = boot_id()
    meta = folder / "meta.json"
    if boot and read_cached(meta, dict[str, str]) == {"boot": boot}:
        return
    shutil.rmtree(root.resolve(), ignore_errors=True)  # a link where trials of a search share one
    make_folder(root.resolve())
    if (free := shutil.disk_usage(root).free) < num_bytes:
        raise RecipeError(
            f"train.encoder_cache needs {num_bytes / 2**30:.1f} GiB in {root}, where {free / 2**30:.1f} GiB are free; "
            "make room, or set train.encoder_cache to false: the encoder then runs again in each epoch"
        )
    folder.mkdir()
    write_json(meta, {"boot": boot})
