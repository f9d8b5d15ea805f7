"""Peak memory of an audit by its number of rows: prints JSON.

    python benchmarks/audit_memory.py [--rows 10000 100000]

Each size runs in a process of its own: a manifest of rows whose audio are hard links to a few recordings is read, heard
whole by stub listeners (the real decoding, signals, calibration and tables, no model), and gated.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

LETTERS = "אבגדהוזחטיכלמנסעפצקרשת"
VOCABULARY = 20_000
NUM_RECORDINGS = 100
CLIP_S = 0.4


def words_of(row: int) -> str:
    """Eight to twelve words, the common ones often, that no other row has in this order."""
    rng = random.Random(row)
    ranks = [int(VOCABULARY * rng.random() ** 3) for _ in range(8 + row % 5)]
    return " ".join("".join(LETTERS[rank // 22**place % 22] for place in range(5)) for rank in ranks)


def write_corpus(folder: Path, num_rows: int) -> Path:
    """A manifest and its audio."""
    import numpy as np
    import soundfile as sf

    rng = np.random.default_rng(0)
    for i in range(NUM_RECORDINGS):
        noise = 0.1 * rng.standard_normal(int(16000 * CLIP_S))
        sf.write(folder / f"recording-{i:03d}.wav", noise, 16000)
    with (folder / "manifest.jsonl").open("w", encoding="utf-8") as file:
        for row in range(num_rows):
            name = f"audio/{row % 1000:03d}/utterance-{row:06d}.wav"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.link(folder / f"recording-{row % NUM_RECORDINGS:03d}.wav", folder / name)
            fields = {"audio": name, "text": words_of(row), "speaker": f"s{row % 500}", "recording": f"r{row // 10}"}
            file.write(json.dumps(fields, ensure_ascii=False) + "\n")
    return folder / "manifest.jsonl"


class Stub:
    """Hears what is written, evenly over the clip; a text in another order of letters not at all."""

    identity = "stub"

    def hear(self, clips, words):
        import numpy as np

        from shibolet.listen.protocols import Hearing

        return [
            Hearing(
                hypothesis=" ".join(said), text_score=-0.1,
                letter_times_s=np.linspace(0, len(clip) / 16000, sum(map(len, said))),
            )
            for clip, said in zip(clips, words)
        ]  # fmt: skip

    def align(self, clips, words):
        import numpy as np

        from shibolet.listen.protocols import Alignment

        edges = [np.linspace(0, len(clip) / 16000, len(said) + 1) for clip, said in zip(clips, words)]
        return [Alignment(starts_s=e[:-1], ends_s=e[1:]) for e in edges]


def peak_mib() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def audit(manifest: Path) -> dict:
    """Peak memory after each step, of this process, and its seconds."""
    import torch

    from shibolet.audit.config import AuditConfig
    from shibolet.audit.domains import DEFAULT_DOMAIN_RULES, assign_domain
    from shibolet.audit.hearing import Listener
    from shibolet.audit.sampling import SampleConfig
    from shibolet.audit.stage import run_audit
    from shibolet.gate.config import GateConfig
    from shibolet.gate.stage import gate, records_of
    from shibolet.records.manifest import manifest_hash
    from shibolet.speech.audio import load
    from shibolet.speech.read import read_source
    from shibolet.speech.sources import DataSource

    torch.set_num_threads(1)
    run_dir, peaks, started = manifest.parent / "run", {}, time.monotonic()

    def done(step: str) -> None:
        peaks[step] = {"peak_mib": peak_mib(), "s": round(time.monotonic() - started, 1)}

    done("import")
    domain_of = partial(assign_domain, rules=DEFAULT_DOMAIN_RULES)
    source = DataSource(name="rows", manifest=manifest)
    utterances, ledger = read_source(source, run_dir / "cache", domain_of=domain_of)
    done("read")
    manifest_hash(utterances)
    done("hash")
    config = AuditConfig(aligner="stub", recogniser="stub", sample=SampleConfig(sample_frac=1.0, shares={}))
    listener = Listener(Stub(), Stub(), run_dir / "heard", load, config, "Hebrew")
    report = run_audit(
        utterances, ledger, out_dir=run_dir / "audit", listener=listener, config=config, language="Hebrew"
    )
    done("audit")
    gate(report, records_of(run_dir / "audit" / "utterances.parquet"), GateConfig())
    done("gate")
    return {"rows": report.total_samples, "steps": peaks, "peak_mib": peak_mib()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--manifest", type=Path, help=argparse.SUPPRESS)  # the child's
    arguments = parser.parse_args()
    if arguments.manifest:
        print(json.dumps(audit(arguments.manifest)))
        return
    sizes = []
    for num_rows in arguments.rows:
        with TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
            child = [sys.executable, __file__, "--manifest", str(write_corpus(Path(folder), num_rows))]
            sizes.append(json.loads(subprocess.check_output(child)))
    print(json.dumps({"sizes": sizes, "ratio": round(sizes[-1]["peak_mib"] / sizes[0]["peak_mib"], 3)}, indent=1))


if __name__ == "__main__":
    main()
