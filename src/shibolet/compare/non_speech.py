"""What two models write where nobody speaks their language: words a minute, and repeats of what they were told."""

from collections.abc import Sequence

from shibolet.compare.config import CompareConfig
from shibolet.errors import DataError
from shibolet.records.documents.comparison import LossTally, NonSpeechChange, NonSpeechPair
from shibolet.records.documents.non_speech import NonSpeech, NonSpeechClip
from shibolet.records.documents.scores import Ends

Sides = tuple[NonSpeech, NonSpeech]  # of baseline and candidate


def non_speech_change(sides: Sides, config: CompareConfig) -> NonSpeechChange | None:
    """The difference with its interval over the clips' recordings and speakers; None where no clip is without speech.

    Words count in clips without speech, echoes in all. DataError where the two heard other clips.
    """
    before, after = sides
    if [one.id for one in before.clips] != [one.id for one in after.clips] or before.context != after.context:
        raise DataError(
            f"{before.title} and {after.title} heard other clips without speech; 'shibolet evaluate RECIPE' has both "
            "hear the same"
        )
    clips = [pair for pair in zip(before.clips, after.clips, strict=True) if pair[0].kind not in before.is_speech]
    if not clips:
        return None
    minutes = sum(one.duration_s for one, _ in clips) / 60
    rates = tuple(sum(pair[side].words for pair in clips) / minutes for side in (0, 1))
    echoes = _tally([tuple(map(_echoes, pair)) for pair in zip(before.clips, after.clips, strict=True)])
    change = NonSpeechChange(
        clips=len(clips), duration_s=round(60 * minutes, 3), words_per_minute=rates,
        more_per_minute=rates[1] - rates[0],
        interval=_interval(clips, config), limit=config.max_extra_words_per_minute,
        kinds={kind: NonSpeechPair(baseline=one, candidate=after.kinds[kind]) for kind, one in before.kinds.items()},
        is_speech=before.is_speech, context=before.context, echoes=echoes if before.context else None, sentence="",
    )  # fmt: skip
    sentence = _sentence(change, (before.title, after.title), len(before.clips), before.left_out)
    return change.model_copy(update={"sentence": sentence})


def _interval(clips: Sequence[tuple[NonSpeechClip, NonSpeechClip]], config: CompareConfig) -> Ends | None:
    """At 95%, in words a minute, over clips by recording and speaker."""
    import numpy as np

    from shibolet.scoring.intervals import ratio_intervals

    more = np.array([[two.words - one.words] for one, two in clips], dtype=float)
    minutes = np.array([[one.duration_s / 60] for one, _ in clips])
    groups = [one.group for one, _ in clips]
    (found,) = ratio_intervals(more, minutes, groups, samples=config.bootstrap_samples, seed=config.seed)
    return None if found.low is None else (found.low, found.high)


def _echoes(clip: NonSpeechClip) -> bool:
    return bool(clip.repeated)


def _tally(pairs: Sequence[tuple[bool, ...]]) -> LossTally:
    from shibolet.scoring.rare import PairedLosses

    return PairedLosses(
        num_utterances=len(pairs), num_pieces=len(pairs), first=sum(one for one, _ in pairs),
        second=sum(two for _, two in pairs), first_alone=sum(one and not two for one, two in pairs),
        second_alone=sum(two and not one for one, two in pairs),
    ).tally()  # fmt: skip


def _sentence(change: NonSpeechChange, titles: tuple[str, str], num_clips: int, left_out: str) -> str:
    one, two = change.words_per_minute
    within = "too few clips for an interval"
    if change.interval is not None:
        within = "95% interval {:+.1f} to {:+.1f}".format(*change.interval)
    said = (
        f"Where nobody speaks ({change.clips} clips, {change.duration_s / 60:.1f} min) {titles[0]} writes {one:.1f} "
        f"words a minute and {titles[1]} {two:.1f} ({change.more_per_minute:+.1f}, {within})"
    )
    if change.echoes is None:
        return f"{said}.{left_out}"
    terms = f"{len(change.context)} term{'s' * (len(change.context) > 1)}"
    return (
        f"{said}. Told {terms}, {titles[0]} repeats some in {change.echoes.baseline} of "
        f"{num_clips} clips in which they are not said, and {titles[1]} in {change.echoes.candidate}.{left_out}"
    )
