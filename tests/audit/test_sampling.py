"""Protects the sample: it depends on content, grows without redrawing, and gives every stratum its share."""

import random
from array import array
from collections import Counter
from collections.abc import Sequence

import pytest

from shibolet.audit.sampling import Sample, SampleConfig, draw_sample, lot
from shibolet.errors import DataError, RecipeError
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.scoring.allocation import in_proportion, turns

SHARES = {"whatsapp_noisy": 0.4, "kan_clean": 0.4, "long_tail": 0.2}


def corpus(**sizes: int) -> list[Utterance]:
    return [
        Utterance(
            id=f"{domain}-{i}", audio=AudioRef(path="a.wav"), text="שלום", duration_s=3.6, source="set", domain=domain
        )
        for domain, size in sizes.items()
        for i in range(size)
    ]


def counts(sample: Sample) -> dict[str, int]:
    return {name: len(stratum.places) for name, stratum in sample.strata.items()}


def ids(sample: Sample, utterances: Sequence[Utterance]) -> list[str]:
    """Of those that are drawn, in their order."""
    return [utterances[place].id for place in sample.in_order]


def test_shares_of_the_specification():
    sample = draw_sample(corpus(whatsapp_noisy=6000, kan_clean=2000, long_tail=2000), SampleConfig(shares=SHARES))
    assert counts(sample) == {"whatsapp_noisy": 400, "kan_clean": 400, "long_tail": 200}
    assert sample.notes == ()
    assert sample.strata["kan_clean"].num_utterances == 2000
    assert sample.strata["kan_clean"].hours == pytest.approx(2.0)
    assert len(set(sample.in_order)) == 1000


def test_order_of_the_input_does_not_matter_and_the_seed_does():
    utterances = corpus(whatsapp_noisy=900, kan_clean=900, long_tail=900)
    first = ids(draw_sample(utterances, SampleConfig()), utterances)
    random.Random(0).shuffle(utterances)
    assert ids(draw_sample(utterances, SampleConfig()), utterances) == first
    assert set(ids(draw_sample(utterances, SampleConfig(seed=1)), utterances)) != set(first)


def test_those_with_the_smallest_lots_are_drawn_from_each_domain():
    """By the definition: a draw that sorts by anything else would give every folder of an audit another sample."""
    utterances = corpus(a=700, b=80, c=3)
    random.Random(0).shuffle(utterances)
    sample = draw_sample(utterances, SampleConfig(seed=5))
    for name, stratum in sample.strata.items():
        own = sorted((u.id for u in utterances if u.domain == name), key=lambda id: lot(5, id))
        assert [utterances[place].id for place in stratum.places] == own[: len(stratum.places)]
    assert 0 < len(sample.strata["a"].places) < 700


@pytest.mark.parametrize(
    "sizes",
    [
        {"whatsapp_noisy": 500, "kan_clean": 300, "long_tail": 40},
        {"whatsapp_noisy": 700, "phone": 90, "radio": 3},
        {"phone": 300, "radio": 5},
    ],
)
@pytest.mark.parametrize("shares", [SHARES, {}])
def test_a_larger_sample_contains_the_smaller_one(sizes, shares):
    utterances, smaller = corpus(**sizes), array("q")
    for number in range(1, len(utterances) + 1, 7):
        sample = draw_sample(utterances, SampleConfig(max_utterances=number, min_utterances=number, shares=shares))
        larger = sample.in_order
        assert len(larger) == number == len(set(larger)) and larger[: len(smaller)] == smaller
        smaller = larger
    assert smaller


@pytest.mark.parametrize("shares", [SHARES, {}])
def test_an_extended_sample_begins_with_the_first_look_and_goes_on_in_proportion(shares):
    utterances = corpus(whatsapp_noisy=500, kan_clean=9000, long_tail=500)
    first = draw_sample(utterances, SampleConfig(sample_frac=0.05, shares=shares))
    longer = [draw_sample(utterances, SampleConfig(sample_frac=0.05, shares=shares, extend_to=n)) for n in (900, 2000)]
    assert first.in_order == longer[0].in_order[:500] and longer[0].in_order == longer[1].in_order[:900]
    at_first = {"whatsapp_noisy": 200, "kan_clean": 200, "long_tail": 100}
    assert counts(first) == (at_first if shares else {"whatsapp_noisy": 30, "kan_clean": 440, "long_tail": 30})
    expected = at_first | {"kan_clean": 600} if shares else {"whatsapp_noisy": 45, "kan_clean": 810, "long_tail": 45}
    assert counts(longer[0]) == expected
    assert any("400 more are drawn in proportion" in note for note in longer[0].notes)
    sizes = {"whatsapp_noisy": 500, "kan_clean": 9000, "long_tail": 500}
    about = in_proportion(sizes, 2000, counts(first))
    assert all(abs(about[name] - num) < 2 for name, num in counts(longer[1]).items())


