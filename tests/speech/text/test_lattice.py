"""Protects the choice of a reading: a shortest path has to be the best of all combinations of readings."""

import random
from itertools import product

import numpy as np
from rapidfuzz.distance import Levenshtein

from shibolet.speech.text.lattice import JOIN, Lattice, Ways, _entry, _Rows, _walk, nearest


def readings_of(lattice: Lattice) -> set[str]:
    said = [{""}, *(set() for _ in range(lattice.num_nodes - 1))]
    for start, end, text in lattice.edges:
        said[end] |= {before + text for before in said[start]}
    return said[-1]


def generated(rng: random.Random) -> Lattice:
    def some() -> list[str]:
        return ["".join(rng.choices("abc", k=rng.randint(0, 3))) for _ in range(2)]

    ways = Ways("".join(rng.choices("ab", k=2)))
    middle = ways.node()
    ways.add(ways.start, middle, [some()])
    ways.add(middle, ways.end, [some(), ("", "b")])
    return ways.close()


def test_the_nearest_readings_are_the_best_of_all_combinations() -> None:
    rng = random.Random(1)
    num_several = 0
    for _ in range(300):
        lattices = [generated(rng) for _ in range(rng.randint(1, 3))]
        other = "".join(rng.choices("abc", k=rng.randint(0, 8)))
        all_readings = [readings_of(lattice) for lattice in lattices]
        combinations = ["".join(chosen) for chosen in product(*all_readings)]
        num_several += len(combinations) > 20
        chosen = [reading.replace(" ", "") for reading in nearest(lattices, other)]
        assert all(reading in known for reading, known in zip(chosen, all_readings, strict=True))
        best = min(Levenshtein.distance(combined, other) for combined in combinations)
        assert Levenshtein.distance("".join(chosen), other) == best, (other, chosen)
    assert num_several > 100


def test_a_word_without_other_readings_has_no_lattice_and_dead_ends_go() -> None:
    ways = Ways("a")
    assert ways.close() is None
    ways.add(ways.start, ways.node(), [("dead",), ("end",)])
    ways.add(ways.start, ways.end, [(f"x{JOIN}",), ("y", "z")])
    lattice = ways.close()
    assert readings_of(lattice) == {"a", "x~y", "x~z"}
    assert nearest([lattice], "xz") == ["xz"]


def test_at_equal_distance_the_written_form_is_chosen() -> None:
    ways = Ways("a")
    ways.add(ways.start, ways.end, [("b",)])
    assert nearest([ways.close(), "c"], "dc") == ["a", "c"]


def test_a_word_begins_as_early_as_it_can_at_equal_distance() -> None:
    """What lies between two words belongs to the later one; elsewhere other readings would be chosen."""
    rng, num_early = random.Random(2), 0
    for _ in range(300):
        first, second = ("".join(rng.choices("abc", k=rng.randint(0, 4))) for _ in range(2))
        other = "".join(rng.choices("abc", k=rng.randint(0, 9)))
        table = _Rows(np.array([ord(letter) for letter in other], np.int32))
        _, before = _walk(Lattice(2, ((0, 1, first),)), np.zeros(len(other) + 1, np.int32), table)
        _, after = _walk(Lattice(2, ((0, 1, second),)), before[1][0][2], table)
        costs = [
            Levenshtein.distance(first, other[:place]) + Levenshtein.distance(second, other[place:])
            for place in range(len(other) + 1)
        ]
        found = _entry(after[1][0][3], second, other, len(other))
        assert found == costs.index(min(costs))
        num_early += costs.count(min(costs)) > 1
    assert num_early > 100
