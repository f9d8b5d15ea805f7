"""Sound that starts late, has holes, cancels itself or lies in one of several tracks; and files that would hang."""

import os
import resource
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from made_audio import RATE_HZ, amr, chirp, encode, mux, pitch_hz

from shibolet.errors import AudioError
from shibolet.records.utterance import AudioRef
from shibolet.speech import audio
from shibolet.speech.audio import content_hash, load, probe, stream
from shibolet.speech.encoded import Encoded
from shibolet.speech.opening import open_sound


def ref(path: Path, start_s: float = 0.0, end_s: float | None = None) -> AudioRef:
    return AudioRef(path=str(path), start_s=start_s, end_s=end_s)


@pytest.mark.parametrize("picture_s", [0.0, 12.0])
@pytest.mark.parametrize("container, codec", [("matroska", "libopus"), ("mp4", "aac"), ("mov", "aac")])
def test_times_are_those_of_the_file_where_sound_starts_late(tmp_path, container, codec, picture_s):
    """Subtitles would be early by the silence before the sound, and a manifest's spans would miss their words."""
    path = mux(tmp_path / "a.bin", container, [(codec, chirp(10.0, 48000), 1.4)], picture_s=picture_s)
    assert probe(ref(path)).duration_s == pytest.approx(11.4, abs=0.05)
    whole = load(ref(path))
    assert len(whole) == pytest.approx(11.4 * RATE_HZ, abs=800)
    assert np.abs(whole[: round(1.35 * RATE_HZ)]).max() < 1e-6
    assert pitch_hz(whole[round(5.4 * RATE_HZ) :][:1600]) == pytest.approx(605, abs=5)
    span = load(ref(path, 5.4, 5.5))
    assert pitch_hz(span) == pytest.approx(605, abs=5)
    over_the_start = load(ref(path, 1.0, 2.0))
    assert len(over_the_start) == RATE_HZ and np.flatnonzero(np.abs(over_the_start) > 0.01)[0] == pytest.approx(
        0.4 * RATE_HZ, abs=800
    )
    blocks = stream(path, 3.0)
    assert sum(map(len, blocks)) == pytest.approx(10.0 * RATE_HZ, abs=800), "no silence is transcribed"
    assert blocks.start_s == pytest.approx(1.4, abs=0.03) and blocks.notes == []


def test_a_broadcast_has_its_own_clock(tmp_path):
    """A transport stream's times count from anywhere: players, and subtitles, count from its first picture or sound."""
    path = mux(tmp_path / "a.ts", "mpegts", [("aac", chirp(5.0, 48000), 1.4)])
    assert probe(ref(path)).duration_s == pytest.approx(5.0, abs=0.05)
    late = mux(tmp_path / "b.ts", "mpegts", [("aac", chirp(5.0, 48000), 1.4)], picture_s=7.0)
    assert probe(ref(late)).duration_s == pytest.approx(6.4, abs=0.05)


def zeroed(content: bytes, num: int) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(num) + content[middle + num :]


def removed(content: bytes, num: int) -> bytes:
    middle = len(content) // 2
    return content[:middle] + content[middle + num :]


def flipped(content: bytes, num: int) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ num]) + content[middle + 1 :]


def made(kind: str, folder: Path) -> bytes:
    tracks = [("aac" if kind == "mp4" else "libopus", chirp(20.0, 48000), 0.0)]
    if kind in ("FLAC", "MP3"):
        return encode(chirp(20.0), format=kind)
    if kind in ("OPUS", "VORBIS"):
        return encode(chirp(20.0), format="OGG", subtype=kind)
    return mux(folder / "made.bin", {"mp4": "mp4", "webm": "webm"}[kind], tracks).read_bytes()


DAMAGES = [
    ("FLAC", flipped, 16), ("FLAC", zeroed, 2000), ("FLAC", removed, 3000), ("OPUS", flipped, 16),
    ("VORBIS", flipped, 16), ("OPUS", zeroed, 3000), ("webm", zeroed, 3000), ("mp4", zeroed, 3000),
    ("MP3", zeroed, 4000),
]  # fmt: skip


