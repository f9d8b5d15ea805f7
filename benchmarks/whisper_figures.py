"""From hypotheses in the results of `whisper_*.py` to rates and differences with intervals, by `shibolet.compare`."""

import json
from collections.abc import Mapping, Sequence
from typing import Any


def rows_of(utterances: Sequence, heard: Mapping[str, str], set_name: str, language: str) -> list:
    """Scored rows of the utterances that have a hypothesis."""
    from shibolet.scoring.rows import score_row
    from shibolet.speech.text import get_language

    normaliser = get_language(language).to_scoring
    return [score_row(u, heard[u.id], set=set_name, normaliser=normaliser) for u in utterances if u.id in heard]


def differences(first: Sequence, second: Sequence, titles: tuple[str, str], language: str) -> dict[str, dict]:
    """Two systems as written and in the nearest reading: rates, interval of the difference over speakers, in points."""
    from shibolet.compare import CompareConfig, compare_pair
    from shibolet.records.candidate import named
    from shibolet.scoring.nearest import in_nearest_reading
    from shibolet.speech.text import get_language

    names = tuple(map(named, titles))
    near = in_nearest_reading([first, second], get_language(language))
    made = {}
    for kind, rows in (("raw", (first, second)), ("nearest", near)):
        pair = compare_pair(*rows, CompareConfig(), names)
        wer = pair.overall.wer
        made[kind] = {
            "before_pct": _pct(wer.baseline.rate),
            "after_pct": _pct(wer.candidate.rate),
            "errors": [wer.baseline.errors, wer.candidate.errors],
            "words": wer.baseline.words,
            "points": _rounded(wer.delta_points),
            "interval": wer.interval_points and [_rounded(end) for end in wer.interval_points],
            "relative_pct": _rounded(wer.delta_relative_pct),
            "groups": pair.overall.groups,
            "by_set": {name: [_pct(side.rate) for side in block.wer.sides] for name, block in pair.sets.items()},
        }
    return made


def _pct(rate: float | None) -> float | None:
    return None if rate is None else round(100 * rate, 2)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def show(name: str, figures: Mapping[str, Any]) -> None:
    """A line of JSON for people and programs."""
    print(json.dumps({"what": name, **figures}, ensure_ascii=False), flush=True)
