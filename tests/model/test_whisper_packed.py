"""Whispers in packs give what the unmodified model gives for each utterance alone: logits, loss, every gradient."""

import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile as sf
import torch
import torch.nn.functional as F
from real_models import real_model, real_speech
from whisper_models import SENTENCES, loaded_whisper

from shibolet.errors import ModelError
from shibolet.model.family import LoadedModel
from shibolet.model.fast.losses import summed_cross_entropy
from shibolet.model.whisper import packed
from shibolet.model.whisper.features import LogMel, lay_samples
from shibolet.model.whisper.load import load_recogniser
from shibolet.model.whisper.prompt import TranscriptionPrompt


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return loaded_whisper()


@pytest.fixture
def five(clips) -> list[tuple[np.ndarray, str]]:
    """Clips with their texts; the last one is short and has the text of a long one."""
    return list(zip([*clips, clips[0][:400]], SENTENCES, strict=True))


def pack_of(loaded: LoadedModel, pairs, language: str = "Hebrew") -> packed.Pack:
    prompt = TranscriptionPrompt(loaded.tokenizer, language)
    pack = packed.lay_out(prompt.frame, prompt.encode([text for _, text in pairs]), [3000] * len(pairs))
    return replace(pack, features=LogMel(loaded.extractor, "cpu")(lay_samples([clip for clip, _ in pairs])))


def loss_of(model, pack: packed.Pack) -> torch.Tensor:
    with packed.packed_attention(model):
        return summed_cross_entropy(packed.hidden(model, pack), packed.head(model), pack.labels)


def gradients_of(model) -> dict[str, torch.Tensor]:
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    return found


def stock(loaded: LoadedModel, pairs, language: str = "Hebrew"):
    """transformers' logits of the labels, summed loss and gradients, utterance by utterance."""
    frame = (prompt := TranscriptionPrompt(loaded.tokenizer, language)).frame
    logits, loss = [], 0.0
    for clip, text in pairs:
        (ids,) = prompt.encode([text])
        features = loaded.extractor(clip, sampling_rate=16000, return_tensors="pt").input_features
        given = {"input_features": features.to(loaded.model.dtype)}
        out = loaded.model(**given, decoder_input_ids=torch.tensor([[*frame.prompt, *ids]]))
        logits.append(out.logits[0, len(frame.prompt) - 1 :])
        own = F.cross_entropy(logits[-1], torch.tensor([*ids, frame.end_id]), reduction="sum")
        own.backward()
        loss += own.item()
    return torch.cat(logits).detach(), loss, gradients_of(loaded.model)


def assert_same_gradients(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys() and len(found) > 20
    whole = torch.stack([gradient.norm() for gradient in expected.values()]).norm()
    for name, gradient in expected.items():
        error = (found[name] - gradient).norm()
        assert error < 1e-5 * gradient.norm() + 1e-7 * whole, f"{name}: {error:.1e} of {gradient.norm():.1e}"


def assert_exact(loaded: LoadedModel, pairs, language: str = "Hebrew") -> None:
    logits, loss, expected = stock(loaded, pairs, language)
    pack = pack_of(loaded, pairs, language)
    with torch.no_grad():
        ours = packed.head(loaded.model)(packed.hidden(loaded.model, pack))
    assert (ours - logits).norm() < 1e-5 * logits.norm()
    total = loss_of(loaded.model, pack)
    total.backward()
    assert total.item() == pytest.approx(loss, rel=1e-5)
    assert_same_gradients(gradients_of(loaded.model), expected)


@pytest.mark.parametrize("times", [1, 9])  # short texts look at the states themselves, long ones at keys and values
def test_logits_loss_and_gradients_are_those_of_transformers(times: int, loaded, five, monkeypatch):
    calls = []
    plain = packed._attend_on_states
    monkeypatch.setattr(packed, "_attend_on_states", lambda *args: calls.append(1) or plain(*args))
    loaded.model.requires_grad_(True)  # the encoder's positions too
    assert_exact(loaded, [(clip, " ".join([text] * times)) for clip, text in five[1:4]])
    assert bool(calls) == (times == 1)


def test_they_are_of_a_real_model_on_real_speech():
    """In float64 to the last digits. In float32 where transformers itself is as near to float64: a probability near 1
    leaves a gradient that is a difference of nearly equal numbers."""
    loaded = load_recogniser(str(real_model("whisper-tiny.en")))
    manifest = real_speech()
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()[:20:8]]
    pairs = [(sf.read(manifest.parent / row["audio"], dtype="float32")[0], row["text"]) for row in rows]
    pack = pack_of(loaded, pairs, "English")
    found = {}
    for dtype in (torch.float32, torch.float64):
        loaded.model.to(dtype)
        logits, loss, expected = stock(loaded, pairs, "English")
        ours = packed.head(loaded.model)(packed.hidden(loaded.model, pack))
        total = F.cross_entropy(ours, pack.labels, reduction="sum")
        total.backward()
        found[dtype] = gradients_of(loaded.model), expected
        assert (ours - logits).norm() < 1e-5 * logits.norm() and total.item() == pytest.approx(loss, rel=1e-5)
    true = found[torch.float64][1]
    assert distance(found[torch.float64][0], true) < 1e-10
    assert distance(found[torch.float32][0], true) < max(1e-5, distance(found[torch.float32][1], true))


