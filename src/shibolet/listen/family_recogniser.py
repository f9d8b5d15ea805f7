"""A family's model as a second opinion: its greedy transcript, and the text's teacher-forced likelihood against it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from queue import SimpleQueue

import numpy as np
import torch
import torch.nn.functional as F

from shibolet.listen.batches import by_audio, calls_at_once, forward_lock, pack_audio_s
from shibolet.listen.beside import Beside, workers_beside
from shibolet.listen.decoders import AnyWorker
from shibolet.listen.forced_text import judge, plans_of
from shibolet.listen.protocols import Hearing
from shibolet.listen.transcribe import Transcriber
from shibolet.model.family import LoadedModel
from shibolet.model.protocols import Prompt, Texts

PLAN_S = 60.0  # limit of what a process plans in milliseconds; beyond it the work is done in place
LOGIT_ROWS = 2048  # at once: 150,000 tokens each are 1.2 GB in float32


@dataclass(slots=True)
class _Sound:
    """A clip with all the texts that it is heard under."""

    clip: np.ndarray
    words: dict[int, list[str]] = field(default_factory=dict)  # by place in what is heard together
    plans: dict[int, list[str]] = field(default_factory=dict)  # of each place, the writings of its text
    texts: list[str] = field(default_factory=list)  # the hypothesis and all writings, each once

    def plan(self, hypothesis: str, plans: Sequence[list[str]]) -> None:
        """What is to be scored, now that the hypothesis is known."""
        self.plans = dict(zip(self.words, plans, strict=True))
        self.texts = list(dict.fromkeys([hypothesis, *chain.from_iterable(plans)]))

    def judge(self, hypothesis: str, logps: Mapping[str, np.ndarray]) -> dict[int, Hearing]:
        """What was heard at each place."""
        found = {}
        for place, plan in self.plans.items():
            judged = judge([logps[text] for text in plan], logps[hypothesis])
            found[place] = Hearing(
                hypothesis=hypothesis, text_logp=judged.text_logp, text_score=judged.text_score,
                worst_score=judged.worst_score,
            )  # fmt: skip
        return found


def _plan(
    worker: AnyWorker,
    heard: Sequence[tuple[_Sound, str]],
    language: str,
    encode: Callable[[Sequence[str]], list[list[int]]],
) -> list[list[list[int]]]:
    """Plan sounds whose hypotheses are known; of each, the ids of its texts."""
    asked = [(hypothesis, list(sound.words.values())) for sound, hypothesis in heard]
    plans = worker.run(plans_of, asked, language, timeout_s=PLAN_S)
    for (sound, hypothesis), own in zip(heard, plans, strict=True):
        sound.plan(hypothesis, own)
    ids = iter(encode(list(chain.from_iterable(sound.texts for sound, _ in heard))))
    return [list(islice(ids, len(sound.texts))) for sound, _ in heard]


class FamilyRecogniser:
    """`Recogniser` over a model of a family; one that was trained on the judged clips has learned their errors too."""

    def __init__(
        self,
        loaded: LoadedModel,
        language: str,
        *,
        max_pack_s: float | None = None,
        transcribers: Sequence[Transcriber] | None = None,
    ) -> None:
        """`transcribers`, if they are several, must have modules of their own."""
        self.identity = loaded.identity
        self._loaded, self._family, self._language = loaded, loaded.family, language
        self._max_pack_s = max_pack_s or pack_audio_s(loaded.model.device)
        self._targets = self._family.targets(loaded.tokenizer, Prompt(language))
        self._features = self._family.features(loaded.extractor, loaded.model.device)
        if transcribers is None and (num := calls_at_once(loaded.model.device)) > 1:
            transcribers = [Transcriber(loaded.again(), language, share=1 / num) for _ in range(num)]
        self._transcribers = transcribers or [Transcriber(loaded, language)]
        self.at_once = len(self._transcribers)  # calls of `hear` that compute at the same time
        self._idle: SimpleQueue[Transcriber] = SimpleQueue()
        for transcriber in self._transcribers:
            self._idle.put(transcriber)
        self._forward = forward_lock(loaded.model.device)
        plan = partial(_plan, language=language, encode=self._targets.encode)
        self._plans = Beside(plan, workers_beside(loaded.model.device))

    def hear(self, clips: Sequence[np.ndarray], words: Sequence[list[str]]) -> list[Hearing]:
        """One audio under several texts, given as one array, is transcribed once, and all of them are scored on it."""
        sounds: dict[int, _Sound] = {}
        for place, (clip, said) in enumerate(zip(clips, words, strict=True)):
            sounds.setdefault(id(clip), _Sound(clip)).words[place] = said
        unique = list(sounds.values())

        def texts_of(heard: Sequence[tuple[int, str]]) -> Callable[[], Texts]:
            return self._plans.begin([(unique[number], hypothesis) for number, hypothesis in heard])

        with self._transcribing() as transcriber:
            written = transcriber.write_and_score([sound.clip for sound in unique], texts_of)
        unscored = [(sound, one) for sound, one in zip(unique, written, strict=True) if one.logps is None]
        self._plans.begin([(sound, one.text) for sound, one in unscored])()
        asked = [(sound.clip, text) for sound, _ in unscored for text in sound.texts]
        by_themselves = iter(self.token_logps([clip for clip, _ in asked], [text for _, text in asked]))
        found: dict[int, Hearing] = {}
        for sound, one in zip(unique, written, strict=True):
            logps = islice(by_themselves, len(sound.texts)) if one.logps is None else one.logps
            found |= sound.judge(one.text, dict(zip(sound.texts, logps)))
        return [found[place] for place in range(len(clips))]

    def warm(self) -> None:
        """`Transcriber.warm`, while the processes start that find what is to be scored."""
        self._plans.start()
        for _ in self._transcribers:  # each is put behind the others
            with self._transcribing() as transcriber:
                transcriber.warm()

    @contextmanager
    def _transcribing(self) -> Iterator[Transcriber]:
        transcriber = self._idle.get()
        try:
            with nullcontext() if self.at_once > 1 else self._forward:
                yield transcriber
        finally:
            self._idle.put(transcriber)

    @torch.inference_mode()
    def token_logps(self, clips: Sequence[np.ndarray], texts: Sequence[str]) -> list[np.ndarray]:
        """Log-probabilities of each text's tokens and its end, given its clip and the labels before them.

        By whole sequences: for decoders that score nothing, such as beam search.
        """
        model, family, frame, found = self._loaded.model, self._family, self._targets.frame, []
        for first, last in by_audio(clips, self._max_pack_s):
            heard, written = clips[first:last], self._targets.encode(texts[first:last])
            pack = family.lay_out(frame, written, [family.num_frames(len(clip)) for clip in heard])
            pack = family.with_audio(pack, heard, self._features, model.device)
            counts = [frame.num_targets(len(ids)) for ids in written]
            with self._forward:  # packed attention is a state of the model
                logits = family.logits(model, pack)
            rows = zip(logits.split(LOGIT_ROWS), pack.labels.split(LOGIT_ROWS), strict=True)
            loss = torch.cat([F.cross_entropy(part.float(), labels, reduction="none") for part, labels in rows])
            found += [-own[frame.num_prefix :] for own in np.split(loss.cpu().numpy(), np.cumsum(counts[:-1]))]
        return found
