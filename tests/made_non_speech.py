"""What models wrote where nobody speaks, from numbers of words, for tests that only need to have some."""

from made_scores import ROUNDS

from shibolet.evaluate.non_speech import kinds_of
from shibolet.records.documents.non_speech import NonSpeech, NonSpeechClip

CLIP_S = 5.0


def heard(words: list[int], echoes: int = 0, foreign: list[int] = (), name: int = 0, together: int = 1) -> NonSpeech:
    """One that writes so many words in each clip, and repeats its context in the first ones.

    So many clips, one after the other, are `together` of one recording.
    """
    kinds = ["silence"] * len(words) + ["speech: english"] * len(foreign)
    clips = [
        NonSpeechClip(
            id=f"c{i}",
            kind=kind,
            group=f"r{i // together}",
            duration_s=CLIP_S,
            text="",
            words=num,
            repeated=("dana",) if i < echoes else (),
        )
        for i, (kind, num) in enumerate(zip(kinds, [*words, *foreign], strict=True))
    ]
    return NonSpeech(
        label=ROUNDS[name].label, title=ROUNDS[name].title, identity="0", context=("dana",),
        is_speech=("speech: english",) if foreign else (), clips=clips, failures=(),
        kinds=kinds_of(clips),
    )  # fmt: skip
