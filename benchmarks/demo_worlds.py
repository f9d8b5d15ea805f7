"""Synthetic worlds for benchmarks that train on the demo's data as they are: a corpus of a seed, without damage."""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from whisper_jobs import hypotheses_file, utterances_of, written

from shibolet.demo.corpus import CorpusConfig, build_corpus
from shibolet.records.utterance import Utterance

LANGUAGE = "Hebrew"
TESTS = ("test_clean", "test_whatsapp")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--worlds", type=int, nargs="+", default=[401, 402, 403, 404], help="seeds of a corpus")
    parser.add_argument("--train", type=int, default=800, help="utterances for train and dev in a world")
    parser.add_argument("--test", type=int, default=320, help="utterances of each of a world's two test sets")


def world(args: argparse.Namespace, seed: int) -> dict[str, list[Utterance]]:
    """Utterances of train and both test sets; said by espeak-ng unless they are there.

    Voices are the same in all worlds, and names of recordings are not, so that groups of several worlds are voices.
    """
    folder = args.out / f"world{seed}" / "corpus"
    build_corpus(
        folder, seed, CorpusConfig(num_train=args.train, num_test=args.test, num_long=0, damaged_frac=0.0),
        num_workers=args.jobs,
    )  # fmt: skip
    return {
        name: [
            replace(u, recording=f"{seed}-{u.recording}")
            for u in utterances_of(folder / name / "manifest.jsonl", name, LANGUAGE)
        ]
        for name in ("train", *TESTS)
    }


def as_it_is(
    args: argparse.Namespace, folder: Path, train: Mapping[str, list[Utterance]], tests: Mapping[str, list[Utterance]]
) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Manifests of sources and tests by name, and changes that every recipe on them has.

    What the audit hears is what is written, so that it says nothing of the data.
    """
    paths = {name: written(folder / f"{name}.jsonl", own) for name, own in (*train.items(), *tests.items())}
    # A round of several sources puts their names before the ids.
    said = {id: u.text for name, own in train.items() for u in own for id in (u.id, f"{name}/{u.id}")}
    heard = hypotheses_file(folder / "heard.jsonl", said)
    sets = ", ".join(f"{{name: {name}, manifest: {paths[name]}}}" for name in tests)
    changes = (f"audit.recogniser={heard}", f"evaluate.sets=[{sets}]", "audit.selftest={num_clips: 10}")
    return paths, (*changes, "train.eval_every_epoch=false", f"train.num_threads={args.threads}")
