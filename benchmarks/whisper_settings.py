"""What a result of `whisper_*.py` was made with, so that one file never mixes results of several settings."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

RESULTS = "results.jsonl"


def data_of(*manifests: Path) -> str:
    """A digest of ids, texts and speakers of manifests: not of where the audio lies."""
    from shibolet.records.files import hash_json, read_jsonl

    return hash_json([[[row["id"], row["text"], row.get("speaker")] for row in read_jsonl(one)] for one in manifests])


def settings_of(args: argparse.Namespace, job) -> dict:
    """What a job is made with, wherever models, data and results lie; how many threads make it is no part of that."""
    folders = {str(args.out): "OUT", str(args.models): "MODELS", str(args.data): "DATA"}
    threads = ("num_threads=", "train.num_threads=")
    changes = [change for change in job.changes if not change.startswith(threads)]
    for folder in sorted(folders, key=len, reverse=True):  # a folder that was not given is "None" and stands nowhere
        changes = [change.replace(f"{folder}/", f"{folders[folder]}/") for change in changes]
    return {"recipe": job.recipe, "data": job.data, "changes": changes}


def require_same_settings(args: argparse.Namespace, known: Mapping[str, dict], jobs: Sequence) -> None:
    """SystemExit in a sentence where a result of one of the jobs was made with other settings."""
    there = [job for job in jobs if job.key in known]
    for job in there:
        old, new = known[job.key].get("settings"), settings_of(args, job)
        if old is None or old == new:
            continue
        was, asked = ([*own["changes"], f"recipe {own['recipe']}", f"data {own['data']}"] for own in (old, new))
        raise SystemExit(
            f"{args.out / RESULTS}: '{job.key}' was made with {_those(was, asked)}, and this command has "
            f"{_those(asked, was)}: name another --out, or give the settings of then"
        )
    if silent := [job.key for job in there if "settings" not in known[job.key]]:
        print(f"{len(silent)} results do not say their settings and count as they are: {silent[0]}", file=sys.stderr)


def _those(own: Sequence[str], others: Sequence[str]) -> str:
    return ", ".join(one for one in own if one not in others) or "no such"