def distance(found: dict[str, torch.Tensor], true: dict[str, torch.Tensor]) -> float:
    """The largest relative error of a gradient;"""
    assert found.keys() == true.keys()
    return max(((found[name].double() - gradient).norm() / gradient.norm()).item() for name, gradient in true.items())


def test_a_pack_of_five_is_five_packs_of_one(five):
    loaded = loaded_whisper(encoder_layers=1)
    together = loss_of(loaded.model, pack_of(loaded, five))
    together.backward()
    expected, alone = gradients_of(loaded.model), 0.0
    for pair in five:
        own = loss_of(loaded.model, pack_of(loaded, [pair]))
        own.backward()
        alone += own.item()
    assert together.item() == pytest.approx(alone, rel=1e-6)
    assert_same_gradients(gradients_of(loaded.model), expected)


def test_a_pack_counts_its_states_and_positions(loaded, five):
    pack = pack_of(loaded, five)
    frame = (prompt := TranscriptionPrompt(loaded.tokenizer, "Hebrew")).frame
    ids = prompt.encode([text for _, text in five])
    assert pack.num_tokens == sum(frame.num_tokens(1500, len(own)) for own in ids)
    assert len(pack.labels) == sum(frame.num_targets(len(own)) for own in ids) and pack.num_utterances == 5
    starts = pack.cu_seqlens.tolist()
    assert [pack.input_ids[at] for at in starts[:-1]] == [frame.prompt[0]] * 5
    assert [pack.labels[n - 1] for n in np.cumsum([len(own) + 1 for own in ids])] == [frame.end_id] * 5


def test_a_text_without_words_is_an_end_alone(loaded, clips):
    pack = pack_of(loaded, [(clips[0], ""), (clips[1], "בית")])
    assert pack.labels[0] == TranscriptionPrompt(loaded.tokenizer, "Hebrew").frame.end_id
    with torch.no_grad():
        together = packed.hidden(loaded.model, pack)
        alone = packed.hidden(loaded.model, pack_of(loaded, [(clips[0], "")]))
    torch.testing.assert_close(together[:1], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_encoder_keeps_nothing_for_the_backward_pass(loaded, five, frozen: bool):
    loaded.model.model.encoder.requires_grad_(not frozen)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.shape) or x, lambda x: x):
        states = packed.encode(loaded.model, pack_of(loaded, five))
    loaded.model.model.encoder.requires_grad_(True)
    assert (kept == []) == frozen and states.shape == (7500, 32)


def test_encoded_states_stand_for_the_encoder(loaded, five):
    pack = pack_of(loaded, five)
    with torch.no_grad():
        cached = replace(pack, encoded=packed.encode(loaded.model, pack), features=None)
        assert packed.hidden(loaded.model, cached).equal(packed.hidden(loaded.model, pack))


def test_activations_that_are_computed_again_change_nothing(five):
    loaded = loaded_whisper()
    loaded.model.train()
    pack = pack_of(loaded, five[:2])
    loss_of(loaded.model, pack).backward()
    expected = gradients_of(loaded.model)
    loaded.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
        loss = loss_of(loaded.model, pack)
    loss.backward()
    found = gradients_of(loaded.model)
    assert all(found[name].equal(gradient) for name, gradient in expected.items())
    loaded.model.gradient_checkpointing_disable()
    whole = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: whole.append(x.numel()) or x, lambda x: x):
        loss_of(loaded.model, pack)
    assert sum(sizes) < sum(whole) / 2


def test_a_gradient_has_the_same_bits_for_any_number_of_threads(five):
    loaded = loaded_whisper(d_model=192, encoder_layers=1, decoder_attention_heads=6)  # products of 12 rows or more
    found = []
    loaded.model.requires_grad_(True)
    for num_threads in (1, 2):
        torch.set_num_threads(num_threads)
        try:
            loss_of(loaded.model, pack_of(loaded, five[:3])).backward()
        finally:
            torch.set_num_threads(1)
        found.append(gradients_of(loaded.model))
    assert [name for name, gradient in found[0].items() if not gradient.equal(found[1][name])] == []


@pytest.mark.parametrize("setting", ["dropout", "attention_dropout", "encoder_layerdrop", "apply_spec_augment"])
def test_what_a_configuration_draws_at_random_is_refused_in_training_alone(setting: str, clips):
    loaded = loaded_whisper(**{setting: True if setting == "apply_spec_augment" else 0.1})
    pack = pack_of(loaded, [(clips[0], "בית")])
    loss_of(loaded.model, pack)
    with pytest.raises(ModelError, match=f"config.json sets {setting} .*set it to"):
        loss_of(loaded.model.train(), pack)