@pytest.mark.parametrize("kind, damage, num", DAMAGES)
def test_damage_costs_what_is_damaged(tmp_path, kind, damage: Callable, num):
    """Decoding goes on after it, at the right time: what came later was lost, or stood too early, without a word."""
    path = tmp_path / f"a.{'mp3' if kind == 'MP3' else 'bin'}"
    path.write_bytes(damage(made(kind, tmp_path), num))
    blocks = stream(path, 2.0)
    samples = np.concatenate(list(blocks))
    assert len(samples) == pytest.approx(20 * RATE_HZ, abs=0.3 * RATE_HZ)
    assert blocks.notes[0].startswith("damaged: "), blocks.notes
    near_hz = 30 if kind == "MP3" else 6  # of MP3 only the bytes tell how much is lost
    for at_s in (2, 18):
        assert pitch_hz(samples[at_s * RATE_HZ :][:1600]) == pytest.approx(205 + 100 * at_s, abs=near_hz)
    with pytest.raises(AudioError, match=r"damaged: \d+\.\d\d s from \d+\.\d\d s on") as caught:
        load(ref(path))
    assert caught.value.reason == "damaged", "a hole under a text is not trained on"
    assert len(load(ref(path, 1.0, 2.0))) == RATE_HZ, "nor is what lies before the hole lost to it"
    assert pitch_hz(load(ref(path, 18.0, 18.1))) == pytest.approx(2005, abs=near_hz)


def test_no_memory_is_handed_out_that_nobody_wrote(tmp_path):
    """soundfile fills blocks up with what was in memory before, where a page of Ogg is lost."""
    whole, path = encode(chirp(20.0), format="OGG", subtype="VORBIS"), tmp_path / "a.ogg"
    path.write_bytes(whole)
    right = load(ref(path))
    path.write_bytes(flipped(whole, 16))
    samples = np.concatenate(list(stream(path, 7.0)))
    there = np.abs(samples) > 1e-3
    assert 10 * RATE_HZ < np.count_nonzero(there) < 19 * RATE_HZ and len(samples) == len(right)
    differs = np.abs(samples - right)[there] > 0.05
    assert np.count_nonzero(differs) < 0.05 * RATE_HZ, "but for the edges of the hole"


def test_damage_in_a_later_stream_has_the_time_of_the_file(tmp_path):
    first = encode(chirp(20.0), format="OGG", subtype="OPUS")
    (tmp_path / "a.ogg").write_bytes(first + flipped(first, 16))
    blocks = stream(tmp_path / "a.ogg")
    assert sum(map(len, blocks)) == pytest.approx(40 * RATE_HZ, abs=200)
    assert blocks.notes == ["damaged: 1.00 s from 28.99 s on could not be decoded"]


def test_samples_before_wrong_ones_are_given(tmp_path):
    """An hour with a NaN in its last minute is an hour that can be transcribed."""
    samples = chirp(10.0)
    samples[round(7.5 * RATE_HZ)] = np.nan
    sf.write(tmp_path / "a.wav", samples, RATE_HZ, subtype="FLOAT")
    got = []
    with pytest.raises(AudioError, match=r"a\.wav: after 7\.50 s: 1 samples are not numbers") as caught:
        got.extend(stream(tmp_path / "a.wav", 30.0))
    assert caught.value.reason == "nan_samples" and sum(map(len, got)) == round(7.5 * RATE_HZ)


@pytest.mark.parametrize("right, expected", [(-1.0, 1.0), (-0.9, 1.0), (0.0, 0.5), (1.0, 1.0), (-0.4, 0.3)])
def test_channels_that_cancel(tmp_path, right, expected):
    """A cable of opposite phase leaves nothing of the average; one silent channel leaves half, which is enough."""
    left, path = chirp(4.0), tmp_path / "a.wav"
    sf.write(path, np.stack([left, right * left], axis=1), RATE_HZ, subtype="FLOAT")
    np.testing.assert_allclose(load(ref(path)), expected * left, atol=1e-6)
    np.testing.assert_allclose(load(ref(path, 1.0, 2.0)), expected * left[RATE_HZ : 2 * RATE_HZ], atol=1e-6)
    blocks = stream(path, 1.0)
    np.testing.assert_allclose(np.concatenate(list(blocks)), expected * left, atol=1e-6)
    said = "its channels cancel each other: channel 1 was taken by itself where they do"
    assert blocks.notes == ([said] if right < -0.5 else [])


