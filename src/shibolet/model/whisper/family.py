"""Whisper as a model family: the modules beside this one under the family's names."""

from collections.abc import Mapping
from typing import ClassVar

from shibolet.model.family import Family
from shibolet.model.whisper.decoding import ClipDecoder
from shibolet.model.whisper.examine import oddities
from shibolet.model.whisper.export import convert
from shibolet.model.whisper.features import LogMel, lay_samples
from shibolet.model.whisper.fused import fuse_layers
from shibolet.model.whisper.load import load_recogniser
from shibolet.model.whisper.outline import WhisperOutline
from shibolet.model.whisper.packed import encode, head, hidden, lay_out, packed_attention
from shibolet.model.whisper.parts import keep_layers, untie_head
from shibolet.model.whisper.reference import Transformers
from shibolet.model.whisper.save import save_model
from shibolet.model.whisper.usage import adapter_usage, usage


class Whisper(WhisperOutline, Family):
    """Its functions stand in the modules of this package."""

    rows_at_once: ClassVar[Mapping[str, int]] = {"cpu": 8, "cuda": 128}

    untie_head = staticmethod(untie_head)
    keep_layers = staticmethod(keep_layers)
    lay_out = staticmethod(lay_out)
    lay_samples = staticmethod(lay_samples)
    features = LogMel
    packed = staticmethod(packed_attention)
    encode = staticmethod(encode)
    hidden = staticmethod(hidden)
    head = staticmethod(head)
    fuse = staticmethod(fuse_layers)
    decoder = ClipDecoder
    load_recogniser = staticmethod(load_recogniser)
    save = staticmethod(save_model)
    convert = staticmethod(convert)
    usage = staticmethod(usage)
    adapter_usage = staticmethod(adapter_usage)
    oddities = staticmethod(oddities)
    reference = Transformers


FAMILY = Whisper()
