"""Lengths: what the decoder gives is the audio, whatever a header claims, in files as programs leave them."""

import re
import struct
from pathlib import Path

import numpy as np
import pytest
from made_audio import RATE_HZ, amr, chirp, encode, mux, pitch_hz, uneven

from shibolet.errors import AudioError
from shibolet.records.utterance import AudioRef
from shibolet.speech.audio import load, probe, stream

CASES = Path(__file__).resolve().parents[2] / ".." / "shared" / "cases"
RIGHT_S = {
    "mp3_in_wav_vbr/a.wav": 20.53,
    "adts_estimate/a.aac": 20.61,
    "adts_estimate/vbr_short.aac": 33.60,
    "amr_estimate/a.amr": 8.02,
    "video_longer_than_audio/video_longer.webm": 20.49,
    "video_longer_than_audio/video_05longer.webm": 20.49,
    "chained_ogg/chained.opus": 40.98,
}


def lengths_s(path: Path) -> tuple[float, float, float]:
    """Seconds by `probe`, `load` and `stream`, of a file of which nothing is missing."""
    blocks = stream(path, 3.0)
    streamed = sum(map(len, blocks))
    assert blocks.notes == []
    ref = AudioRef(path=str(path))
    return probe(ref).duration_s, len(load(ref)) / RATE_HZ, streamed / RATE_HZ


def assert_spans_are_slices(path: Path) -> None:
    whole = load(AudioRef(path=str(path)))
    length_s = len(whole) / RATE_HZ
    for start_s, end_s in (
        (0.3, 0.9),
        (round(length_s / 2, 1), round(length_s / 2, 1) + 1),
        (round(length_s - 1, 1), None),
    ):
        span = load(AudioRef(path=str(path), start_s=start_s, end_s=end_s))
        expected = whole[round(start_s * RATE_HZ) : None if end_s is None else round(end_s * RATE_HZ)]
        assert abs(len(span) - len(expected)) <= 1
        inner = slice(400, min(len(span), len(expected)) - 400)  # a resampler sees another neighbourhood at the edges
        np.testing.assert_allclose(span[inner], expected[inner], atol=0.02)  # AAC fills up with noise of its own


@pytest.mark.parametrize("name", RIGHT_S)
def test_files_of_public_reports(name):
    """Each was refused, or cut in silence, for a length that its container estimates or takes from a picture."""
    if not (CASES / name).exists():
        pytest.skip("shared/cases is not beside the repository")
    assert lengths_s(CASES / name) == pytest.approx((RIGHT_S[name],) * 3, abs=0.02)


@pytest.mark.parametrize("kind", ["aac", "amr", "mp3 in wav", "mp3"])
def test_estimates_cut_nothing_and_refuse_nothing(tmp_path, kind):
    """Where frames differ in size, a length by the first ones is wrong by a factor."""
    path, length_s = tmp_path / f"a.{kind.split()[-1]}", 12.0
    if kind == "amr":
        path.write_bytes(amr(600))
    elif kind == "aac":
        mux(path, "adts", [("aac", uneven(length_s, 48000), 0.0)])
    else:
        container, options = ("wav", {}) if "wav" in kind else ("mp3", {"write_xing": "0"})
        samples = uneven(length_s, 48000)
        mux(path, container, [("mp3", samples, 0.0)], codec_options={"q": "5"}, options=options)
    assert lengths_s(path) == pytest.approx((length_s,) * 3, abs=0.1)
    assert_spans_are_slices(path)


@pytest.mark.parametrize("picture_s", [2.0, 10.0, 11.0, 25.0])
@pytest.mark.parametrize(
    "container, codec", [("matroska", "libopus"), ("mp4", "aac"), ("mov", "aac"), ("mpegts", "aac")]
)
def test_a_picture_of_another_length_changes_nothing(tmp_path, container, codec, picture_s):
    """A container's length is that of its longest stream, which is no length of the sound."""
    path = mux(tmp_path / "a.bin", container, [(codec, chirp(10.0, 48000), 0.0)], picture_s=picture_s)
    assert lengths_s(path) == pytest.approx((10.0,) * 3, abs=0.05)
    assert_spans_are_slices(path)


@pytest.mark.parametrize("subtype", ["OPUS", "VORBIS"])
@pytest.mark.parametrize("second", [(RATE_HZ, 1), (48000, 1), (8000, 1), (RATE_HZ, 2)])
@pytest.mark.parametrize("same_serial", [False, True])
def test_ogg_files_that_follow_each_other(tmp_path, subtype, second, same_serial):
    """A recorder that starts anew appends a stream, which may have another rate or other channels."""
    rate_hz, channels = second
    first = encode(chirp(5.0), format="OGG", subtype=subtype)
    link = encode(np.stack([chirp(4.0, rate_hz)] * channels, axis=1), rate_hz, format="OGG", subtype=subtype)
    path = tmp_path / "a.ogg"
    path.write_bytes(first + (first if same_serial else link))
    length_s = 10.0 if same_serial else 9.0
    assert lengths_s(path) == pytest.approx((length_s,) * 3, abs=0.02)
    samples = load(AudioRef(path=str(path)))
    assert pitch_hz(samples[4 * RATE_HZ : 4 * RATE_HZ + 1600]) == pytest.approx(605, abs=5)
    assert pitch_hz(samples[8 * RATE_HZ : 8 * RATE_HZ + 1600]) == pytest.approx(505, abs=5)
    span = load(AudioRef(path=str(path), start_s=4.5, end_s=5.5))
    np.testing.assert_array_equal(span, samples[round(4.5 * RATE_HZ) : round(5.5 * RATE_HZ)])


