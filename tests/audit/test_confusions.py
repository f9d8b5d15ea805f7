"""Words that are steadily heard as others, and what the gate makes of them."""

import random
from dataclasses import replace

import pytest

from shibolet.audit.confusions import confusions
from shibolet.records.audited import Audited
from shibolet.speech.text import get_language

RULES = get_language("English")
WORDS = "one two three enter erase stop help start repeat number".split()


def row(place: int, text: str, heard: str, speaker: str | None = None, **changes) -> Audited:
    cer = 0.0 if text == heard else 0.3
    return Audited(
        **{"id": f"u{place}", "source": "s", "speaker": speaker or f"v{place % 5}", "domain": "clean", "text": text,
           "duration_s": 2.0, "is_low_quality": False, "hypothesis": heard, "words": RULES.to_words(text).tokens,
           "cer": cer, **changes}
    )  # fmt: skip


@pytest.fixture
def said() -> list[str]:
    rng = random.Random(0)
    return [" ".join(rng.sample(WORDS, 5)) for _ in range(80)]


def test_a_word_that_is_written_for_another_is_found_and_no_other(said) -> None:
    """A clip with one wrong word is no unlikely one, so it passes; the habit behind it must not."""
    rows = [row(i, text.replace("two", "enter"), text) for i, text in enumerate(said)]
    found, num = confusions(rows, "English")
    (one,) = found
    damaged = sum("two" in text for text in said)
    assert (one.text, one.heard, one.clusters) == ("enter", "two", 5)
    assert one.count == pytest.approx(damaged, abs=3) and one.count <= damaged == num["clean"]
    assert one.occurrences == damaged + sum("enter" in text for text in said)
    flagged = [row(i, text.replace("two", "enter"), text, is_low_quality=True) for i, text in enumerate(said)]
    assert confusions(flagged, "English")[1] == {}, "what is flagged already is counted there"


def test_what_is_heard_wrong_now_and_then_is_no_habit(said) -> None:
    """Every recogniser errs; what befalls one word again and again, with several speakers, tells of texts."""
    rng = random.Random(1)
    scattered = [row(i, text, " ".join(rng.sample(WORDS, 5))) for i, text in enumerate(said[:12])]
    rare = [row(i, text, text.replace("two", "enter")) for i, text in enumerate(said) if "two" in text][:9]
    assert confusions(scattered, "English") == ([], {})
    assert confusions(rare, "English") == ([], {})
    one_speaker = [row(i, text, text.replace("two", "enter"), speaker="v") for i, text in enumerate(said)]
    assert confusions(one_speaker, "English") == ([], {}), "a voice may say a word in its own way"
    unknown = [replace(one, speaker=None) if i == 0 else one for i, one in enumerate(one_speaker)]
    assert confusions(unknown, "English") == ([], {}), "one that is not known is one at most"
    near = [row(i, text.replace("stop", "color"), text.replace("stop", "colour")) for i, text in enumerate(said)]
    assert confusions(near, "English") == ([], {}), "a spelling"
    numbers = [row(i, text, text.replace("two", "2")) for i, text in enumerate(said)]
    assert confusions(numbers, "English") == ([], {}), "a way of writing"
    few = [
        row(i, text, text.replace("two", "enter")) if i % 11 == 0 else row(i, text, text)
        for i, text in enumerate(said * 3)
    ]
    assert confusions(few, "English") == ([], {}), "under a tenth of its occurrences"
