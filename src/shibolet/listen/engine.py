"""What a transcription engine is: it writes down what is said in clips. Each is a class with `write`."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from shibolet.listen.pieces import cut_stream, in_blocks

if TYPE_CHECKING:  # torch: kept out of `shibolet --help`
    from shibolet.model.protocols import Ending


@dataclass(frozen=True, slots=True)
class Written:
    """The text of a clip and why it ends.

    end    the model had no more to say, as far as can be known
    limit  it had written as much as it may for the length of the clip
    loop   it said one thing again and again, more than the clip has room for (`listen/loops.py`); the text has it all
    again  it looped, and this is what it wrote in another way (`Transcriber`'s `loop_bias`)
    """

    text: str
    ending: "Ending | Literal['again']"


class Engine(Protocol):
    """Writes down what is said in clips (mono float32 at 16 kHz, of at most 30 s), in one language."""

    identity: str  # what made the text: hash of the weights, or the server's name for its model
    clips_at_once: int  # with fewer in a call it is slower; more change nothing

    @abstractmethod
    def write(self, clips: Sequence[np.ndarray]) -> list[Written]:
        """What is said in each clip, in the order given; which clips share a batch depends on the list alone."""

    def write_long(self, samples: np.ndarray, max_piece_s: float) -> Written:
        """What is said in a recording of any length, heard in pieces of at most `max_piece_s` cut at pauses.

        It was written "again" where a piece of it was, and else ends as its last piece does.
        """
        pieces = self.write([piece for _, piece in cut_stream(in_blocks(samples), max_piece_s)])
        endings = [piece.ending for piece in pieces] or ["end"]
        return Written(
            " ".join(piece.text for piece in pieces if piece.text), "again" if "again" in endings else endings[-1]
        )

    def transcribe(self, clips: Sequence[np.ndarray]) -> list[str]:
        """Text of each clip."""
        return [one.text for one in self.write(clips)]