def test_two_speakers_and_a_film_are_averaged(tmp_path):
    """Both sides of a call are heard, and what is said in the centre of six channels, however quiet."""
    rng = np.random.default_rng(0)
    sides = np.stack([chirp(2.0), rng.normal(0, 0.1, 2 * RATE_HZ).astype(np.float32)], axis=1)
    sf.write(tmp_path / "call.wav", sides, RATE_HZ, subtype="FLOAT")
    np.testing.assert_array_equal(load(ref(tmp_path / "call.wav")), sides.mean(axis=1))
    six = np.zeros((2 * RATE_HZ, 6), np.float32)
    six[:, 2] = chirp(2.0)
    sf.write(tmp_path / "film.wav", six, RATE_HZ, subtype="FLOAT")
    np.testing.assert_allclose(load(ref(tmp_path / "film.wav")), chirp(2.0) / 6, atol=1e-7)


def test_more_channels_than_pyav_has_planes_for(tmp_path):
    """PyAV reads memory that is not its own where FFmpeg has over eight channels: the process crashed."""
    samples = np.stack([chirp(1.0)] * 12, axis=1)
    (tmp_path / "a.wav").write_bytes(encode(samples, format="WAV", subtype="PCM_16"))
    with open_sound(Encoded.of(tmp_path / "a.wav"), after_damage=True) as sound:
        found = np.concatenate(list(sound.blocks(0, None)))
    np.testing.assert_allclose(found, chirp(1.0), atol=1e-4)


@pytest.mark.parametrize("container, codec", [("mp4", "aac"), ("matroska", "libopus")])
def test_of_several_tracks_one_that_sounds_is_taken(tmp_path, container, codec):
    """A camera with two microphones, of which one was off."""
    sound, silence = chirp(4.0, 48000), np.zeros(4 * 48000)
    for i, tracks in enumerate(([silence, sound], [sound, silence], [silence, silence])):
        path = mux(tmp_path / f"{i}.bin", container, [(codec, one, 0.0) for one in tracks])
        blocks = stream(path)
        samples = np.concatenate(list(blocks))
        assert blocks.notes == [f"track {(2, 1, 1)[i]} of 2 was taken"]
        assert (np.abs(samples).max() > 0.1) == (i < 2)
        assert len(load(ref(path))) == len(samples)


@pytest.mark.parametrize("name", ["list.m3u8", "list.mp3", "list.m4a", "list.ffconcat", "list.sdp"])
@pytest.mark.parametrize("content", [
    "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfifo.ts\n#EXT-X-ENDLIST\n",
    "ffconcat version 1.0\nfile fifo.ts\n",
    "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
    '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period/></MPD>',
])  # fmt: skip
def test_files_that_a_playlist_names_are_not_opened(tmp_path, name, content):
    """FFmpeg opens them before it says what kind of file it has; a pipe among them would hang every command."""
    os.mkfifo(tmp_path / "fifo.ts")
    (tmp_path / name).write_text(content)
    for read in (load, probe, lambda found: list(stream(Path(found.path)))):
        with pytest.raises(AudioError) as caught:
            read(ref(tmp_path / name))
        assert caught.value.reason == "undecodable"


def test_what_would_never_end_is_not_opened(tmp_path):
    """Pipes, devices and sockets wait for ever, whoever asks."""
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "null.flac").symlink_to("/dev/zero")
    for path in (tmp_path / "pipe.wav", tmp_path / "null.flac", Path("/proc/self/mem"), Path("/proc/kmsg")):
        for read in (load, probe, content_hash, lambda found: list(stream(Path(found.path)))):
            with pytest.raises(AudioError) as caught:
                read(ref(path))
            assert caught.value.reason in ("not_a_file", "empty_audio")