def resized(content: bytes, size: int, chunk: bytes = b"data") -> bytes:
    at = content.index(chunk) + 4
    return content[:at] + struct.pack("<I", size) + content[at + 4 :]


@pytest.mark.parametrize("size", [0, 100, 16001, 63_001, 0x7FFFF000, 0x80000000, 0xFFFFFFFF])
def test_wav_with_a_size_that_is_not_its_own(tmp_path, size):
    """ffmpeg, sox and recorders that crash leave 0, the largest number, or what was written until some second."""
    path = tmp_path / "a.wav"
    path.write_bytes(resized(encode(chirp(2.0), format="WAV", subtype="PCM_16"), size))
    assert lengths_s(path) == pytest.approx((2.0,) * 3, abs=1e-4)
    np.testing.assert_allclose(load(AudioRef(path=str(path))), chirp(2.0), atol=1e-4)
    assert_spans_are_slices(path)


def test_what_follows_the_samples_is_not_heard(tmp_path):
    """Chunks and tags at the end of a WAV would be a click, or a second of noise."""
    wav = encode(chirp(2.0), format="WAV", subtype="PCM_16")
    comment = b"LIST" + struct.pack("<I", 40_000) + b"INFO" + bytes(range(1, 251)) * 160
    for i, tail in enumerate((comment[: 8 + 40_000], b"ID3\3\0\0" + bytes(9000), b"TAG" + bytes(125), bytes(10))):
        path = tmp_path / f"{i}.wav"
        path.write_bytes(wav + tail)
        assert len(load(AudioRef(path=str(path)))) == 2 * RATE_HZ, tail[:4]


@pytest.mark.parametrize("container", ["WAV", "RF64", "W64", "AIFF", "AU", "CAF", "NIST"])
def test_half_a_file_is_not_taken_for_a_whole_one(tmp_path, container):
    """libsndfile gives the samples that are there and says nothing of the others: half a text would be trained on."""
    content = encode(chirp(4.0), format=container, subtype="PCM_16")
    path = tmp_path / f"a.{container.lower()}"
    path.write_bytes(content)
    assert lengths_s(path) == (4.0, 4.0, 4.0)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(AudioError, match=r"the header says 4.0\d s, samples end at (1.9\d|2.00) s") as caught:
        load(AudioRef(path=str(path)))
    assert caught.value.reason == "cut_short"
    assert len(load(AudioRef(path=str(path), start_s=0.5, end_s=1.5))) == RATE_HZ, "what is there may be used"
    blocks = stream(path)
    assert sum(map(len, blocks)) == pytest.approx(2 * RATE_HZ, abs=1200)
    [note] = blocks.notes
    assert note.startswith("the header says 4.0")


@pytest.mark.parametrize("container, codec, options", [
    ("mp4", "aac", {"movflags": "faststart"}), ("matroska", "libopus", {}), ("avi", "mp3", {}), ("mp3", "mp3", {}),
])  # fmt: skip
def test_half_a_compressed_file_is_not_taken_for_a_whole_one(tmp_path, container, codec, options):
    path = mux(tmp_path / "a.bin", container, [(codec, chirp(10.0, 48000), 0.0)], options=options)
    assert lengths_s(path) == pytest.approx((10.0,) * 3, abs=0.1)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with pytest.raises(AudioError, match="the header says") as caught:
        load(AudioRef(path=str(path)))
    assert caught.value.reason == "cut_short"
    blocks = stream(path)
    assert 4 * RATE_HZ < sum(map(len, blocks)) < 9 * RATE_HZ and len(blocks.notes) == 1


def claiming(flac: bytes, num_samples: int) -> bytes:
    """A FLAC whose STREAMINFO claims another length."""
    return (
        flac[:21]
        + bytes([flac[21] & 0xF0 | num_samples >> 32])
        + (num_samples & 0xFFFFFFFF).to_bytes(4, "big")
        + flac[26:]
    )


@pytest.mark.parametrize("num_samples", [0, 1, 20_000, 31_000])
def test_flac_that_claims_too_little(tmp_path, num_samples):
    """libsndfile stops at the claim; the last frame knows better."""
    path = tmp_path / "a.flac"
    whole = encode(chirp(2.0), format="FLAC")
    path.write_bytes(claiming(whole, num_samples))
    assert lengths_s(path) == (2.0, 2.0, 2.0)
    np.testing.assert_allclose(load(AudioRef(path=str(path))), chirp(2.0), atol=1e-4)
    assert_spans_are_slices(path)


