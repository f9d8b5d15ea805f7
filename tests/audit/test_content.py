"""Content ids as numbers: protects evidence from being looked up under another clip's id."""

import random

import pytest

from shibolet.audit.content import ContentIds, NumbersById


def ids_of(*ids: str) -> ContentIds:
    found = ContentIds()
    for id in ids:
        found.append(id)
    return found


def test_ids_come_back_with_all_their_digits() -> None:
    ids = ["00000000000000aa", "ffffffffffffffff", "0123456789abcdef", "0000000000000000"]
    assert list(ids_of(*ids)) == ids and ids_of(*ids)[-1] == ids[-1]
    with pytest.raises(IndexError):
        ids_of(*ids)[4]


def test_numbers_are_those_of_a_dictionary_and_the_first_of_equal_ids_stays() -> None:
    rng, expected, found = random.Random(0), {}, NumbersById()
    assert found.get("00000000000000aa") is None and not len(found)
    for _ in range(5):
        ids = [f"{rng.choice((rng.getrandbits(64), rng.randrange(50))):016x}" for _ in range(200)]
        numbers = [rng.getrandbits(60) for _ in ids]
        for id, number in zip(ids, numbers):
            expected.setdefault(id, number)
        found.add(ids_of(*ids), numbers)
        assert len(found) == len(expected)
        assert {id: found.get(id) for id in expected} == expected
        assert found.get("0000000000000063") == expected.get("0000000000000063")
        asked = [*ids, *(f"{rng.randrange(100):016x}" for _ in range(100))]
        assert found.has(ids_of(*asked)).tolist() == [id in expected for id in asked]
    assert not NumbersById().has(ids_of("00000000000000aa")).any()
