"""What is read does not depend on who decodes it, and the encoder's kept output is the encoder's output."""

import dataclasses
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
import torch
from tiny_run import PHASE_A, PHASE_B, rows, tiny_config
from transformers import Qwen3ASRFeatureExtractor

from shibolet.errors import DataError, RecipeError
from shibolet.model.encoder import encoder_is_frozen
from shibolet.model.family import LoadedModel
from shibolet.model.qwen3_asr.family import FAMILY
from shibolet.model.qwen3_asr.packed import Pack, encoder_states, packed_attention
from shibolet.model.qwen3_asr.prompt import TranscriptionPrompt
from shibolet.records.cores import usable_cores
from shibolet.train import encoder_cache, workers
from shibolet.train import reader as reader_module
from shibolet.train.config import AugmentConfig, NoiseConfig, PhaseConfig, SpecAugmentConfig, TrainConfig
from shibolet.train.data import TrainExample
from shibolet.train.encoder_cache import EncoderCache
from shibolet.train.phases import add_adapters, enter_phase
from shibolet.train.reader import PackReader, PackRequest
from shibolet.train.stage import run_train
from shibolet.train.workers import worker_count

AUGMENT = AugmentConfig(speeds=(0.9, 1.0, 1.1), noise=NoiseConfig(share=0.5), spec_augment=SpecAugmentConfig())


def requests(examples: list[TrainExample], size: int, epoch: int = 0) -> list[PackRequest]:
    return [
        PackRequest(step, 0, epoch, tuple(examples[at : at + size]))
        for step, at in enumerate(range(0, len(examples), size))
    ]


def assert_same(one: Pack, other: Pack) -> None:
    for field in dataclasses.fields(Pack):
        a, b = getattr(one, field.name), getattr(other, field.name)
        assert a.equal(b) if isinstance(a, torch.Tensor) else a == b, field.name


@pytest.mark.slow("train", seconds=6)
@pytest.mark.parametrize("augment", [None, AUGMENT])
def test_workers_change_nothing(examples, prompt: TranscriptionPrompt, loaded: LoadedModel, augment):
    here = PackReader(FAMILY, prompt.frame, loaded.extractor, augment=augment, seed=3)
    ahead = PackReader(FAMILY, prompt.frame, loaded.extractor, augment=augment, seed=3, num_workers=2)
    wanted = requests(examples, 4, epoch=1)
    ahead.follow(lambda: wanted)
    assert ahead._ahead._order.sent[0] == wanted[0]  # workers begin now, and not when a pack is asked for
    try:
        # in order, a pack that nobody foresaw, back to an earlier one, and on from there
        order = [*wanted[:2], PackRequest(2, 0, 1, tuple(examples[3:5])), wanted[1], *wanted[2:]]
        for request in order:
            (pack,), (expected,) = ahead.read(loaded.model, [request]), here.read(loaded.model, [request])
            assert_same(pack, expected)
    finally:
        ahead.close()
    assert ahead.waited_s > 0


def test_a_pack_is_read_in_the_order_in_which_its_audio_lies(examples, prompt, loaded, monkeypatch):
    """A row is read with its 64 neighbours, and a pack is put together by length: on dev each row was a read of all."""
    read, plain = [], reader_module.load
    monkeypatch.setattr(reader_module, "load", lambda audio: read.append(audio.row) or plain(audio))
    chosen = tuple(examples[at] for at in (5, 1, 7, 0, 3))
    decoded = PackReader(FAMILY, prompt.frame, loaded.extractor)._decoder[PackRequest(0, 0, 0, chosen)]
    assert read == sorted(read) and len(set(read)) == 5
    frames = tuple(example.num_frames for example in chosen)
    assert decoded.num_frames == frames and len(set(frames)) == 5


