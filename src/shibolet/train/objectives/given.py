"""What an objective is made from: the model in training, how it is asked, and what may teach it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shibolet.model.family import Family, LoadedModel
from shibolet.model.protocols import Frame, Pack, Prompt
from shibolet.train.config import TrainConfig
from shibolet.train.data import TrainExample
from shibolet.train.objective import Extras

if TYPE_CHECKING:
    from shibolet.train.teacher import Teaching


@dataclass(frozen=True, slots=True)
class Given:
    """All that is known when a training begins."""

    loaded: LoadedModel  # the model in training
    config: TrainConfig
    language: str
    seed: int
    teaching: "Teaching | None" = None  # None: the recipe has no teacher
    replays: bool = False  # whether other data come in between, in prompts of their own

    @property
    def family(self) -> Family:
        return self.loaded.family

    @property
    def frame(self) -> Frame:
        """The prompt of an utterance that has none of its own."""
        return self.family.targets(self.loaded.tokenizer, Prompt(self.language)).frame

    def language_of(self, example: TrainExample) -> str:
        """In which its prompt asks for it."""
        return example.replayed_in or self.language

    @property
    def fast(self) -> bool:
        return self.config.fast == "auto"


EXAMPLE, NUM_FRAMES = "example", "num_frames"  # names in a pack's extras; the reader knows the second


def utterance_of(example: TrainExample) -> Extras:
    """What the objectives that look up or write texts need of an utterance."""
    return {EXAMPLE: example}


def examples_in(pack: Pack) -> list[TrainExample]:
    """The utterances of a pack that was made with `utterance_of`."""
    return [extras[EXAMPLE] for extras in pack.extras]
