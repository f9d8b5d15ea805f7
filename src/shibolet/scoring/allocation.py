"""How many utterances each stratum of a sample gives, so that a larger sample begins with the smaller one."""

import heapq
from collections.abc import Iterator, Mapping
from types import MappingProxyType

FLOOR = 30  # of each stratum, in a sample in proportion
MIN_PER_STRATUM = 2  # ... and in one by shares, however small one is
NONE: Mapping[str, int] = MappingProxyType({})


def turns(
    sizes: Mapping[str, int], total: int, shares: Mapping[str, float] | None = None, given: Mapping[str, int] = NONE
) -> Iterator[str]:
    """The stratum that gives the next place, and so on until there are `total` with those `given` before.

    By shares, or in proportion to the sizes after the first `FLOOR` of each. Places go one by one to the stratum that
    is furthest behind (Sainte-Lague's divisors 1, 3, 5, ...; largest remainders would take places back as the total
    grows); a full stratum drops out.
    """
    floor = MIN_PER_STRATUM if shares else FLOOR
    places = {name: given.get(name, 0) for name in sizes}

    def place(name: str) -> tuple[int, float, str]:
        num = places[name]
        behind = (2 * num + 1) / (shares[name] if shares else sizes[name])
        return (num >= MIN_PER_STRATUM) + (num >= floor), behind, name

    queue = [place(name) for name in sizes if places[name] < sizes[name]]
    heapq.heapify(queue)
    for _ in range(min(total, sum(sizes.values())) - sum(places.values())):
        _, _, name = heapq.heappop(queue)
        places[name] += 1
        yield name
        if places[name] < sizes[name]:
            heapq.heappush(queue, place(name))


def in_proportion(sizes: Mapping[str, int], total: int, given: Mapping[str, int]) -> dict[str, float]:
    """About what `turns` comes to without shares, for populations of any size; not whole numbers."""

    def at(frac: float) -> dict[str, float]:
        return {name: max(given[name], min(size, max(FLOOR, frac * size))) for name, size in sizes.items()}

    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(at(middle).values()) < total else (low, middle)
    return at(high)
