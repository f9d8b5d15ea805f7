"""The teacher of a training: loaded when a phase needs it, refused where it cannot teach, let go of afterwards."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import PartialState

from shibolet.errors import ModelError, RecipeError
from shibolet.model.family import LoadedModel, load_recogniser
from shibolet.model.folders import identity_of, resolve
from shibolet.model.protocols import Frame
from shibolet.records.documents.training import DevRates
from shibolet.scoring.wording import shown_pct
from shibolet.train.data import TrainExample
from shibolet.train.nodes import this_node
from shibolet.train.ranks import any_rank, from_main
from shibolet.train.teacher_cache import TeacherCache

NO_TEACHER = (
    "a phase of train learns from a teacher, and there is none here: name one in models.teacher; 'search' and 'verify' "
    "know none, so give their recipe train.objective: transcribe and phases without an objective"
)


@dataclass
class Teaching:
    """A teacher and those whom it teaches; every rank has one, and calls its methods with the others."""

    name: str
    student: LoadedModel
    language: str
    frame: Frame  # the student's prompt, which is the teacher's too, of utterances that have none of their own
    examples: Sequence[TrainExample]
    cache_dir: Path
    ranks: PartialState
    _loaded: LoadedModel | None = field(default=None, init=False)

    @property
    def loaded(self) -> LoadedModel:
        """The teacher on the device, in evaluation mode and in the student's precision; read at the first call."""
        if self._loaded is None:
            found = load_recogniser(self.name, dtype=self.student.model.dtype, device=str(self.ranks.device))
            require_one_vocabulary(self.name, found, self.student)
            found.model.requires_grad_(False)
            self._loaded = found
        return self._loaded

    def let_go(self) -> None:
        """Free its memory; the next call of `loaded` reads it again."""
        self._loaded = None
        if self.ranks.device.type == "cuda":
            torch.cuda.empty_cache()

    def require_better(
        self, score_dev: Callable[[LoadedModel, str], DevRates] | None, max_wer_pct: float | None
    ) -> None:
        """RecipeError for a teacher whose WER on dev is over what the recipe allows, or over the student's own."""
        if score_dev is None:
            raise RecipeError(
                "models.teacher: there is no dev split, so nothing shows whether the teacher is better than the "
                "student; raise prepare.dev_frac"
            )
        with torch.no_grad():
            teacher = from_main(score_dev(self.loaded, "of the teacher"))
        self.let_go()  # whichever phase needs it reads it again: others have the memory until then
        said = f"models.teacher '{self.name}' has a WER of {shown_pct(teacher.wer)} on dev"
        if max_wer_pct is not None and 100 * teacher.wer > max_wer_pct:
            raise RecipeError(
                f"{said}, over train.distil.max_teacher_wer_pct of {max_wer_pct:g}; nothing was trained. Take a better "
                "teacher, or raise the limit"
            )
        self.student.model.eval()
        with torch.no_grad():
            student = from_main(score_dev(self.student, "of the student, which is to learn from the teacher"))
        if teacher.wer >= student.wer:
            raise RecipeError(
                f"{said}, and models.base, which is to learn from it, has {shown_pct(student.wer)} already; nothing "
                "was trained. Take a better teacher"
            )

    def cache(self, top_k: int, temperature: float) -> TeacherCache:
        """What the teacher expects at every label of the training set; computed where it is not kept yet."""
        node = this_node()
        cache = TeacherCache(
            self.cache_dir, self.identity, self.language, self.examples, top_k, temperature,
            is_main=node.is_first, wait=lambda: any_rank(False),
        )  # fmt: skip
        # The ranks of a node go through all of it: what another one has may be on another disk.
        if any_rank(not cache.is_whole):
            cache.fill(self.loaded, self.frame, rank=node.local_rank, num_ranks=node.num_ranks)
        return cache

    @property
    def identity(self) -> str:
        """Of its configuration and weights."""
        return identity_of(resolve(self.name)) if self._loaded is None else self._loaded.identity


def require_one_vocabulary(name: str, teacher: LoadedModel, student: LoadedModel) -> None:
    """ModelError for a teacher whose tokens are not the student's."""
    sizes = [one.family.head(one.model).out_features for one in (teacher, student)]
    is_same = teacher.family is student.family and teacher.tokenizer.get_vocab() == student.tokenizer.get_vocab()
    if not is_same or sizes[0] != sizes[1]:
        raise ModelError(
            f"models.teacher '{name}' and models.base have different vocabularies ({sizes[0]:,} and {sizes[1]:,} "
            "tokens): a student learns from the probabilities of the same tokens; take a teacher of the same family "
            "with the same tokenizer"
        )
