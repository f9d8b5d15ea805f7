"""Hearing on a GPU: graphs, streams and scores on prompts against float32 and whole sequences."""

from concurrent.futures import ThreadPoolExecutor
from threading import Thread

import numpy as np
import pytest
import torch

from shibolet.listen.family_aligner import FamilyAligner
from shibolet.listen.family_recogniser import FamilyRecogniser
from shibolet.listen.protocols import Hearing
from shibolet.listen.transcribe import Transcriber
from shibolet.model.family import LoadedModel, load_aligner, load_recogniser

pytestmark = pytest.mark.gpu
TEXTS = ["שלום עולם", "הילד הלך אל הים ביום חם מאוד", "בית", "ספר גדול על השולחן", "אל הים"]


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [(0.1 * rng.standard_normal(int(16000 * s))).astype(np.float32) for s in rng.uniform(0.3, 12.0, 40)]


@pytest.fixture(scope="module")
def texts(clips) -> list[str]:
    return [TEXTS[i % len(TEXTS)] for i in range(len(clips))]


@pytest.fixture(scope="module")
def words(texts) -> list[list[str]]:
    return [text.split() for text in texts]


def logps_of(loaded: LoadedModel, clips, texts) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """On the prompts that were decoded, and by whole sequences."""
    recogniser = FamilyRecogniser(loaded, "Hebrew")
    encode = recogniser._targets.encode
    scored = recogniser._transcribers[0].write_and_score(
        clips, lambda some: lambda: [encode([texts[i]]) for i, _ in some]
    )
    return [one.logps[0] for one in scored], recogniser.token_logps(clips, texts)


def error(found: list[np.ndarray], exact: list[np.ndarray]) -> float:
    return float(np.abs(np.concatenate(found) - np.concatenate(exact)).mean())


def said(heard: list[Hearing]) -> list[tuple]:
    return [(h.hypothesis, h.text_logp, h.text_score, h.worst_score) for h in heard]


def test_scores_on_prompts_round_as_whole_sequences_do(clips, texts):
    """FlashAttention must put the last token of a text at its last key, or each sees its neighbours' prompts."""
    _, exact = logps_of(load_recogniser("builtin:round1"), clips, texts)
    by_prompt, whole = logps_of(load_recogniser("builtin:round1", device="cuda"), clips, texts)
    assert error(by_prompt, exact) < 1e-3 and error(whole, exact) < 1e-3
    by_prompt, whole = logps_of(load_recogniser("builtin:round1", dtype=torch.bfloat16, device="cuda"), clips, texts)
    assert error(by_prompt, exact) < 1.5 * error(whole, exact) < 0.3


def test_the_same_bytes_with_and_without_warming_and_beside_another_model(clips, words):
    """Protects from graphs that round otherwise than a first step did, and from tensors that cross streams unseen."""
    loaded = load_recogniser("builtin:round1", dtype=torch.bfloat16, device="cuda")
    aligner = FamilyAligner(load_aligner("builtin:aligner", dtype=torch.bfloat16, device="cuda"))
    cold = FamilyRecogniser(loaded, "Hebrew")
    expected, aligned = said(cold.hear(clips, words)), aligner.align(clips, words)
    warm = FamilyRecogniser(loaded, "Hebrew")
    warm.warm()
    aligner.warm()
    again = []
    beside = Thread(target=lambda: again.extend(aligner.align(clips, words) for _ in range(8)))
    beside.start()
    found = [said(warm.hear(clips, words)) for _ in range(3)]
    beside.join()
    assert found == [expected] * 3
    for times in again:
        assert all((a.starts_s == b.starts_s).all() and (a.ends_s == b.ends_s).all() for a, b in zip(aligned, times))


def test_two_at_once_hear_what_each_hears_alone(clips, words):
    """Protects from what two graphs would share, also where one is made anew for longer rows."""
    loaded = load_recogniser("builtin:round1", dtype=torch.bfloat16, device="cuda")
    transcribers = [Transcriber(loaded.again(), "Hebrew", share=0.5) for _ in range(2)]
    recogniser = FamilyRecogniser(loaded, "Hebrew", transcribers=transcribers)
    recogniser.warm()
    long = [np.concatenate(clips[:6]), *clips[:9]]
    parts = [(clips[:17], words[:17]), (clips[17:], words[17:]), (long, words[:10])] * 4
    alone = [said(recogniser.hear(*part)) for part in parts[:3]]
    with ThreadPoolExecutor(2) as pool:
        assert [said(heard) for heard in pool.map(lambda part: recogniser.hear(*part), parts)] == alone * 4


def test_only_looks_are_waited_for(clips, words):
    """Protects from a copy or a size in the loop that the host waits for: the GPU then runs out of work."""
    loaded = load_recogniser("builtin:round1", dtype=torch.bfloat16, device="cuda")
    transcriber = Transcriber(loaded, "Hebrew", batch_utterances=8)
    recogniser = FamilyRecogniser(loaded, "Hebrew", transcribers=[transcriber])
    expected = said(recogniser.hear(clips, words))  # makes rows and their graph
    torch.cuda.set_sync_debug_mode("error")  # an event may be waited for, and nothing else
    try:
        found = said(recogniser.hear(clips, words))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert found == expected
