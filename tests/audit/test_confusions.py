"""Words that are steadily heard as others, and what the gate makes of them."""

import random
from concurrent.futures import Future
from dataclasses import replace

import pytest
from rapidfuzz.distance import Levenshtein

from shibolet.audit import confusions as module
from shibolet.audit.confusions import Confusions, confusions
from shibolet.audit.workers import MIN_DISTANCE, read_otherwise
from shibolet.listen.decoders import Decoders, InThisProcess
from shibolet.listen.processes import WorkerLost
from shibolet.records.audited import Audited
from shibolet.scoring.counts import align_words
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


class Begun:
    """Decoders that begin with every `takes`-th job at once, and are lost over every third text."""

    num_workers = 2

    def __init__(self, takes: int) -> None:
        self.takes, self.jobs = takes, []

    def submit(self, function, texts):
        self.jobs.append(job := Future())
        if len(self.jobs) % self.takes == 0:
            read = function(InThisProcess(), texts)
            lost = WorkerLost("decoder_hung", "too slow")
            job.set_running_or_notify_cancel()
            job.set_result([lost if i % 3 == 0 else one for i, one in enumerate(read)])
        return job


@pytest.mark.parametrize("decoders", [Decoders(0), Begun(1), Begun(2), Begun(10**6)], ids=["threads", "1", "2", "none"])
def test_whoever_compares_the_counts_are_the_same(said, decoders, monkeypatch) -> None:
    """Processes that are lost or busy with something else must cost no row, and rows come out as they went in."""
    monkeypatch.setattr(module, "TOGETHER", 7)
    rows = [row(i, text.replace("two", "enter"), text) for i, text in enumerate(said * 2)]
    rows[5:5] = [row(999, "one", "", failure="too_short")]
    counted = Confusions("English", decoders)
    assert list(counted.passing(rows)) == rows
    assert counted.found() == confusions(rows, "English") != ([], {})
    if isinstance(decoders, Begun):
        assert len(decoders.jobs) > 10 and all(job.done() for job in decoders.jobs)


def test_words_are_aligned_as_scores_align_them() -> None:
    """The audit must not call another word confused than a report of errors does."""
    rng = random.Random(2)
    texts = [([rng.choice(WORDS) for _ in range(rng.randint(0, 9))], rng.choices(WORDS, k=8)) for _ in range(300)]
    for (words, heard), (text, pairs) in zip(
        texts, read_otherwise([(one, " ".join(other)) for one, other in texts], "English"), strict=True
    ):
        expected = [
            (written, other)
            for operation, written, other in align_words(" ".join(words), " ".join(heard))
            if operation == "sub" and Levenshtein.normalized_distance(written, other) > MIN_DISTANCE
        ]
        assert (text, pairs) == (words, expected)
