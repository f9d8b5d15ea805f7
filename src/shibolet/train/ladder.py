"""What gives way when memory runs out: packs first, which costs time only; then, as the recipe allows, what it names.

packs                    half as large, down to one utterance; the step and its mathematics stay as they are
max_audio                the longest utterances leave
checkpoint_activations   activations are computed twice
decoder_layers           fewer decoder layers train
"""

from collections.abc import Collection, Sequence

import torch

from shibolet.errors import OutOfMemory
from shibolet.model.spans import LayerSpan
from shibolet.records.ledger import LedgerLine
from shibolet.train.config import PhaseConfig, TrainConfig
from shibolet.train.data import TrainExample
from shibolet.train.memory import longest_sizes
from shibolet.train.packing import fullest
from shibolet.train.state import Decisions

MAX_AUDIO, CHECKPOINT, DECODER_LAYERS = RUNGS = ("max_audio", "checkpoint_activations", "decoder_layers")


class Narrowed(Exception):
    """An order to the loop: fewer parameters train from now on: the phase has to be entered anew."""


class MemoryLadder:
    """How large a pack may be and what else gave way; `decisions`, saved with each checkpoint, is all it remembers."""

    def __init__(
        self, config: TrainConfig, examples: Sequence[TrainExample], num_decoder_layers: int, decisions: Decisions,
        spread_parts: Collection[str] = (),
    ) -> None:  # fmt: skip
        """`spread_parts` are those that have weights in every decoder layer and that no span narrows."""
        self._examples, self._decisions, self._most = examples, decisions, config.pack_tokens
        self._config, self._num_decoder_layers = config.on_out_of_memory, num_decoder_layers
        self._spread_parts = spread_parts
        # As long as any epoch has it.
        sizes = longest_sizes(examples, config.augment)
        self._lengths, self._num_frames = [size[0] for size in sizes], [size[1] for size in sizes]

    @property
    def pack_tokens(self) -> int:
        return min(self._most, self._decisions.pack_tokens or self._most)

    @property
    def checkpoints_activations(self) -> bool:
        return CHECKPOINT in self._decisions.rungs

    def trains(self, utterance: int) -> bool:
        """Whether an utterance is still trained on."""
        return (
            MAX_AUDIO not in self._decisions.rungs or self._examples[utterance].duration_s <= self._config.max_audio_s
        )

    def left(self) -> list[LedgerLine]:
        """A line for each utterance that left."""
        return [
            LedgerLine(
                id=example.id, source=example.audio.path, stage="train", rule="too_long:memory",
                detail=f"{example.duration_s:.2f} s; {self._config.max_audio_s:g} s at most since memory ran out",
                duration_s=example.duration_s,
            )
            for number, example in enumerate(self._examples) if not self.trains(number)
        ]  # fmt: skip

    def narrowed(self, phase: PhaseConfig) -> PhaseConfig:
        """The phase with at most `decoder_layers` top layers, once that rung is taken and where it can be."""
        if DECODER_LAYERS not in self._decisions.rungs or self._spread_over_layers(phase):
            return phase
        return phase.model_copy(update={"lr_by_part": {self._top(part): lr for part, lr in phase.lr_by_part.items()}})

    def largest_pack(self, most_utterances: int) -> list[int]:
        """The fullest pack there can be of as many utterances as a rank has in a step."""
        trained = self._trained()
        return [trained[i] for i in fullest([self._lengths[u] for u in trained], self.pack_tokens, most_utterances)]

    def climb(self, failed_tokens: int, phase: PhaseConfig) -> str:
        """Take the next rung after a pack did not fit that has at most `failed_tokens`; the sentence for the log.

        OutOfMemory when the recipe allows nothing more.
        """
        trained = self._trained()
        longest = max(self._lengths[u] for u in trained)
        failed_tokens = min(failed_tokens, self.pack_tokens)  # packs are filled by the lengths that an epoch draws
        if failed_tokens > longest:
            self._decisions.pack_tokens = max(longest, failed_tokens // 2)
            return f"packs of at most {self._decisions.pack_tokens} tokens, {failed_tokens} did not fit"
        allowed = {
            MAX_AUDIO: self._config.max_audio_s is not None and self._costs_less(self._config.max_audio_s, trained),
            CHECKPOINT: self._config.checkpoint_activations,
            DECODER_LAYERS: self._config.decoder_layers is not None
            and not self._spread_over_layers(phase)
            and any(self._top(part) != part for part in phase.lr_by_part),
        }
        for rung in RUNGS:
            if allowed[rung] and rung not in self._decisions.rungs:
                self._decisions.rungs.append(rung)
                if rung != MAX_AUDIO:
                    self._decisions.pack_tokens = None  # there is room again
                return self._sentence(rung)
        raise OutOfMemory(
            f"out of memory with a pack of {failed_tokens} tokens, which is one utterance; given up so far:"
            f" {', '.join(self._decisions.rungs) or 'nothing'}{self._of_no_use(phase, trained)}; allow more in "
            "train.on_out_of_memory or take a larger GPU, and the same command continues from the last checkpoint"
        )

    def _trained(self) -> list[int]:
        return [u for u in range(len(self._examples)) if self.trains(u)]

    def _costs_less(self, max_audio_s: float, trained: Sequence[int]) -> bool:
        """Whether leaving out long audio leaves any, with fewer tokens and fewer frames in the longest.

        Where every utterance is as many frames, a shorter one has fewer tokens by its text alone.
        """
        kept = [u for u in trained if self._examples[u].duration_s <= max_audio_s]
        most = lambda lengths, of: max(lengths[u] for u in of)  # noqa: E731
        return bool(kept) and all(most(n, kept) < most(n, trained) for n in (self._lengths, self._num_frames))

    def _spread_over_layers(self, phase: PhaseConfig) -> list[str]:
        """Parts of a phase that train in every decoder layer, whatever span of layers trains beside them."""
        return [part for part in phase.lr_by_part if part in self._spread_parts]

    def _of_no_use(self, phase: PhaseConfig, trained: Sequence[int]) -> str:
        """What the recipe allows and what would save nothing, for the error."""
        found, most = "", self._config.max_audio_s
        if most is not None and MAX_AUDIO not in self._decisions.rungs and not self._costs_less(most, trained):
            found += (
                f"; max_audio_s saves nothing: without audio over {most:g} s the longest takes as much, or none is left"
            )
        if self._config.decoder_layers is not None and (spread := self._spread_over_layers(phase)):
            found += (
                f"; decoder_layers narrows nothing in phase {phase.name}: {', '.join(spread)} trains in every layer"
            )
        return found

    def _top(self, part: str) -> str:
        """`decoder.layers[16:28]` -> `decoder.layers[18:28]` for 10; other parts and shorter spans as they are."""
        span = LayerSpan.parse(part)
        if span is None or span.tower != "decoder":
            return part
        top = span.top(self._config.decoder_layers, self._num_decoder_layers)
        return part if top.first == span.first else str(top)

    def _sentence(self, rung: str) -> str:
        if rung == MAX_AUDIO:
            return f"audio of at most {self._config.max_audio_s:g} s: {len(self.left())} utterances leave"
        if rung == CHECKPOINT:
            return "activations are computed again in the backward pass"
        return f"only the top {self._config.decoder_layers} decoder layers train"


def gpu_memory_gib(device: torch.device) -> float | None:
    """The memory of a GPU; None on a CPU."""
    return torch.cuda.get_device_properties(device).total_memory / 2**30 if device.type == "cuda" else None
