"""Opus over a network that loses packets: which of them are lost, and what a receiver makes of the rest.

Pure functions of float32 mono samples at 16 kHz; chance comes in as `rng`. Length and place stay.
"""

import io

import av
import numpy as np

from shibolet.speech.augment import at_16_khz, encode

PACKET_S = 0.02  # of sound in each, which is what Opus and most calls send
_OPUS_HZ = 48_000  # both decoders give it
_CONCEALS = {True: "libopus", False: "opus"}  # decoders of FFmpeg: of a packet without content


def draw_losses(num_packets: int, loss_frac: float, mean_burst: float, rng: np.random.Generator) -> np.ndarray:
    """[P] whether each packet is lost: the chain of two states by Gilbert (1960) and Elliott (1963).

    Every packet of the bad state is lost and none of the good one; `mean_burst` packets are lost in a row on average.
    Independent losses come in bursts of 1 / (1 - loss_frac) already: with that or less, 1 for one, losses are
    independent. `loss_frac` is under 1. From equal chance a higher one loses all that a lower one does, and more.
    """
    to_good = min(1 / mean_burst, 1 - loss_frac)
    to_bad = to_good * loss_frac / (1 - loss_frac)
    is_lost = np.zeros(num_packets, bool)
    bad = rng.random() < loss_frac
    for i, chance in enumerate(rng.random(num_packets)):
        is_lost[i] = bad
        bad = chance >= (to_good if bad else 1 - to_bad)  # high numbers lose: what is lost at 5% is lost at 10% too
    return is_lost


def opus_packets(encoded: bytes) -> tuple[list[bytes], bytes]:
    """The packets of an Ogg Opus file in order, and its header."""
    with av.open(io.BytesIO(encoded)) as container:
        stream = container.streams.audio[0]
        return [bytes(packet) for packet in container.demux(stream) if packet.size], bytes(
            stream.codec_context.extradata
        )


def decode_with_losses(encoded: bytes, is_lost: np.ndarray, num_samples: int, *, conceal: bool) -> np.ndarray:
    """[S] what is heard of an Ogg Opus file of `num_samples` at 16 kHz without the packets that are lost [P].

    A packet that is left out shortens the sound, and the next ones are decoded against a state that is not theirs: they
    become several times too loud. So a decoder is given the first byte of a lost packet, which has its length and no
    content. libopus then conceals the gap: the samples are those of its `opus_decode` without data. FFmpeg's own
    decoder has no concealment: the packet before fades out and silence follows.
    """
    packets, header = opus_packets(encoded)
    decoder = av.CodecContext.create(_CONCEALS[conceal], "r")
    decoder.extradata = header
    heard = [av.Packet(packet[:1] if lost else packet) for packet, lost in zip(packets, is_lost, strict=True)]
    resampler = av.AudioResampler(format="flt", layout="mono")
    pieces = [
        piece.to_ndarray()[0]
        for packet in heard
        for frame in decoder.decode(packet)
        for piece in resampler.resample(frame)
    ]
    return at_16_khz(np.concatenate(pieces)[: 3 * num_samples], _OPUS_HZ, num_samples)


def through_call(
    samples: np.ndarray, bitrate_bps: int, loss_frac: float, mean_burst: float, rng: np.random.Generator, *,
    conceal: bool,
) -> np.ndarray:  # fmt: skip
    """What is left after Opus and a network that loses this share of the packets; same length and place."""
    if not len(samples):
        return samples
    encoded = encode(samples, "opus", bitrate_bps)
    is_lost = draw_losses(len(opus_packets(encoded)[0]), loss_frac, mean_burst, rng)
    return decode_with_losses(encoded, is_lost, len(samples), conceal=conceal)
