"""How fast models are hashed: one file and several at once, read into a block and mapped into memory.

    python benchmarks/hash_speed.py --gib 1

Prints a line of JSON for each way: GiB a second by the clock, and a second of CPU time, which other jobs change less.
The files are in memory. With `readinto` as `hash_file` does; "files at once" are those of `hash_files`.
"""

import argparse
import hashlib
import json
import mmap
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from shibolet.records.files import hash_file, hash_files

BLOCK_BYTES = 8 << 20


def hash_mapped(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        with memoryview(mapped) as view:
            for begin in range(0, len(view), BLOCK_BYTES):
                with view[begin : begin + BLOCK_BYTES] as block:
                    digest.update(block)
    return digest.hexdigest()[:16]


def measured(name: str, gib: float, work: Callable[[], object]) -> object:
    clock, cpu = time.perf_counter(), time.process_time()
    found = work()
    clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
    print(json.dumps({"way": name, "gib_a_s": round(gib / clock, 2), "gib_a_cpu_s": round(gib / cpu, 2)}), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=1.0, help="of both files together")
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("one", "two")]
        for path in paths:
            path.write_bytes(os.urandom(int(args.gib * 2**29)))
        for turn in range(args.turns):
            os.environ["XDG_CACHE_HOME"] = f"{folder}/cache{turn}"  # no hash is known
            read = measured("readinto, one file", args.gib / 2, lambda: hash_file(paths[0]))
            assert read == measured("mapped, one file", args.gib / 2, lambda: hash_mapped(paths[0]))
            os.environ["XDG_CACHE_HOME"] += "b"
            measured("readinto, two files at once", args.gib, lambda: hash_files(paths))


if __name__ == "__main__":
    main()
