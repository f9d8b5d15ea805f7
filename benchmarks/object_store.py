"""Data and a run folder in a store of objects: what the store's answering time costs, and how much of it is hidden.

    python benchmarks/object_store.py [--clips 400] [--answer-s 0.03] [--megabytes 200]

moto's S3 in a process of its own stands for a store; each answer waits, as that of a store in the same region does.
Prints JSON lines:

    read    seconds to read the rows of a manifest of one-second clips that lie there (two requests a clip), again when
            the copies are on the disk (one request), and to read the same files on this disk; CPU seconds of this
            process at first, which bound the rate however fast the store is
    folder  the same clips as a folder with a .txt beside each, first time (four requests a clip, two for each object)
    tables  the same clips as rows of four Parquet tables, first time
    mirror  seconds to send a run folder, to send it again with one small file changed, and to fetch it

Times of transfer are those of moto and say nothing of a store; those of many small objects are mostly the waiting.
"""

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from object_store import URL, ObjectStore

from shibolet.records import objects, store
from shibolet.records.batches import at_once
from shibolet.records.mirror import Mirror
from shibolet.speech.audio import encode_flac
from shibolet.speech.read import read_source
from shibolet.speech.sources import DataSource


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return round(time.perf_counter() - started, 2)


def serve(answers: Connection, answer_s: float) -> None:
    """A store, until its process is ended."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with ObjectStore() as server:
        server.wait_s = answer_s
        answers.send(server.environment)
        time.sleep(3600)


def read(folder: Path, num_clips: int) -> dict:
    """Rows of clips that are all different."""
    rng, lines = np.random.default_rng(0), []
    for number in range(num_clips):
        content = encode_flac(rng.uniform(-0.1, 0.1, 16000).astype(np.float32))
        (folder / f"{number}.flac").write_bytes(content)
        lines.append(json.dumps({"audio": f"{number}.flac", "text": "one"}))
    (folder / "m.jsonl").write_text("\n".join(lines))
    at_once(lambda path: store.write(f"{URL}/set/{path.name}", path.read_bytes()), [*folder.iterdir()], 16)
    there = DataSource(name="x", manifest=f"{URL}/set/m.jsonl")
    here = DataSource(name="x", manifest=folder / "m.jsonl")
    first = read_first(there, folder)
    objects._KNOWN.clear()
    again_s = seconds(lambda: read_source(there, folder))
    return {"clips": num_clips, **first, "again_s": again_s, "from_disk_s": seconds(lambda: read_source(here, folder))}


def read_first(source: DataSource, folder: Path) -> dict:
    """Seconds, and CPU seconds of this process, to read a source that was not read before."""
    cpu_s = time.process_time()
    return {
        "first_s": seconds(lambda: read_source(source, folder)), "first_cpu_s": round(time.process_time() - cpu_s, 2),
    }  # fmt: skip


def other_forms(clips: Path) -> dict:
    """The clips of `read` as a folder and as tables; no object is one that was fetched before."""
    paths = sorted(clips.glob("*.flac"))
    for path in paths:
        path.with_suffix(".txt").write_text("one")
    files = [*paths, *(path.with_suffix(".txt") for path in paths)]
    at_once(lambda path: store.write(f"{URL}/folder/{path.name}", path.read_bytes()), files, 16)
    for number in range(4):
        rows = [{"audio": {"bytes": path.read_bytes()}, "text": "one"} for path in paths[number::4]]
        pq.write_table(pa.Table.from_pylist(rows), clips / "table.parquet")
        store.write(f"{URL}/tables/{number}.parquet", (clips / "table.parquet").read_bytes())
    return {
        "folder": read_first(DataSource(name="x", manifest=f"{URL}/folder/"), clips),
        "tables": read_first(DataSource(name="x", parquet=f"{URL}/tables/*.parquet"), clips),
    }


def mirror(folder: Path, megabytes: int) -> dict:
    """A run folder of a large file, and of 300 small ones."""
    run, other = folder / "run", folder / "other"
    for path in (run, other):
        path.mkdir()
    (run / "large").write_bytes(os.urandom(megabytes << 20))
    for number in range(300):
        (run / f"{number}").write_bytes(os.urandom(1000))
    sender = Mirror(run, f"{URL}/runs/x")
    sender.open()
    first_s = seconds(sender.send)
    (run / "1").write_bytes(b"changed")
    return {
        "megabytes": megabytes, "files": 301, "send_s": first_s, "send_one_changed_s": seconds(sender.send),
        "fetch_s": seconds(Mirror(other, f"{URL}/runs/x").open),
    }  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--clips", type=int, default=400)
    options.add_argument("--answer-s", type=float, default=0.03, help="How long each answer waits.")
    options.add_argument("--megabytes", type=int, default=200, help="Size of the run folder.")
    given = options.parse_args()
    spawning = get_context("spawn")
    answers, end = spawning.Pipe(duplex=False)
    server = spawning.Process(target=serve, args=(end, given.answer_s), daemon=True)
    server.start()
    with TemporaryDirectory() as data, TemporaryDirectory() as runs:
        os.environ |= {**answers.recv(), "XDG_CACHE_HOME": f"{runs}/cache"}
        print(json.dumps({"read": {"answer_s": given.answer_s, **read(Path(data), given.clips)}}), flush=True)
        print(json.dumps(other_forms(Path(data))), flush=True)
        print(json.dumps({"mirror": {"answer_s": given.answer_s, **mirror(Path(runs), given.megabytes)}}))
    server.kill()


if __name__ == "__main__":
    main()