def test_a_small_file_of_endless_silence_is_given_up(tmp_path, monkeypatch):
    """A few kilobytes can hold days of silence: what is decoded is bounded, in memory and in time."""
    monkeypatch.setattr(audio, "_LOADED_S", 60.0)
    monkeypatch.setattr(audio, "MAX_DURATION_S", 90.0)
    sf.write(tmp_path / "a.flac", np.zeros(200 * RATE_HZ), RATE_HZ)
    assert (tmp_path / "a.flac").stat().st_size < 20_000
    with pytest.raises(AudioError, match="more than 60 s in one piece") as caught:
        load(ref(tmp_path / "a.flac"))
    assert caught.value.reason == "too_long"
    assert len(load(ref(tmp_path / "a.flac", 100.0, 101.0))) == RATE_HZ
    got = []
    with pytest.raises(AudioError, match=r"after \d+\.00 s: more than a recording has") as caught:
        got.extend(stream(tmp_path / "a.flac", 10.0))
    assert caught.value.reason == "too_long" and 80 <= sum(map(len, got)) / RATE_HZ <= 110


def test_many_streams_that_follow_each_other_and_what_only_looks_like_them(tmp_path):
    """A radio's recording has thousands; bytes that look like pages everywhere must not be checked again and again."""
    link = encode(chirp(0.1), format="OGG", subtype="OPUS")
    (tmp_path / "radio.opus").write_bytes(link * 200)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, limits[1]))
    try:
        assert len(load(ref(tmp_path / "radio.opus"))) == pytest.approx(20 * RATE_HZ, abs=200)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    (tmp_path / "trap.ogg").write_bytes(link + (b"OggS\0\0" + b"\xff" * 40) * 20_000)
    (tmp_path / "trap.wav").write_bytes(b"RIFF\xff\xff\xff\x7fWAVE" + b"JUNK\0\0\0\0" * 500_000)
    for name in ("trap.ogg", "trap.wav"):
        started_s = time.process_time()
        with suppress(AudioError):
            load(ref(tmp_path / name))
        assert time.process_time() - started_s < 3, name


@pytest.mark.parametrize("container, codec", [("matroska", "libopus"), ("mpegts", "aac"), ("mp4", "aac")])
def test_sound_that_starts_long_after_the_picture(tmp_path, container, codec):
    """FFmpeg looks at the first seconds alone: for what it did not see it says that it starts at 0, at a rate of 0."""
    path = mux(tmp_path / "a.bin", container, [(codec, chirp(5.0, 48000), 70.0)], picture_s=80.0)
    assert probe(ref(path)).duration_s == pytest.approx(75.0, abs=0.1)
    assert pitch_hz(load(ref(path, 72.0, 72.1))) == pytest.approx(405, abs=5)
    blocks = stream(path)
    assert sum(map(len, blocks)) == pytest.approx(5.0 * RATE_HZ, abs=1600)
    assert blocks.start_s == pytest.approx(70.0, abs=0.05) and blocks.notes == []


@pytest.mark.parametrize("container, options", [("avi", {}), ("asf", {}), ("matroska", {"live": "1"})])
def test_a_length_is_found_where_no_header_and_no_packet_tells_it(tmp_path, container, options):
    path = mux(tmp_path / "a.bin", container, [("aac", chirp(5.0, 16000), 0.0)], rate_hz=16000, options=options)
    assert probe(ref(path)).duration_s == pytest.approx(5.0, abs=0.15)
    assert len(load(ref(path))) == pytest.approx(5.0 * RATE_HZ, abs=2400)


