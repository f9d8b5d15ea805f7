"""Protects the demo from words that are never said, sentences that do not agree, and words that should be held out."""

import random
from collections import Counter

import pytest

from shibolet.demo.lexicon import load_lexicon
from shibolet.demo.sentences import MAX_WORDS, MIN_WORDS, RULES, expand, sample_sentence
from shibolet.errors import DataError

LEXICON = load_lexicon()


def test_five_thousand_sentences_say_every_word_and_none_too_often():
    rng = random.Random(7)
    sentences = [sample_sentence(rng, LEXICON) for _ in range(5000)]
    assert {len(sentence) for sentence in sentences} == set(range(MIN_WORDS, MAX_WORDS + 1))
    assert len({tuple(sentence) for sentence in sentences}) > 4800
    counts = Counter(entry.spelling for sentence in sentences for entry in sentence)
    assert len(counts) >= 0.995 * len(LEXICON.entries)  # 5 times each at the least, in the mean
    assert sum(count < 3 for count in counts.values()) < 0.03 * len(LEXICON.entries)
    assert max(counts.values()) < 0.04 * counts.total()


@pytest.mark.parametrize("seed", range(5))
def test_a_random_seventy_percent_of_the_words_still_make_sentences_of_those_words_only(seed):
    rng = random.Random(seed)
    allowed = {entry.spelling for entry in LEXICON.entries if rng.random() < 0.7}
    few = LEXICON.restrict(allowed)
    said = {entry.spelling for _ in range(3000) for entry in sample_sentence(rng, few)}
    assert said <= allowed
    assert len(said) >= 0.97 * len(allowed)


def test_subject_and_verb_agree():
    rng, seen = random.Random(1), 0
    for _ in range(2000):
        sentence = sample_sentence(rng, LEXICON)
        categories = [entry.category for entry in sentence]
        if categories[:2] == ["the", "present"]:
            subject, verb = sentence[:2]
            assert (subject.gender, subject.number) == (verb.gender, verb.number), sentence
            seen += 1
    assert seen > 20


def test_every_slot_of_the_grammar_has_words():
    for rule in RULES["SENTENCE"]:
        for pattern in expand(rule):
            for slot in pattern:
                assert LEXICON.candidates(slot.category, slot.sense), (rule, slot)


def test_the_same_seed_gives_the_same_sentences():
    first, second = ([sample_sentence(rng, LEXICON) for _ in range(50)] for rng in (random.Random(3), random.Random(3)))
    assert first == second


@pytest.mark.parametrize("allowed", [set(), {"הילד"}, {"אין כזה"}])
def test_too_few_words_are_an_error_and_not_an_endless_search(allowed):
    with pytest.raises(DataError, match="allow"):
        sample_sentence(random.Random(0), LEXICON.restrict(allowed))
