"""Protects intervals and splits from taking one voice for many: what shares a speaker or a recording is one group."""

from typing import NamedTuple

from shibolet.records.groups import connected, count_groups, keys_of


class Spoken(NamedTuple):
    recording: str | None = None
    speaker: str | None = None


def grouped(*members: Spoken) -> tuple[list[str], str, str | None]:
    names = connected([keys_of(f"set/u{i}", *member) for i, member in enumerate(members)])
    counted = count_groups(members, names)
    assert counted.number == len(set(names))
    return names, counted.words, counted.caveat


def test_what_shares_a_speaker_or_a_recording_is_joined_through_others_too():
    names, words, caveat = grouped(
        Spoken("r1", "a"), Spoken("r1", "b"), Spoken("r2", "b"), Spoken("r2"), Spoken("r3", "c"), Spoken("r4")
    )
    assert names[:4] == ["speaker a"] * 4 and len(set(names)) == 3
    assert (words, caveat) == ("3 groups of recordings and speakers", None)


def test_a_name_of_a_speaker_is_none_of_a_recording():
    names, _, _ = grouped(Spoken("x"), Spoken(None, "x"))
    assert len(set(names)) == 2


def test_what_is_counted_is_named():
    assert grouped(*[Spoken(speaker="only")] * 46)[1:] == ("1 speaker", None)
    assert grouped(*(Spoken(recording=f"r{i // 2}") for i in range(8)))[1:] == ("4 recordings", None)
    _, words, caveat = grouped(*[Spoken()] * 46)
    assert words == "46 utterances"
    assert caveat == (
        "recordings and speakers unknown: utterances counted as independent, so the interval may be too narrow"
    )
    _, words, caveat = grouped(Spoken(None, "a"), Spoken(None, "b"), Spoken(), Spoken())
    assert words == "2 speakers and 2 utterances of which neither is known" and "2 utterances unknown" in caveat