def test_a_stream_that_begins_in_the_middle_costs_nothing(tmp_path):
    """A broken tag of FLV, or a picture that begins late: packets of a stream that was not there at the start."""
    path = mux(tmp_path / "a.flv", "flv", [("libmp3lame", chirp(10.0, 44100), 0.0)], rate_hz=44100)
    content = bytearray(path.read_bytes())
    at = content.index(b"\x08", len(content) // 2)
    while content[at + 8 : at + 11] != b"\0\0\0" or content[at + 11] >> 4 != 2:  # a tag of sound, of MP3
        at = content.index(b"\x08", at + 1)
    content[at] = 9  # is one of a picture now
    path.write_bytes(content)
    assert len(load(ref(path))) == pytest.approx(10.0 * RATE_HZ, abs=1600)
    assert probe(ref(path)).duration_s == pytest.approx(10.0, abs=0.1)


def test_flv_that_lost_its_second_half(tmp_path):
    path = mux(tmp_path / "a.flv", "flv", [("libmp3lame", chirp(10.0, 44100), 0.0)], rate_hz=44100)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(AudioError, match="the header says 10") as error:
        load(ref(path))
    assert error.value.reason == "cut_short"


@pytest.mark.parametrize("container", ["asf", "nut", "mpeg"])
def test_a_hole_keeps_the_time_of_what_follows(tmp_path, container):
    path = mux(tmp_path / "a.bin", container, [("mp3", chirp(10.0, 44100), 0.0)], rate_hz=44100)
    path.write_bytes(zeroed(path.read_bytes(), 6000))
    with pytest.raises(AudioError, match="damaged"):
        load(ref(path))
    blocks = stream(path)
    samples = np.concatenate(list(blocks))
    assert len(samples) == pytest.approx(10.0 * RATE_HZ, abs=1600) and blocks.notes
    assert pitch_hz(samples[9 * RATE_HZ :][:1600]) == pytest.approx(1105, abs=8)


def test_one_voice_of_two_that_cancels(tmp_path):
    """The first is in phase in both channels, the second is not: the average of all of it hides the second."""
    voice = chirp(10.0)
    other = np.where(np.arange(len(voice)) < len(voice) // 2, voice, -voice)
    path = tmp_path / "a.wav"
    path.write_bytes(encode(np.stack([voice, other], axis=1), format="WAV"))
    blocks = stream(path)
    samples = np.concatenate(list(blocks))
    assert pitch_hz(samples[8 * RATE_HZ :][:1600]) == pytest.approx(1005, abs=5)
    assert np.abs(samples[8 * RATE_HZ :]).max() > 0.4 and "cancel" in blocks.notes[0]


def test_files_written_one_after_the_other(tmp_path):
    """`cat a.mp3 b.mp3 > c.mp3`, as of podcasts, and the same of AMR, WAV and transport streams."""
    mp3 = mux(tmp_path / "1.mp3", "mp3", [("libmp3lame", chirp(4.0), 0.0)], rate_hz=RATE_HZ).read_bytes()
    ts = mux(tmp_path / "1.ts", "mpegts", [("aac", chirp(4.0, 48000), 0.0)]).read_bytes()
    one_amr, wav = amr(200), encode(chirp(4.0), format="WAV")
    for name, content in {"c.mp3": mp3, "c.amr": one_amr, "c.wav": wav, "c.ts": ts}.items():
        path = tmp_path / name
        path.write_bytes(content + content)
        samples = load(ref(path))
        assert len(samples) == pytest.approx(8.0 * RATE_HZ, abs=1600), name
        assert probe(ref(path)).duration_s == pytest.approx(8.0, abs=0.25), name
        if name != "c.amr":
            assert pitch_hz(samples[7 * RATE_HZ :][:1600]) == pytest.approx(505, abs=8), name


@pytest.mark.parametrize("how", [{"subtype": "OPUS"}, {"subtype": "VORBIS"}])
def test_ogg_that_ends_in_the_middle_of_a_page(tmp_path, how):
    content = encode(np.random.default_rng(0).normal(0, 0.1, 160_000), format="OGG", **how)
    path = tmp_path / "a.ogg"
    path.write_bytes(content[:-100])
    with pytest.raises(AudioError, match="cut in the middle of a page") as error:
        load(ref(path))
    assert error.value.reason == "cut_short"
    blocks = stream(path)
    assert sum(map(len, blocks)) > 2 * RATE_HZ and "cut in the middle of a page" in blocks.notes[0]