@pytest.mark.slow("train", seconds=5)
def test_a_pack_that_was_made_ready_is_the_one_that_is_asked_for(examples, prompt, loaded, monkeypatch):
    """In order, after a step that is taken again, and after one that was never asked for."""
    here = PackReader(FAMILY, prompt.frame, loaded.extractor)
    ahead = PackReader(FAMILY, prompt.frame, loaded.extractor, num_workers=1)
    wanted, begun = requests(examples, 3), []
    begin = ahead._ahead._begin
    monkeypatch.setattr(ahead._ahead, "_begin", lambda first: begun.append(first) or begin(first))
    ahead.enter_phase(0, lambda: wanted)
    try:
        for ready, asked in ((0, 0), (1, 1), (2, 1), (2, 2), (None, 3), (4, 5), (6, 6)):
            if ready is not None:
                ahead.prepare([wanted[ready]])
            (pack,), (expected,) = ahead.read(loaded.model, [wanted[asked]]), here.read(loaded.model, [wanted[asked]])
            assert_same(pack, expected)
    finally:
        ahead.close()
    assert begun == [None, wanted[1]]  # workers start over for the step that is taken again alone


@pytest.mark.slow("train", seconds=5)
def test_a_signal_to_all_processes_leaves_the_workers_to_their_parent(examples, prompt, loaded):
    """Ctrl-C and a scheduler's signal reach all of them: the step needs its packs to end with a checkpoint."""
    reader = PackReader(FAMILY, prompt.frame, loaded.extractor, num_workers=1)
    wanted = requests(examples, 2)
    try:
        reader.follow(lambda: wanted)
        next(reader.read(loaded.model, wanted[:1]))
        own = [
            process for process in psutil.Process().children(recursive=True) if "forkserver" in str(process.cmdline())
        ]
        assert len(own) >= 2  # the worker, and whom it is a copy of
        for process in own:
            for number in (signal.SIGINT, signal.SIGTERM):
                process.send_signal(number)
        assert len([next(reader.read(loaded.model, [request])) for request in wanted[1:]]) == len(wanted) - 1
    finally:
        reader.close()