def test_the_last_frame_of_flac_files_is_found(tmp_path):
    """Where it were not, good files would take the slow way; where a wrong one were, they would be counted anew."""
    from shibolet.speech.encoded import Encoded
    from shibolet.speech.flac import flac_lengths, plain_flac

    rng = np.random.default_rng(0)
    for rate_hz in (8000, 11025, 16000, 44100, 48000, 96000):
        for channels in (1, 2, 3):
            for subtype in ("PCM_S8", "PCM_16", "PCM_24"):
                num = int(rng.integers(1, 200_000))
                content = encode(rng.normal(0, 0.1, (num, channels)), rate_hz, format="FLAC", subtype=subtype)
                assert flac_lengths(Encoded.of(content)) == (num, num), (rate_hz, channels, subtype)
                assert plain_flac(Encoded.of(content)) == (num, rate_hz, channels)


def test_only_a_flac_that_is_as_its_header_says_is_not_opened_for_its_length(monkeypatch):
    """Headers of 74,000 files are read before a round begins; what is odd in them is for a decoder to say."""
    from shibolet.speech import audio
    from shibolet.speech.encoded import Encoded
    from shibolet.speech.flac import plain_flac

    whole = encode(chirp(2.0), format="FLAC")
    padded = whole[:42] + b"\x01" + (8192).to_bytes(3, "big") + bytes(8192) + whole[42:]  # room for tags
    unknown = whole[:42] + b"\x06" + (9).to_bytes(3, "big") + bytes(9) + whole[42:]
    comment = whole[:46] + b"\xff" + whole[47:]
    texts = whole[:82] + b"\x01" + whole[83:]
    cut, too_long = whole[:-3000], claiming(whole, 32_001)
    odd = [unknown, comment, texts, cut, too_long, claiming(whole, 0), whole[:60], whole[:42], whole[:20]]
    assert [plain_flac(Encoded.of(content)) for content in (whole, padded, *odd)] == 2 * [(32_000, 16_000, 1)] + 9 * [
        None
    ]
    monkeypatch.setattr(audio, "open_sound", None)  # would be called
    assert audio.probe_encoded(padded, "a.flac") == audio.AudioInfo(2.0, 16_000, 1)


@pytest.mark.parametrize("frames", [20, 5000])
def test_mp3_whose_header_lies(tmp_path, frames):
    """A Xing header that was not written anew when the file was cut or joined."""
    content = encode(chirp(10.0), format="MP3")
    at = max(content.find(b"Xing"), content.find(b"Info")) + 8
    path = tmp_path / "a.mp3"
    path.write_bytes(content[:at] + frames.to_bytes(4, "big") + content[at + 4 :])
    blocks = stream(path)
    assert sum(map(len, blocks)) == pytest.approx(10 * RATE_HZ, abs=0.1 * RATE_HZ)
    assert bool(blocks.notes) == (frames == 5000)
    assert probe(AudioRef(path=str(path))).duration_s == pytest.approx(10.0, abs=0.1)


@pytest.mark.parametrize("tail", [bytes(20_000), b"LYRICSBEGIN" + b"abc" * 5000 + b"LYRICS200"])
def test_what_programs_leave_after_an_mp3_is_no_sound_that_is_lost(tmp_path, tail):
    """Each utterance that is a file of its own would leave training as damaged."""
    path = mux(tmp_path / "a.mp3", "mp3", [("mp3", chirp(3.0, 48000), 0.0)])
    path.write_bytes(path.read_bytes() + tail)
    assert len(load(AudioRef(path=str(path)))) == pytest.approx(3.0 * RATE_HZ, abs=0.06 * RATE_HZ)
    blocks = stream(path)
    assert sum(map(len, blocks)) and blocks.notes == []


def test_a_span_beyond_a_short_mp4_names_its_length(tmp_path):
    path = mux(tmp_path / "a.m4a", "ipod", [("aac", chirp(0.5, 48000), 0.0)])
    with pytest.raises(AudioError, match=r"starts at 2\.00 s, the audio ends at 0\.5\d s"):
        load(AudioRef(path=str(path), start_s=2.0, end_s=3.0))


def test_a_recording_of_a_broadcast_is_as_long_as_it_is(tmp_path):
    """Its first page says how long the broadcast had lasted; FFmpeg counts that in, and the file seemed cut short."""
    content = encode(chirp(10.0), format="OGG", subtype="OPUS")
    pages = [match.start() for match in re.finditer(b"OggS", content)]
    late = next(at for at in pages if int.from_bytes(content[at + 6 : at + 14], "little") > 4 * 48000)
    path = tmp_path / "a.opus"
    path.write_bytes(content[: pages[2]] + content[late:])
    probed, loaded, streamed = lengths_s(path)
    assert 4 < loaded < 7 and probed == pytest.approx(loaded, abs=0.1) and streamed == pytest.approx(loaded, abs=0.1)
