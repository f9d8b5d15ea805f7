"""What a teacher expects at each label of the training set, on disk: its pass over the data is done once.

    teacher_cache/<key>/  ids.bin (int32), logps.bin (float16), done.bin, meta.json

The key is a hash of the teacher, of the utterances with their tokens and prompts, and of how many tokens are kept at
which temperature. The
teacher hears what is recorded: what training does to the audio moves no label. Files are memory-mapped. A pass that was
cut off goes on within one boot of the machine; once it is whole the files are synced, and it is never done again. Of
two bytes a log-probability float16 is exact to a 500th between -4 and 0, bfloat16 to a 64th.

Shapes: L labels of all utterances, K tokens kept, N utterances.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from shibolet.errors import RecipeError
from shibolet.model.family import LoadedModel
from shibolet.model.fast.losses import TopTokens, top_tokens
from shibolet.model.protocols import Frame
from shibolet.records.files import hash_json, make_folder, write_json
from shibolet.records.reading import read_cached
from shibolet.train.data import TrainExample
from shibolet.train.encoder_cache import boot_id
from shibolet.train.packing import packs_of
from shibolet.train.reader import PackReader

PASS_TOKENS = 8192  # of a pack of the teacher's pass; longer utterances are packs of their own
_TYPES = {"ids.bin": torch.int32, "logps.bin": torch.float16, "done.bin": torch.uint8}


class TeacherCache:
    """Top tokens of utterances, shared by the ranks of a machine."""

    def __init__(
        self,
        root: Path,
        teacher: str,
        language: str,
        examples: Sequence[TrainExample],
        top_k: int,
        temperature: float,
        *,
        is_main: bool,
        wait: Callable[[], None],
    ) -> None:
        """Open the cache under `root` that fits, or start one; `wait` returns once every rank has called it."""
        self._examples, self._top_k, self._temperature = examples, top_k, temperature
        self._is_main, self._wait = is_main, wait
        self._spans, total = {}, 0
        for index, example in enumerate(examples):
            self._spans[example.id] = (index, total)
            total += example.num_targets
        self._folder = root / _key(teacher, language, examples, top_k, temperature)
        sizes = (total * top_k, total * (top_k + 1), len(examples))
        typed = [(name, dtype, size) for (name, dtype), size in zip(_TYPES.items(), sizes, strict=True)]
        if is_main:
            _start(root, self._folder, {name: size * dtype.itemsize for name, dtype, size in typed})
        wait()
        ids, logps, self._done = (
            torch.from_file(str(self._folder / name), shared=True, size=size, dtype=dtype)
            for name, dtype, size in typed
        )
        self._ids, self._logps = ids.view(total, top_k), logps.view(total, top_k + 1)

    @property
    def is_whole(self) -> bool:
        return bool(self._done.all())

    def fill(self, teacher: LoadedModel, frame: Frame, *, rank: int = 0, num_ranks: int = 1) -> None:
        """Compute what is missing, each rank its share; `frame` is the prompt of those that have none of their own."""
        family, model = teacher.family, teacher.model
        reader = PackReader(family, frame, teacher.extractor, device=model.device)
        missing = [place for place, is_done in enumerate(self._done.tolist()) if not is_done]
        self._wait()  # until every rank has seen the same
        lengths = [example.num_tokens for example in self._examples]
        longest_first = sorted(missing, key=lambda place: (-lengths[place], place))
        groups = [longest_first[at : at + 1024] for at in range(0, len(longest_first), 1024)]
        packs = [pack for group in groups for pack in packs_of(group, lengths, max(PASS_TOKENS, lengths[group[0]]))]
        for pack in packs[rank::num_ranks]:
            chosen = [self._examples[place] for place in pack]
            with torch.inference_mode(), family.packed(model):
                hidden = family.hidden(model, reader.pack(chosen))
                ids, logps = top_tokens(hidden, family.head(model), self._top_k, self._temperature)
            counts = [example.num_targets for example in chosen]
            for example, own, own_logps in zip(chosen, ids.cpu().split(counts), logps.cpu().split(counts), strict=True):
                index, start = self._spans[example.id]
                self._ids[start : start + len(own)] = own
                self._logps[start : start + len(own)] = own_logps
                self._done[index] = 1
        self._wait()
        if self._is_main:
            for name in _TYPES:
                with open(self._folder / name, "rb+") as file:
                    os.fsync(file.fileno())
            write_json(self._folder / "meta.json", {"boot": None})

    def read(self, examples: Sequence[TrainExample]) -> TopTokens:
        """Of the labels of utterances laid end to end; probabilities add up to 1 in spite of their rounding."""
        rows = [slice(start, start + e.num_targets) for e in examples for _, start in [self._spans[e.id]]]
        logps: Tensor = torch.cat([self._logps[own] for own in rows]).float()
        return TopTokens(torch.cat([self._ids[own] for own in rows]).long(), logps.softmax(-1))


def _key(teacher: str, language: str, examples: Sequence[TrainExample], top_k: int, temperature: float) -> str:
    # The file of an utterance says which audio it is of; shards that are made anew are of new data.
    own = [[e.id, e.num_frames, list(e.text_ids), e.replayed_in or language, e.style] for e in examples]
    return hash_json([teacher, top_k, temperature, own])


def _start(root: Path, folder: Path, sizes: dict[str, int]) -> None:
    """Make the folder if there is none that still holds; caches of other teachers or data are deleted."""
    meta = folder / "meta.json"
    known = read_cached(meta, dict[str, str | None])
    is_there = all((folder / name).is_file() and (folder / name).stat().st_size == sizes[name] for name in sizes)
    if is_there and known in ({"boot": None}, {"boot": boot_id()}):
        return
    shutil.rmtree(root.resolve(), ignore_errors=True)
    make_folder(root.resolve())
    if (free := shutil.disk_usage(root).free) < (needed := sum(sizes.values())):
        raise RecipeError(
            f"the teacher's stored distributions need {needed / 2**30:.1f} GiB in {root}, and {free / 2**30:.1f} GiB "
            "are free; make room, or lower train.distil.top_k"
        )
    make_folder(folder)
    for name, size in sizes.items():
        with open(folder / name, "wb") as file:
            file.truncate(size)
    write_json(meta, {"boot": boot_id() or ""})