@pytest.mark.slow("train", seconds=10)
def test_workers_have_the_libraries_that_a_pack_needs_from_the_start():
    """Fifteen that load them at once, each for itself, hold the first step up; none has a traceback for a Ctrl-C."""
    script = f"""if __name__ == "__main__":
    from shibolet.train.reader import begin_to_load_workers
    has = "import sys; assert {FAMILY.__class__.__module__!r} in sys.modules"
    is_deaf = "from signal import *; assert SIGINT in pthread_sigmask(SIG_BLOCK, ())"
    worker = begin_to_load_workers().Process(target=exec, args=(has + chr(10) + is_deaf,))
    worker.start()
    worker.join()
    raise SystemExit(worker.exitcode)
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=300).returncode == 0


@pytest.mark.parametrize(
    ("device", "cores", "ranks", "expected"),
    [
        ("cpu", 32, 1, 0),
        ("cuda", 1, 1, 1),
        ("cuda", 8, 1, 7),
        ("cuda", 8, 2, 3),
        ("cuda", 32, 1, 15),
        ("cuda", 64, 2, 15),
    ],
)
def test_a_rank_has_no_more_workers_than_it_has_use_for(monkeypatch, device, cores, ranks, expected):
    """Each takes memory, and time to start before the first step."""
    monkeypatch.setattr(workers, "usable_cores", lambda: cores)
    assert worker_count(None, torch.device(device), ranks) == expected
    assert worker_count(40, torch.device(device), ranks) == 40


@pytest.mark.slow("train", seconds=4)
def test_what_a_worker_cannot_read_ends_the_run_with_its_name(examples, prompt, loaded):
    reader = PackReader(FAMILY, prompt.frame, loaded.extractor, num_workers=1)
    broken = dataclasses.replace(examples[0], duration_s=examples[0].duration_s + 0.5)
    with pytest.raises(DataError, match="utterance 'u0000': the table says"):
        list(reader.read(loaded.model, [PackRequest(0, 0, 0, (broken,))]))
    reader.close()


@pytest.mark.slow("train", seconds=4)
def test_what_cannot_be_made_ready_ends_the_step_that_needs_it(examples, prompt, loaded, monkeypatch):
    """Not the one before, whose numbers are to be recorded first."""
    reader = PackReader(FAMILY, prompt.frame, loaded.extractor, num_workers=1)
    broken = PackRequest(0, 0, 0, (dataclasses.replace(examples[0], duration_s=examples[0].duration_s + 0.5),))
    try:
        reader.prepare([broken])
        with pytest.raises(DataError, match="utterance 'u0000': the table says"):
            list(reader.read(loaded.model, [broken]))
        monkeypatch.setattr(reader, "_take", lambda request: (_ for _ in ()).throw(RuntimeError("a worker is gone")))
        reader.prepare([broken])  # of whatever kind it is
        with pytest.raises(RuntimeError, match="a worker is gone"):
            list(reader.read(loaded.model, [broken]))
    finally:
        reader.close()


@pytest.mark.slow("train", seconds=4)
def test_of_a_pack_that_the_step_in_between_encoded_the_states_are_read(loaded, prompt, examples, tmp_path):
    """A run that goes on from there would read them, and must not differ."""
    model = frozen_model(loaded)
    reader = PackReader(
        FAMILY,
        prompt.frame,
        loaded.extractor,
        num_workers=1,
        open_cache=lambda step: open_cache(tmp_path, model, examples),
    )
    [first, *_] = requests(examples, 3)
    again = dataclasses.replace(first, step=1)
    reader.enter_phase(0, lambda: [first, again])
    try:
        with packed_attention(model):
            (computed,) = reader.read(model, [first])
            reader.prepare([again])
            assert reader._prepared[1][0].encoded is None
            reader.end_step(1)
            reader.encoder_cache._states += 1
            (found,) = reader.read(model, [again])
    finally:
        reader.close()
    assert found.encoded.equal(computed.encoded + 1)


def frozen_model(loaded: LoadedModel):
    config = tiny_config()
    add_adapters(loaded.model, config, seed=0)
    enter_phase(loaded.model, config.phases[0])
    assert encoder_is_frozen(loaded.model)
    return loaded.model


def open_cache(root: Path, model, examples, step: int = 0) -> EncoderCache:
    return EncoderCache(root, model, examples, step=step, is_main=True, wait=lambda: None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kept_states_are_those_of_the_encoder(loaded: LoadedModel, examples, reader: PackReader, tmp_path: Path, dtype):
    model = frozen_model(loaded).to(dtype)
    reader.encoder_cache = open_cache(tmp_path, model, examples)
    first, other_mix = requests(examples[:6], 3), requests([examples[i] for i in (5, 0, 3)], 3)
    with packed_attention(model):
        for step, request in enumerate(first):
            (computed,) = reader.read(model, [request])
            reader.encoder_cache.write(step + 1)
            (kept,) = reader.read(model, [request])
            fresh = reader.pack(request.examples)
            assert kept.features is None and kept.encoded.dtype == dtype
            assert kept.encoded.equal(computed.encoded) and kept.encoded.equal(encoder_states(model, fresh))
        (mixed,) = reader.read(model, other_mix)
        fresh = encoder_states(model, reader.pack(other_mix[0].examples))
    assert mixed.features is None  # from three packs that were encoded with others
    torch.testing.assert_close(mixed.encoded, fresh, rtol=0, atol=1e-5 if dtype == torch.float32 else 0.1)
    assert not reader.encoder_cache.holds(examples[5:7])


def test_a_pack_that_is_kept_in_part_has_only_the_rest_encoded(loaded, examples, reader, tmp_path, monkeypatch):
    """On several nodes another one had some of it; protects from states that stand in another utterance's place."""
    model, encoded = frozen_model(loaded), []
    encode = FAMILY.encode
    monkeypatch.setattr(type(FAMILY), "encode", lambda self, *given: encoded.append(given[1]) or encode(*given))
    reader.encoder_cache = open_cache(tmp_path, model, examples)
    before, pack = requests([examples[i] for i in (4, 1)], 2), requests([examples[i] for i in (0, 1, 2, 4)], 4)
    with packed_attention(model):
        list(reader.read(model, before))
        reader.encoder_cache.write(1)
        (found,) = reader.read(model, pack)
        expected = encoder_states(model, reader.pack(pack[0].examples))
    assert [len(one.cu_seqlens) - 1 for one in encoded] == [2, 2]
    torch.testing.assert_close(found.encoded, expected, rtol=0, atol=1e-5)
    reader.encoder_cache.write(2)
    assert reader.encoder_cache.holds(pack[0].examples) and not reader.encoder_cache.holds(examples[3:4])


