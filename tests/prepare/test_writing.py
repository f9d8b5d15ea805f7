"""Style by source: protects from sources that unteach each other's marks without a word, and from false alarms."""

import random

from shibolet.prepare.writing import writing_of
from shibolet.records.utterance import AudioRef, Utterance


def source(name: str, texts: list[str], speakers: int = 20, domain: str | None = None) -> list[Utterance]:
    return [
        Utterance(
            id=f"{name}/{i}", audio=AudioRef(path=""), text=text, duration_s=1.0, source=name, domain=domain,
            speaker=f"{name}-{i % speakers}",
        )
        for i, text in enumerate(texts)
    ]  # fmt: skip


def test_what_is_counted_of_a_text():
    (style,) = writing_of(source("he", ['שָׁלוֹם, צה"ל. 5', "צה״ל Word", "כן... לא!!"])).styles
    assert (style.texts, style.domain, style.words_per_text.rate) == (3, None, round(7 / 3, 6))
    assert (style.marks_per_word.rate, style.ends_in_mark.rate) == (round(4 / 7, 6), round(1 / 3, 6))
    assert (style.words_with_digits.rate, style.pointed_words.rate) == (round(1 / 7, 6),) * 2
    assert (style.own_geresh.rate, style.capitals.rate) == (0.5, 0.25)
    assert style.latin_letters.rate == round(4 / 18, 6) and style.marks_per_word.interval is None, "too few groups"


def test_a_source_without_marks_is_told_beside_one_with_marks():
    draw = random.Random(0)
    words = lambda: " ".join(draw.choice(["שלום", "טוב", "בית"]) for _ in range(6))  # noqa: E731
    plain, marked = (
        source("plain", [words() for _ in range(200)]),
        source("marked", [words() + "." for _ in range(200)]),
    )
    found = writing_of([*plain, *marked])
    assert [style.source for style in found.styles] == ["plain", "marked"]
    assert len(found.warnings) == 2
    assert found.warnings[0].startswith(
        "'plain' and 'marked' write differently: punctuation marks a word 0.000 (0.000 to 0.000) and 0.167"
    )
    assert "end in a mark" in found.warnings[1]


def test_two_halves_of_one_source_are_told_nothing_of():
    """Over 40 draws of 20 speakers, each with a habit of their own: no difference where there is none."""
    num = 0
    for seed in range(40):
        draw = random.Random(seed)
        texts = []
        for name in ("a", "b"):
            habits = [draw.random() for _ in range(20)]
            texts += source(name, ["כן לא" + "." * (draw.random() < habits[i % 20]) for i in range(200)])
        num += len(writing_of(texts).warnings)
    assert num == 0


def test_domains_of_a_source_stand_beside_it():
    texts = [*source("s", ["a, b."] * 3, domain="news"), *source("s2", ["a b"] * 2)]
    texts += [u for u in source("s", ["Call 5"] * 2, domain="phone")]
    styles = writing_of(texts).styles
    assert [(one.source, one.domain, one.texts) for one in styles] == [
        ("s", None, 5), ("s", "news", 3), ("s", "phone", 2), ("s2", None, 2),
    ]  # fmt: skip
    assert styles[2].words_with_digits.rate == 0.5