def test_without_shares_each_stratum_has_thirty_or_all_of_it():
    sample = draw_sample(corpus(a=9000, b=60, c=12), SampleConfig(sample_frac=0.01))
    assert counts(sample) == {"a": 258, "b": 30, "c": 12}


def test_a_sample_is_random_within_its_stratum():
    """Each of 40 utterances is drawn in about half of 400 seeds: four standard errors are 40."""
    utterances = corpus(phone=40)
    drawn = Counter(
        place
        for seed in range(400)
        for place in draw_sample(utterances, SampleConfig(sample_frac=0.5, min_utterances=1, seed=seed)).in_order
    )
    assert len(drawn) == 40 and all(160 <= count <= 240 for count in drawn.values())


def test_a_small_stratum_gives_its_share_to_the_others():
    sample = draw_sample(corpus(whatsapp_noisy=6000, kan_clean=3900, long_tail=100), SampleConfig(shares=SHARES))
    assert counts(sample) == {"whatsapp_noisy": 450, "kan_clean": 450, "long_tail": 100}
    assert any("'long_tail' has 100 utterances where its share asks for 200" in note for note in sample.notes)


def test_an_absent_stratum_gives_its_share_to_the_others():
    sample = draw_sample(corpus(whatsapp_noisy=6000, kan_clean=4000), SampleConfig(shares=SHARES))
    assert counts(sample) == {"whatsapp_noisy": 500, "kan_clean": 500}
    assert sample.notes == ("No utterance belongs to 'long_tail': its share of 20% goes to the others.",)


def test_strata_without_a_share_are_drawn_as_in_the_population():
    sample = draw_sample(
        corpus(whatsapp_noisy=4000, kan_clean=3000, long_tail=1000, phone=2000), SampleConfig(shares=SHARES)
    )
    assert counts(sample) == {"whatsapp_noisy": 320, "kan_clean": 320, "long_tail": 160, "phone": 200}
    assert sample.notes == ("'phone' has no share in the recipe: drawn as in the population (20.0%).",)


def test_a_rare_stratum_is_heard_twice_so_that_its_rate_exists():
    sample = draw_sample(corpus(whatsapp_noisy=9990, phone=10), SampleConfig(shares=SHARES))
    assert counts(sample)["phone"] == 2


def test_everything():
    utterances = corpus(whatsapp_noisy=50, phone=7)
    for config in (SampleConfig(sample_frac=1.0), SampleConfig(min_utterances=1000)):
        sample = draw_sample(utterances, config)
        assert sorted(sample.in_order) == list(range(len(utterances)))
        assert sample.notes == ("Every one of 57 utterances is heard: there is no sampling error.",)


def test_limits_are_said():
    utterances = corpus(whatsapp_noisy=400, kan_clean=400, long_tail=200)
    assert "300 are drawn because of min_utterances" in draw_sample(utterances, SampleConfig()).notes[0]
    capped = SampleConfig(sample_frac=1.0, max_utterances=500)
    assert "500 are drawn because of max_utterances" in draw_sample(utterances, capped).notes[0]


@pytest.mark.parametrize("total", [0, 1, 5, 7, 100, 812, 900])
@pytest.mark.parametrize("shares", [SHARES, None])
def test_allocation_adds_up(total, shares):
    sizes = {"whatsapp_noisy": 500, "kan_clean": 300, "long_tail": 12}
    places = Counter(turns(sizes, total, shares))
    assert sum(places.values()) == min(total, 812)
    assert all(places[name] <= sizes[name] for name in sizes)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"shares": {"a": 0.4, "b": 0.4}}, "add up to 1"),
        ({"shares": {"a": 1.2, "b": -0.2}}, "positive"),
        ({"max_utterances": 100}, "under min_utterances 300"),
    ],
)
def test_impossible_settings_are_refused(settings, match):
    with pytest.raises(RecipeError, match=match):
        SampleConfig(**settings)


def test_nothing_to_draw_from_and_ids_that_repeat_are_errors():
    with pytest.raises(DataError, match="no utterance to sample"):
        draw_sample([], SampleConfig())
    with pytest.raises(DataError, match="'phone-0' occurs twice"):
        draw_sample(corpus(phone=2) + corpus(phone=1), SampleConfig())