@pytest.mark.parametrize("change", ["weights", "data", "boot"])
def test_a_cache_is_bound_to_weights_data_boot_and_step(loaded, examples, reader, tmp_path, monkeypatch, change: str):
    model = frozen_model(loaded)
    tmp_path = tmp_path / "cache"

    def holds(step: int = 1) -> bool:
        return open_cache(tmp_path, model, examples, step).holds(examples[:2])

    reader.encoder_cache = open_cache(tmp_path, model, examples)
    with packed_attention(model):
        (computed,) = reader.read(model, [PackRequest(0, 0, 0, tuple(examples[:2]))])
    reader.encoder_cache.write(1)
    assert holds()
    assert not holds(step=0)  # a run that goes on from before forgets what came later, and for good
    assert not holds()
    reader.encoder_cache = open_cache(tmp_path, model, examples)
    reader.encoder_cache.hold(examples[:2], [e.num_frames for e in examples[:2]], computed.encoded)
    reader.encoder_cache.write(1)
    assert holds()
    if change == "weights":
        model.model.audio_tower.layers[2].fc1.bias.data += 1
    elif change == "data":
        examples[4] = dataclasses.replace(examples[4], num_frames=7)
    elif change == "boot":
        monkeypatch.setattr(encoder_cache, "_BOOT", tmp_path.parent / "boot")
        (tmp_path.parent / "boot").write_text("another")
    assert not holds() and len(list(tmp_path.glob("*/states.bin"))) == 1


def test_of_a_step_that_is_taken_again_the_first_states_are_kept(loaded, examples, tmp_path):
    """Those of the second come from other packs and are rounded differently: both at once would be anything."""
    model = frozen_model(loaded)
    cache, dim = open_cache(tmp_path, model, examples), FAMILY.encoder_dim(model)
    frames = [example.num_frames for example in examples[:3]]
    num_states = [FAMILY.num_states(number) for number in frames]
    for value, number in ((1.0, 2), (2.0, 3)):
        cache.hold(examples[:number], frames[:number], torch.full((sum(num_states[:number]), dim), value))
    assert not cache.holds(examples[:1])  # before the end of the step nobody may rely on them
    cache.write(1)
    states, found = cache.read(examples[:3])
    assert found == frames and [piece.unique().tolist() for piece in states.split(num_states)] == [[1], [1], [2]]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"boot": 5}'])
def test_a_cache_whose_description_is_broken_is_started_anew_and_said(loaded, examples, tmp_path, content, caplog):
    """Of another boot its files may hold anything."""
    model = frozen_model(loaded)
    open_cache(tmp_path / "cache", model, examples)
    [meta] = tmp_path.glob("cache/*/meta.json")
    kept = meta.read_bytes()
    meta.write_text(content)
    open_cache(tmp_path / "cache", model, examples)
    assert meta.read_bytes() == kept and any(str(meta) in said for said in caplog.messages)


