"""How many processes of a rank decode, and how many threads it has beside them."""

import torch

from shibolet.records.cores import usable_cores

_MAX_WORKERS = 15  # decode 5,017 audio s/s (benchmarks/RESULTS.md); a GPU trains on at most 2,900


def worker_count(asked: int | None, device: torch.device, num_ranks: int) -> int:
    """Decoding processes of a rank: as asked, or with a GPU its share of the cores less one up to a limit, or none.

    `num_ranks` are those of its machine.
    """
    if asked is not None:
        return asked
    return min(max(1, _cores_of_a_rank(num_ranks) - 1), _MAX_WORKERS) if device.type == "cuda" else 0


def threads_beside(num_workers: int, num_ranks: int) -> int:
    """The most CPU threads of torch in a rank: what its decoding processes leave of its share of the cores.

    With more of them every parallel loop waits for the one that has no core just then.
    """
    return max(1, _cores_of_a_rank(num_ranks) - num_workers)


def _cores_of_a_rank(num_ranks: int) -> int:
    return usable_cores() // num_ranks
