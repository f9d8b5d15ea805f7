"""Other data in every step, a fixed share of it, so that a model keeps what it knew: replay.

Replayed utterances stand behind the training's own in one list. Each keeps the language and style of its source in its
prompt, and has its previous text and timestamps as often as the training's own; which of them a step takes is
`packing.Draw`'s. (Rolnick et al., "Experience Replay for Continual Learning", 2019.)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from shibolet.errors import DataError
from shibolet.model.outline import Outline
from shibolet.model.protocols import Prompt
from shibolet.records.documents.plan import ReplayPlan
from shibolet.records.files import hash_json
from shibolet.records.ledger import LedgerLine
from shibolet.train.config import Replay, TrainConfig
from shibolet.train.data import Drawing, TrainExample, read_examples
from shibolet.train.packing import Draw

if TYPE_CHECKING:  # transformers: a plan is made without it
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Replayed:
    """The utterances that a training replays, each with the prompt of its source; without any where it replays none."""

    share: float = 0.0
    examples: Sequence[TrainExample] = ()
    ledger: Sequence[LedgerLine] = ()  # of those that cannot be trained on

    def draw(self, config: TrainConfig, num_own: int, seed: int) -> Draw:
        """Which utterances make a step, of so many of the training's own and then these."""
        return Draw(
            num_own=num_own, utterances_per_step=config.utterances_per_step, seed=seed,
            num_replayed=len(self.examples), replayed_per_step=config.replay_per_step(self.share),
        )  # fmt: skip

    def plan(self, config: TrainConfig) -> ReplayPlan | None:
        """What the plan of a training says of it; None where nothing is replayed."""
        if not self.examples:
            return None
        return ReplayPlan(
            share=self.share, per_step=config.replay_per_step(self.share), utterances=len(self.examples),
            audio_h=round(sum(example.duration_s for example in self.examples) / 3600, 4),
        )  # fmt: skip

    def fingerprint(self) -> dict[str, str]:
        """What decides a weight; nothing where nothing is replayed."""
        if not self.examples:
            return {}
        data = [
            [e.id, e.text, e.num_frames, e.replayed_in, e.style, *([e.forms.identity] if e.forms else [])]
            for e in self.examples
        ]
        return {"replay": hash_json([self.share, data])}


def read_replay(
    replay: Replay | None, family: Outline, tokenizer: "PreTrainedTokenizerBase", max_tokens: int,
    own: Sequence[TrainExample], drawing: Drawing | None = None,
) -> Replayed:  # fmt: skip
    """The utterances of every source, each in the prompt of its language, with the forms that `drawing` gives them.

    DataError where one has the id of another, or of the training's `own`.
    """
    if replay is None:
        return Replayed()
    examples, ledger = [], []
    for source in replay.sources:
        targets = family.targets(tokenizer, Prompt(source.language, style=source.style))
        read, lines = read_examples(source.prepared_dir, "train", family, targets, max_tokens, drawing=drawing)
        examples += [
            replace(one, replayed_in=source.language, style=source.style, frame=one.frame or targets.frame)
            for one in read
        ]
        ledger += lines
    known = {example.id for example in own}
    for example in examples:
        if example.id in known:
            raise DataError(
                f"utterance '{example.id}' ({example.audio.path}) is replayed and has the id of another utterance of "
                "this training; rename the source or the utterance"
            )
        known.add(example.id)
    return Replayed(replay.share, examples, ledger)
