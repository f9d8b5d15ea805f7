"""The smallest model family: a letter for each tenth of a second of audio, from a linear encoder and decoder.

It has no adapters, aligner or beams, blanks nothing out and knows the CPU alone. test_family runs a round of it.
Its decoder looks at encoder states and has no places for audio in its sequence.
Shapes: A encoder states (0.1 s), F = D = 81 bins of the spectrum, L labels, V letters and the end.
"""

from contextlib import nullcontext
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from shibolet.model.blueprint import Blueprint, Weight
from shibolet.model.family import Family, LoadedModel
from shibolet.model.folders import identity_of, resolve
from shibolet.model.protocols import Decoded
from shibolet.records.files import make_folder, read_json, write_json

BINS, TOKEN_SAMPLES = 81, 1600


@dataclass(frozen=True)
class ToyPack:
    labels: Tensor  # [L]
    positions: Tensor  # [L], the state that each label is read from
    num_tokens: int
    num_utterances: int
    features: Tensor | None = None  # [A, F]
    encoded: Tensor | None = None  # [A, F]
    extras: tuple = ()

    def to(self, device):
        return self


class Model(nn.Module):
    def __init__(self, config: SimpleNamespace) -> None:
        super().__init__()
        self.config, self.dtype, self.device = config, torch.float32, torch.device("cpu")
        self.encoder = nn.Sequential(*(nn.Linear(BINS, BINS) for _ in range(config.encoder_layers)))
        self.decoder = nn.Sequential(*(nn.Linear(BINS, BINS) for _ in range(config.decoder_layers)))
        self.head = nn.Linear(BINS, len(config.letters) + 1, bias=False)  # 0: the end


class Config(SimpleNamespace):
    def to_dict(self):
        return dict(vars(self))


class Alphabet(str):
    """What a folder has of a tokenizer."""

    __slots__ = ()

    def get_vocab(self):
        return {letter: number for number, letter in enumerate(self, start=1)}


class Letters:
    """Tokenizer and targets in one: ids of letters."""

    frame = SimpleNamespace(num_prefix=0, num_tokens=lambda audio, text: audio + text + 1, num_targets=lambda n: n + 1)

    def __init__(self, letters: str, prompt=None) -> None:
        self.letters = letters

    def encode(self, texts):
        return [[self.letters.index(letter) + 1 for letter in text if letter in self.letters] for text in texts]


class Spectrum:
    num_bins = BINS

    def __call__(self, samples: Tensor) -> Tensor:
        return torch.fft.rfft(samples).abs().mean(1)

    def split(self, features, num_frames):
        return features.split([frames // 10 for frames in num_frames])

    join = staticmethod(torch.cat)


class Greedy:
    clips_at_once = 8

    def __init__(self, loaded: LoadedModel, how) -> None:
        self.loaded = loaded

    @torch.inference_mode()
    def decode(self, clips, limits, is_loop, texts_of=None):
        model, family = self.loaded.model, self.loaded.family
        for place, (clip, limit) in enumerate(zip(clips, limits, strict=True)):
            features = Spectrum()(family.lay_samples([clip], None, BINS))
            pack = family.lay_out(Letters.frame, [[0] * (len(features) - 1)], [10 * len(features)])
            ids = model.head(family.hidden(model, replace(pack, features=features))).argmax(-1).tolist()[:limit]
            yield Decoded(place, *((ids[: ids.index(0)], "end") if 0 in ids else (ids, "limit")), logps=None)

    def text(self, ids):
        return "".join(self.loaded.tokenizer[i - 1] for i in ids)


class ToyFamily(Family):
    title, module, tag, parts = "Toy", "toy_family", "toy", ("encoder.layers", "decoder.layers", "head")
    prompt_tokens, target_tokens, text_tokens_per_s, listens = 0, 1, 10.0, True
    num_frames = staticmethod(lambda num_samples: 10 * -(-num_samples // TOKEN_SAMPLES))
    num_audio_tokens = staticmethod(lambda num_frames: 0)
    num_states = staticmethod(lambda num_frames: num_frames // 10)
    max_tokens = staticmethod(lambda config: 1000)
    num_layers = staticmethod(lambda m: {"encoder": m.config.encoder_layers, "decoder": m.config.decoder_layers})
    encoder_dim = staticmethod(lambda model: BINS)
    is_tied, untie_head = staticmethod(lambda model: False), staticmethod(lambda model: None)
    targets, decoder, features = Letters, Greedy, staticmethod(lambda extractor, device: Spectrum())
    packed, head = staticmethod(lambda model: nullcontext()), staticmethod(lambda model: model.head)
    usage = staticmethod(lambda name, layout, **decoding: f"Load {name}.")

    def part_of(self, parameter):
        part, _, rest = parameter.partition(".")
        return ("head", None) if part == "head" else (f"{part}.layers", int(rest.partition(".")[0]))

    def lay_out(self, frame, texts, num_frames):
        positions, labels, first = [], [], 0
        for text, num_audio in zip(texts, map(self.num_states, num_frames), strict=True):
            positions += [first + min(i, num_audio - 1) for i in range(len(text) + 1)]
            labels, first = [*labels, *text, 0], first + num_audio
        return ToyPack(torch.tensor(labels), torch.tensor(positions), len(labels), len(texts))

    def lay_samples(self, clips, masks, num_bins):
        padded = [np.pad(clip, (0, -len(clip) % TOKEN_SAMPLES)) for clip in clips]
        return torch.from_numpy(np.concatenate(padded)).view(-1, 10, 160)

    encode = staticmethod(lambda model, pack: model.encoder(pack.features))

    def hidden(self, model, pack):
        encoded = self.encode(model, pack) if pack.encoded is None else pack.encoded
        return model.decoder(encoded[pack.positions])

    def cost(self, model, trainable, width):
        size_of = lambda utterances: SimpleNamespace(tokens=sum(tokens for tokens, _, _ in utterances))  # noqa: E731
        return SimpleNamespace(
            size_of=size_of, operations=lambda size, encoder=True: size.tokens * BINS**2 * 12,
            kept=lambda size, encoder=True: [("decoder.layers", size.tokens * BINS * 16, 0)],
            loss_bytes=lambda size: (size.tokens * BINS * 4, size.tokens * BINS * 4),
        )  # fmt: skip

    def blueprint(self, config, untie_head=False):
        return Blueprint(config, {name: Weight(tuple(w.shape)) for name, w in Model(config).named_parameters()})

    def tokenizer_in(self, folder):
        return self.config_in(folder)[0].letters

    def config_in(self, path):
        return Config(**read_json(path / "config.json")), "native"

    def load_recogniser(self, name, *, dtype, device):
        path = resolve(name)
        model = Model(self.config_in(path)[0])
        model.load_state_dict(load_file(path / "model.safetensors"))
        return LoadedModel(model.eval(), Alphabet(model.config.letters), None, path, identity_of(path))

    def save(self, loaded, path, dtype=torch.float32):
        make_folder(path)
        write_json(path / "config.json", vars(loaded.model.config))
        save_file(loaded.model.state_dict(), path / "model.safetensors")

    def convert(self, source, path, layout, languages):
        self.save(self.load_recogniser(source, dtype=torch.float32, device="cpu"), path)


FAMILY = OUTLINE = ToyFamily()