def test_a_phase_with_the_cache_trains_as_without(base_dir: Path, prepared_dir: Path, tmp_path: Path, monkeypatch):
    phases = (
        PhaseConfig(name="B", num_epochs=3, lr_by_part=PHASE_B),
        PhaseConfig(name="A", num_epochs=1, lr_by_part=PHASE_A),
    )
    encoded = []
    plain = encoder_states
    monkeypatch.setattr(type(FAMILY), "encode", staticmethod(lambda *a: encoded.append(1) or plain(*a)))
    for name in ("with", "without"):
        config = tiny_config(phases=phases, encoder_cache=name == "with", pack_tokens=4096)  # a pack a step
        run_train(
            prepared_dir=prepared_dir, out_dir=tmp_path / name, base=str(base_dir), config=config, language="Hebrew",
            seed=5, score_dev=None, about={}, num_threads=1,
        )  # fmt: skip
    cached, fresh = rows(tmp_path / "with"), rows(tmp_path / "without")
    assert len(cached) == len(fresh) == 12
    assert len(encoded) == 3  # in the first epoch of B, and never again
    for a, b in zip(cached, fresh, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5), a["step"]


def test_torch_leaves_the_cores_to_the_processes_that_decode(base_dir: Path, prepared_dir: Path, tmp_path: Path):
    config = tiny_config(phases=(PhaseConfig(name="B", num_epochs=1, lr_by_part=PHASE_B),), num_workers=1)
    torch.set_num_threads(64)
    before = threading.enumerate()
    try:
        result = run_train(
            prepared_dir=prepared_dir, out_dir=tmp_path / "out", base=str(base_dir), config=config, language="Hebrew",
            seed=5, score_dev=None, about={},
        )  # fmt: skip
        assert torch.get_num_threads() == 64  # what comes after the training has them again
    finally:
        torch.set_num_threads(1)
    # One that Python cuts off within torch would take the process down.
    after = [thread.name for thread in threading.enumerate() if thread not in before]
    assert [name for name in after if name != "tqdm_monitor" and not name.startswith("QueueFeeder")] == []
    assert result.num_threads == min(64, max(1, usable_cores() - 1))


def test_a_cache_of_augmented_audio_is_refused():
    with pytest.raises(RecipeError, match="turn one of them off"):
        TrainConfig(phases=tiny_config().phases, encoder_cache=True, augment=AUGMENT)


def test_features_do_not_depend_on_what_is_kept(examples, prompt, loaded):
    extractor = Qwen3ASRFeatureExtractor()
    keeps, forgets = (
        PackReader(FAMILY, prompt.frame, extractor, cache_gib=1.0),
        PackReader(FAMILY, prompt.frame, extractor),
    )
    for _ in range(2):
        assert_same(keeps.pack(examples[:5]), forgets.pack(examples[:5]))


@pytest.mark.gpu
def test_on_the_gpu_workers_and_kept_states_give_what_is_computed_there(loaded, examples, prompt, tmp_path: Path):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model = frozen_model(loaded).to(torch.bfloat16).cuda()
    here = PackReader(FAMILY, prompt.frame, loaded.extractor, device="cuda")
    ahead = PackReader(FAMILY, prompt.frame, loaded.extractor, device="cuda", num_workers=2)
    ahead.encoder_cache = open_cache(tmp_path, model, examples)
    wanted = requests(examples, 4)
    ahead.follow(lambda: wanted)
    try:
        with packed_attention(model):
            for step, request in enumerate(wanted):
                (computed,) = ahead.read(model, [request])
                ahead.prepare(wanted[step + 1 :])
                ahead.encoder_cache.write(step + 1)
                fresh = here.pack(request.examples)
                assert computed.input_ids.equal(fresh.input_ids) and computed.encoded.is_cuda
                assert computed.encoded.equal(encoder_states(model, fresh))
            for request in wanted:
                ahead.prepare([request])
                (kept,) = ahead.read(model, [request])
                assert kept.features is None
                assert kept.encoded.equal(encoder_states(model, here.pack(request.examples)))
    finally:
        ahead.close()
