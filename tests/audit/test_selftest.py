"""The self-test's halves and tallies: nothing is tested on what it was fitted on, and no domain hides in the whole."""

import pytest

from shibolet.audit import selftest
from shibolet.audit.selftest import DAMAGES, HARMLESS, MILD, MIN_CLIPS, NUM_FOLDS, ROWS, TAUGHT, summarise
from shibolet.records.documents.alignment import Tally


def folds(keys, cluster_of):
    """Of clips of one domain."""
    return selftest.folds(keys, cluster_of, dict.fromkeys(cluster_of, "one"))


def test_a_domain_of_one_voice_stands_in_every_fold() -> None:
    """Or the map that judges it would never have heard it."""
    keys = [f"studio/{i}" for i in range(40)] + [f"street/{i}" for i in range(60)]
    domains = {key: key.partition("/")[0] for key in keys}
    cluster_of = {key: "one speaker" if key.startswith("studio") else key for key in keys}
    found = selftest.folds(keys, cluster_of, domains)
    assert [sum(domains[key] == "studio" for key in fold) for fold in found] == [40 // NUM_FOLDS] * NUM_FOLDS
    assert sorted(key for fold in found for key in fold) == sorted(keys)


@pytest.mark.parametrize("seed", range(20))
def test_clips_of_their_own_are_dealt_out_evenly(seed: int) -> None:
    """By a hash of their names alone twelve clips fell eight to four, and four clips fit no map."""
    keys = [f"{seed}/{i}" for i in range(12)]
    found = folds(keys, {key: key for key in keys})
    assert sorted(map(len, found)) == [2, 2, 2, 3, 3] and sorted(key for fold in found for key in fold) == sorted(keys)


def test_a_speaker_or_recording_is_in_one_fold_alone() -> None:
    """A map that knows a voice is not tested by it."""
    sizes = [12, 11, 9, 7, 5, 5, 5, 3, 2, 1]
    cluster_of = {f"c{c}-{i}": f"c{c}" for c, size in enumerate(sizes) for i in range(size)}
    found = folds(cluster_of, cluster_of)
    clusters = [{cluster_of[key] for key in fold} for fold in found]
    assert len(found) == NUM_FOLDS and sum(map(len, clusters)) == len(sizes)
    assert max(map(len, found)) - min(map(len, found)) <= 2
    assert [sorted(fold) for fold in folds(list(cluster_of)[::-1], cluster_of)] == [sorted(fold) for fold in found]


def test_a_voice_that_is_most_of_the_data_is_dealt_out() -> None:
    """Or what is tested on it saw hardly any clip, and a data set of one speaker could not be tested at all."""
    keys = [f"u{i}" for i in range(30)]
    one = dict.fromkeys(keys, "anna")
    assert [len(fold) for fold in folds(keys, one)] == [6] * 5
    mostly = one | dict.fromkeys(keys[:9], "ben")
    assert sorted(map(len, folds(keys, mostly)))[0] >= 5
    assert folds([], {}) == []


def flags(domains: dict[str, int], deaf: str = "") -> tuple[dict, dict]:
    """Verdicts on clips of these domains by a sound instrument, that finds no damage in one of them."""
    domain_of = {f"{name}{i}": name for name, num in domains.items() for i in range(num)}
    found = {kind: {key: domain != deaf for key, domain in domain_of.items()} for kind in (*DAMAGES, *MILD)}
    found |= {kind: dict.fromkeys(domain_of, False) for kind in (selftest.UNTOUCHED, *TAUGHT)}
    return found, domain_of


def test_each_domain_has_a_tally_and_one_with_too_few_clips_is_named() -> None:
    """A tally of four clips proves nothing, and a domain that is silently left out looks tested."""
    sizes = {"studio": 100, "phone": MIN_CLIPS, "tiny": MIN_CLIPS - 1}
    flagged, domain_of = flags(sizes, deaf="phone")
    found = summarise(flagged, dict.fromkeys(domain_of, 8), domain_of, 6)
    total = sum(sizes.values())
    assert found.untested == {"tiny": MIN_CLIPS - 1} and list(found.domains) == ["phone", "studio"]
    assert found.domains["phone"].damaged["swapped"] == Tally(hits=0, total=MIN_CLIPS)
    assert found.domains["studio"].damaged["swapped"] == Tally(hits=100, total=100)
    assert found.damaged["swapped"] == Tally(hits=total - MIN_CLIPS, total=total)
    assert found.untouched == Tally(hits=0, total=total)
    assert found.domains["phone"].untouched == Tally(hits=0, total=MIN_CLIPS)


def test_a_verdict_that_changes_in_babble_is_no_fault_and_one_that_changes_with_the_level_is() -> None:
    """What noise does to a clip is taught to the map; loudness and speed must not matter."""
    flagged, domain_of = flags({"studio": 30})
    flagged["in_babble"] = dict.fromkeys(domain_of, True)
    found = summarise(flagged, dict.fromkeys(domain_of, 8), domain_of, 6)
    assert found.harmless == Tally(hits=0, total=3 * 30)
    flagged["quieter"]["studio0"] = True
    for kind in ("untouched", *HARMLESS):
        flagged[kind]["studio1"] = True  # the same verdict as the original's, though it is a flag
    found = summarise(flagged, dict.fromkeys(domain_of, 8), domain_of, 6)
    assert found.harmless == Tally(hits=1, total=90) and found.untouched == Tally(hits=1, total=30)


def test_damage_counts_on_long_clips_where_there_are_enough_of_them() -> None:
    flagged, domain_of = flags({"studio": 60})
    num_words = {key: 8 if i < 20 else 3 for i, key in enumerate(domain_of)}
    assert summarise(flagged, num_words, domain_of, 6).damaged["swapped"].total == 20
    num_words[next(iter(num_words))] = 3
    assert summarise(flagged, num_words, domain_of, 6).damaged["swapped"].total == 60


def test_kinds_that_nobody_could_hear_are_empty_tallies() -> None:
    """Copies with changed audio are missing where hypotheses come from a file: no hit may be made up for them."""
    flagged, domain_of = flags({"studio": 30})
    texts = {kind: own for kind, own in flagged.items() if kind in ("untouched", "swapped", "text_halved")}
    found = summarise(texts, dict.fromkeys(domain_of, 8), domain_of, 6)
    assert found.damaged["silent"] == found.harmless == Tally(hits=0, total=0)
    assert found.damaged["swapped"] == Tally(hits=30, total=30)


def test_the_map_learns_from_noise_that_is_no_damage() -> None:
    """Without it every clip behind babble is under the line."""
    assert "in_babble" in TAUGHT and "in_babble" not in HARMLESS and not set(TAUGHT) & set(DAMAGES)
    assert set(HARMLESS) < set(TAUGHT) and {row.name for row in ROWS} == set(TAUGHT) | set(DAMAGES) | set(MILD)
    assert len({row.name for row in ROWS}) == len(ROWS) == len(TAUGHT) + len(DAMAGES) + len(MILD)


def test_mild_damage_has_a_tally_of_its_own() -> None:
    """Among the kinds that the gate demands it would make every sound instrument INVALID."""
    flagged, domain_of = flags({"studio": 30})
    flagged["text_quarter_cut"] = dict.fromkeys(domain_of, False)
    found = summarise(flagged, dict.fromkeys(domain_of, 8), domain_of, 6)
    assert found.mild == found.domains["studio"].mild
    assert found.mild == {
        "fifth_substituted": Tally(hits=30, total=30),
        "text_quarter_cut": Tally(hits=0, total=30),
    }
    assert not set(MILD) & set(found.damaged)
