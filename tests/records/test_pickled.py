"""Objects between processes: protects them from arriving changed, and from looking their fields up one by one again."""

import dataclasses
import pickle
from dataclasses import FrozenInstanceError, dataclass

import numpy as np
import pytest

from shibolet.audit.clip import Clip
from shibolet.listen.protocols import Alignment, Hearing
from shibolet.records.pickled import pickled_fast
from shibolet.records.utterance import AudioRef
from shibolet.speech.activity import Sound

CLIP = Clip(
    key="u", utterance="u", audio=AudioRef(path="a\udcff.wav", start_s=1.5), words=("שלום", "5"),
    verifiable=(True, False), duration_s=2.5, change_audio=np.flip,
)  # fmt: skip
SOUND = Sound(2.5, ((0.1, 1.0), (1.2, 2.0)), 20.0, 8000.0)


@pickled_fast
@dataclass(frozen=True, slots=True)
class Own:
    a: int
    b: "Own | None" = None


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize("one", [CLIP, CLIP.audio, SOUND, Own(1, Own(2))])
def test_what_arrives_is_equal_and_cannot_be_changed(one, protocol: int) -> None:
    found = pickle.loads(pickle.dumps(one, protocol))
    assert found == one and type(found) is type(one) and hash(found) == hash(one)
    with pytest.raises((FrozenInstanceError, TypeError)):
        setattr(found, dataclasses.fields(found)[0].name, None)


def test_arrays_arrive_too() -> None:
    hearing = Hearing(hypothesis="x", text_score=None, letter_times_s=np.arange(3.0))
    alignment = Alignment(starts_s=np.arange(2.0), ends_s=np.ones(2))
    heard, aligned = pickle.loads(pickle.dumps((hearing, alignment)))
    assert (heard.hypothesis, heard.text_score, heard.word_spans_s.shape) == ("x", None, (0, 2))
    assert heard.letter_times_s.tolist() == [0, 1, 2] and aligned.ends_s.tolist() == [1, 1]


def test_no_fields_are_looked_up_for_an_object(monkeypatch) -> None:
    """A clip then takes more than twice as long to pickle."""
    asked = []
    monkeypatch.setattr(dataclasses, "fields", lambda of: asked.append(of) or ())
    assert pickle.loads(pickle.dumps((CLIP, SOUND))) == (CLIP, SOUND)
    assert not asked
