"""What a model writes where nobody speaks its language, and whether it repeats what it was told in its context.

Words a minute are those of the text without a context. An echo is a clip whose text with a context has a word of it
that the text without it lacks: the model wrote what it was told and not what it heard.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import soundfile as sf

from shibolet.errors import DataError
from shibolet.evaluate.config import EvaluateConfig, NonSpeechConfig
from shibolet.evaluate.hear import Hearer, Progress, hear
from shibolet.evaluate.stage import with_files
from shibolet.listen.lazy import Engines
from shibolet.records.documents.comparison import Named
from shibolet.records.documents.non_speech import MADE, NonSpeech, NonSpeechClip, NonSpeechKind
from shibolet.records.groups import connected, keys_of
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.speech.audio import SAMPLE_RATE_HZ
from shibolet.speech.non_speech import non_speech_clip
from shibolet.speech.text import get_language
from shibolet.speech.text.terms import as_context, words_of

EngineOf = Callable[[str], Hearer | Engines]  # a context as the prompt has it, "" for none -> who transcribes with it


def made_clips(config: NonSpeechConfig, folder: Path) -> list[Utterance]:
    """The clips that are made from code, as files in a folder; the source of each is its kind."""
    found = []
    for kind in MADE:
        for number in range(config.clips_per_kind):
            path = folder / f"{kind}-{number}.wav"
            sf.write(path, non_speech_clip(kind, number, config.clip_s), SAMPLE_RATE_HZ, subtype="PCM_16")
            ref = AudioRef(path=str(path))
            found.append(Utterance(id=path.stem, audio=ref, text="", duration_s=config.clip_s, source=kind))
    return found


def hear_non_speech(
    engine_of: EngineOf,
    clips: Sequence[Utterance],
    *,
    is_speech: Sequence[str],
    context: Sequence[str],
    language: str,
    config: EvaluateConfig,
    named: Named,
    identity: str,
    on_progress: Progress | None = None,
) -> NonSpeech:
    """What one model writes for clips, whose sources are their kinds, without a context and then with one, if any.

    `is_speech` names the kinds in which somebody speaks another language. A clip that cannot be decoded is left out and
    listed: an empty text would count as silence. DataError where that leaves nothing of a kind without speech.
    """
    normalise, terms = get_language(language).to_scoring, words_of(context, get_language(language).to_scoring)
    passes = 2 if context else 1
    heard = []
    for number, told in enumerate(["", as_context(context)][:passes]):
        advance = on_progress and (lambda done, total, n=number: on_progress(n * total + done, passes * total))
        heard.append(hear(engine_of(told), clips, config, advance))
    lost = {failure.id: failure for failure in heard[0].failures}
    for kind in dict.fromkeys(clip.source for clip in clips if clip.source not in is_speech):
        own = [clip.id for clip in clips if clip.source == kind]
        if lost.keys() >= {*own}:
            raise DataError(
                f"evaluate.non_speech: no clip of '{kind}' can be decoded; the first is '{own[0]}': "
                f"{lost[own[0]].detail}; put other files there, or leave it out"
            )
    found = []
    groups = connected([keys_of(one.id, one.recording, one.speaker) for one in with_files(clips)])
    for place, clip in enumerate(clips):
        if clip.id in lost:
            continue
        words = normalise(heard[0].hypotheses[place]).split()
        with_context = normalise(heard[1].hypotheses[place]).split() if context else []
        repeated = tuple(dict.fromkeys(word for word in with_context if word in terms and word not in words))
        found.append(
            NonSpeechClip(
                id=clip.id, kind=clip.source, group=groups[place], duration_s=clip.duration_s,
                text=heard[0].hypotheses[place], words=len(words), repeated=repeated if context else None,
            )
        )  # fmt: skip
    return NonSpeech(
        label=named.label, title=named.title, identity=identity, context=context, is_speech=is_speech,
        kinds=kinds_of(found), clips=found, failures=heard[0].failures,
    )  # fmt: skip


def kinds_of(clips: Sequence[NonSpeechClip]) -> dict[str, NonSpeechKind]:
    """Their sums by kind, in the order in which kinds come."""
    return {kind: _kind([one for one in clips if one.kind == kind]) for kind in dict.fromkeys(c.kind for c in clips)}


def _kind(clips: Sequence[NonSpeechClip]) -> NonSpeechKind:
    words, duration_s = sum(clip.words for clip in clips), sum(clip.duration_s for clip in clips)
    return NonSpeechKind(
        clips=len(clips), duration_s=round(duration_s, 3), with_words=sum(clip.words > 0 for clip in clips),
        words=words, words_per_minute=round(60 * words / duration_s, 3),
        echoes=None if clips[0].repeated is None else sum(bool(clip.repeated) for clip in clips),
    )  # fmt: skip
