"""Audio: what is decoded is the right samples of the right span, and what cannot be decoded says why."""

import hashlib
import io
import json
import os
import pickle
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile as sf
import soxr
from made_audio import chirp, pitch_hz

from shibolet.errors import AudioError, DataError
from shibolet.records.utterance import AudioRef
from shibolet.speech import sndfile
from shibolet.speech.audio import SAMPLE_RATE_HZ, content_hash, encode_flac, load, probe, stream
from shibolet.speech.augment import encode

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
FORMATS = {
    "wav": {},
    "flac": {},
    "mp3": {"format": "MP3"},
    "ogg": {"format": "OGG", "subtype": "VORBIS"},
    "opus": {"format": "OGG", "subtype": "OPUS"},
}


def write_av(path: Path, samples: np.ndarray, codec: str, rate_hz: int, seekable: bool = True) -> None:
    out = io.BytesIO() if seekable else WriteOnly()
    with av.open(out, "w", format={"aac": "ipod", "libopus": "webm"}[codec]) as container:
        stream = container.add_stream(codec, rate=rate_hz, layout="mono")
        to_codec = av.AudioResampler(format=stream.codec_context.format, layout="mono", rate=rate_hz)
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = SAMPLE_RATE_HZ, 0
        for converted in [*to_codec.resample(frame), *to_codec.resample(None)]:
            container.mux(stream.encode(converted))
        container.mux(stream.encode(None))
    path.write_bytes(out.getvalue())


class WriteOnly:
    """A pipe: the container cannot go back to write its length, as with a browser's recordings."""

    def __init__(self) -> None:
        self.content = b""

    def write(self, content: bytes) -> int:
        self.content += bytes(content)
        return len(content)

    def getvalue(self) -> bytes:
        return self.content


@pytest.fixture
def table_of(tmp_path):
    """Writes audio cells as a table: (cells, suffix) -> path."""

    def write(cells: list, suffix: str) -> Path:
        path = tmp_path / f"table{suffix}"
        table = pa.table({"n": list(range(len(cells))), "audio": cells})
        if suffix == ".parquet":
            pq.write_table(table, path, row_group_size=2)
        else:
            new = pa.ipc.new_stream if suffix == ".arrow" else pa.ipc.new_file
            path = path.with_suffix(".arrow")
            with new(str(path), table.schema) as writer:
                writer.write_table(table, max_chunksize=2)
        return path

    return write


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("rate_hz", [16000, 48000])
def test_whole_file(tmp_path, suffix, rate_hz):
    """Length and content survive each format and resampling."""
    path = tmp_path / f"a.{suffix}"
    sf.write(path, chirp(3.0, rate_hz), rate_hz, **FORMATS[suffix])
    info = probe(AudioRef(path=str(path)))
    assert info.duration_s == pytest.approx(3.0, abs=0.11)  # MP3 counts its encoder's delay
    assert (info.sample_rate_hz, info.channels) == (rate_hz, 1)
    samples = load(AudioRef(path=str(path)))
    assert samples.dtype == np.float32 and samples.ndim == 1
    assert len(samples) == pytest.approx(3.0 * SAMPLE_RATE_HZ, abs=0.11 * SAMPLE_RATE_HZ)
    for at_s in (0.5, 1.5, 2.5):
        middle = round(at_s * SAMPLE_RATE_HZ)
        assert pitch_hz(samples[middle - 1600 : middle + 1600]) == pytest.approx(200 + 100 * at_s, abs=4)


@pytest.mark.parametrize("suffix", FORMATS)
def test_span_equals_slice_of_whole(tmp_path, suffix):
    """A seek that misses (libsndfile's in MP3 does) would give an utterance its neighbour's words."""
    path = tmp_path / f"a.{suffix}"
    sf.write(path, chirp(12.0), SAMPLE_RATE_HZ, **FORMATS[suffix])
    whole = load(AudioRef(path=str(path)))
    for start_s, end_s in ((0.0, 1.0), (4.321, 5.5), (10.0, 11.9)):
        span = load(AudioRef(path=str(path), start_s=start_s, end_s=end_s))
        start = round(start_s * SAMPLE_RATE_HZ)
        assert len(span) == round(end_s * SAMPLE_RATE_HZ) - start
        np.testing.assert_allclose(span, whole[start : start + len(span)], atol=1e-3)
    tail = load(AudioRef(path=str(path), start_s=11.0))
    np.testing.assert_allclose(tail, whole[11 * SAMPLE_RATE_HZ :], atol=1e-3)


def test_opus_that_ffmpeg_wrote_begins_where_its_sound_does(tmp_path):
    """libsndfile leaves the codec's delay in front of it until it is told to seek: spans lay 6.5 ms from the whole."""
    noise = np.random.default_rng(0).normal(0, 0.1, 3 * SAMPLE_RATE_HZ).astype(np.float32)
    noise = np.convolve(noise, np.ones(4, np.float32) / 4, "same")
    path = tmp_path / "a.ogg"
    path.write_bytes(encode(noise, "opus", 32000))
    for start_s in (0.0, 1.0):
        decoded = load(AudioRef(path=str(path), start_s=start_s))
        original = noise[round(start_s * SAMPLE_RATE_HZ) :]
        assert len(decoded) == len(original)
        likeness = np.correlate(decoded[800:17600], original[1000:17400], "valid")
        assert np.argmax(likeness) == 200
    np.testing.assert_array_equal(np.concatenate(list(stream(path))), load(AudioRef(path=str(path))))


@pytest.mark.parametrize(
    "codec, suffix, rate_hz, seekable",
    [("aac", "m4a", 16000, True), ("libopus", "webm", 48000, True), ("libopus", "webm", 48000, False)],
)
def test_formats_that_only_av_opens(tmp_path, codec, suffix, rate_hz, seekable):
    """Telephones record m4a and browsers webm without a length; spans in them must fall right too."""
    path = tmp_path / f"a.{suffix}"
    write_av(path, chirp(12.0), codec, rate_hz, seekable)
    info = probe(AudioRef(path=str(path)))
    assert info.duration_s == pytest.approx(12.0, abs=0.05) and info.sample_rate_hz == rate_hz
    whole = load(AudioRef(path=str(path)))
    assert len(whole) == pytest.approx(12.0 * SAMPLE_RATE_HZ, abs=0.05 * SAMPLE_RATE_HZ)
    for start_s in (0.5, 4.321, 10.0):
        span = load(AudioRef(path=str(path), start_s=start_s, end_s=start_s + 0.4))
        assert len(span) == round(0.4 * SAMPLE_RATE_HZ)
        assert pitch_hz(span) == pytest.approx(200 + 100 * (start_s + 0.2), abs=3)


def test_mp3_without_length_header(tmp_path):
    """libsndfile guesses such a file's length from its first frames and would drop half of this one in silence."""
    noise = np.random.default_rng(0).normal(0, 0.1, 20 * SAMPLE_RATE_HZ).astype(np.float32)
    noise[6 * SAMPLE_RATE_HZ : 14 * SAMPLE_RATE_HZ] *= 1e-3  # cheap frames in the middle: a variable rate
    encoded = io.BytesIO()
    sf.write(encoded, noise, SAMPLE_RATE_HZ, format="MP3", bitrate_mode="VARIABLE", compression_level=0.3)
    content = encoded.getvalue()
    path = tmp_path / "a.mp3"
    path.write_bytes(content[content.index(content[:2], 4) :])  # without the first frame, which holds the header
    assert probe(AudioRef(path=str(path))).duration_s == pytest.approx(20.0, abs=0.2)
    assert len(load(AudioRef(path=str(path)))) == pytest.approx(20 * SAMPLE_RATE_HZ, abs=0.2 * SAMPLE_RATE_HZ)


def test_flac_without_length(tmp_path):
    """A FLAC written to a pipe says it has 0 samples, which libsndfile reads as 2**63."""
    content = bytearray(encode_flac(chirp(2.0)))
    content[21] &= 0xF0  # the 36 bits of STREAMINFO that hold the number of samples
    content[22:26] = bytes(4)
    path = tmp_path / "a.flac"
    path.write_bytes(content)
    assert probe(AudioRef(path=str(path))).duration_s == pytest.approx(2.0, abs=0.01)
    assert len(load(AudioRef(path=str(path)))) == 2 * SAMPLE_RATE_HZ


def test_channels_are_averaged(tmp_path):
    path = tmp_path / "a.wav"
    left, right = chirp(1.0), np.full(SAMPLE_RATE_HZ, 0.25, np.float32)
    sf.write(path, np.stack([left, right], axis=1), SAMPLE_RATE_HZ, subtype="FLOAT")
    assert probe(AudioRef(path=str(path))).channels == 2
    np.testing.assert_allclose(load(AudioRef(path=str(path))), (left + right) / 2, atol=1e-7)


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".arrow_file"])
def test_rows_of_tables(table_of, tmp_path, suffix):
    """Each row gives its own audio, in any order, across row groups; a cell may also point to a file."""
    sf.write(tmp_path / "beside.wav", chirp(0.9), SAMPLE_RATE_HZ)
    encoded = [encode_flac(chirp(1 + n / 10)) for n in range(5)]
    cells = [{"bytes": content, "path": "same.flac"} for content in encoded] + [{"bytes": None, "path": "beside.wav"}]
    path = table_of(cells, suffix)
    for row in (4, 0, 3, 1, 2, 4):
        ref = AudioRef(path=str(path), row=row)
        assert probe(ref).duration_s == pytest.approx(1 + row / 10)
        assert len(load(ref)) == round((1 + row / 10) * SAMPLE_RATE_HZ)
        assert content_hash(ref) == hashlib.sha256(encoded[row]).hexdigest()
        span = load(ref.cut(0.5, 0.7))
        np.testing.assert_array_equal(span, load(ref)[8000:11200])
    assert content_hash(AudioRef(path=str(path), row=5)) == content_hash(AudioRef(path=str(tmp_path / "beside.wav")))
    with pytest.raises(DataError, match="has 6 rows, row 6"):
        load(AudioRef(path=str(path), row=6))
    with pytest.raises(DataError, match="no column 'sound'; it has n, audio"):
        load(AudioRef(path=str(path), row=0, column="sound"))


def test_table_that_changed_is_read_again(table_of):
    """A cache by name alone would serve the audio of the run before."""
    path = table_of([{"bytes": encode_flac(chirp(1.0)), "path": None}], ".parquet")
    assert len(load(AudioRef(path=str(path), row=0))) == SAMPLE_RATE_HZ
    table_of([{"bytes": encode_flac(chirp(2.0)), "path": None}], ".parquet")
    assert len(load(AudioRef(path=str(path), row=0))) == 2 * SAMPLE_RATE_HZ


def broken_files(folder: Path) -> dict[str, str]:
    """Names of broken files, each with the reason that it must be given."""
    nan = chirp(1.0)
    nan[100] = np.nan
    sf.write(folder / "nan.wav", nan, SAMPLE_RATE_HZ, subtype="FLOAT")
    sf.write(folder / "inf.wav", np.where(np.isnan(nan), np.inf, nan), SAMPLE_RATE_HZ, subtype="FLOAT")
    sf.write(folder / "integers.wav", chirp(1.0) * 32768, SAMPLE_RATE_HZ, subtype="FLOAT")
    sf.write(folder / "slow.wav", chirp(1.0), 1)
    sf.write(folder / "no_samples.wav", np.zeros(0, np.float32), SAMPLE_RATE_HZ)
    (folder / "no_bytes.wav").write_bytes(b"")
    (folder / "text.mp3").write_text("not audio at all " * 100)
    (folder / "headerless.raw").write_bytes(bytes(3200))
    (folder / "cut.flac").write_bytes(encode_flac(chirp(5.0))[:20000])
    (folder / "folder.wav").mkdir()
    (folder / "loop.wav").symlink_to(folder / "loop.wav")
    (folder / "device.wav").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.wav")
    return {
        "nan.wav": "nan_samples",
        "inf.wav": "nan_samples",
        "integers.wav": "out_of_range",
        "slow.wav": "undecodable",
        "no_samples.wav": "empty_audio",
        "no_bytes.wav": "empty_audio",
        "text.mp3": "undecodable",
        "headerless.raw": "undecodable",
        "cut.flac": "cut_short",
        "folder.wav": "not_a_file",
        "pipe.wav": "not_a_file",
        "device.wav": "not_a_file",
        "loop.wav": "missing_file",
        "absent.wav": "missing_file",
        "x" * 5000: "missing_file",
        "nul\0byte": "missing_file",
    }


def test_broken_files_have_reasons(tmp_path):
    """Whatever a row points to ends in AudioError with the ledger's rule, never another exception or a hang."""
    for name, reason in broken_files(tmp_path).items():
        with pytest.raises(AudioError) as caught:
            load(AudioRef(path=str(tmp_path / name)))
        assert caught.value.reason == reason, name
        assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("name", ["broken.mp3", "broken.wav"])
def test_what_is_no_audio_is_said_in_one_sentence_with_the_path_once(tmp_path, name):
    """A ledger is read by people: FFmpeg's numbers and a second path are noise there."""
    path = tmp_path / name
    path.write_bytes(b"this is no audio at all" * 50)
    detail = "not audio that can be read (Invalid data found when processing input)"
    for read in (load, probe):
        with pytest.raises(AudioError) as caught:
            read(AudioRef(path=str(path)))
        assert (str(caught.value), caught.value.detail) == (f"{path}: {detail}", detail)
        assert str(caught.value.__cause__) == detail  # what the audit writes down
        assert pickle.loads(pickle.dumps(caught.value)).detail == detail  # it comes out of processes that read


def claiming(content: bytes, length: int) -> bytes:
    """A wav or FLAC whose header claims another length: bytes of wav data, samples of FLAC."""
    changed = bytearray(content)
    if content.startswith(b"RIFF"):
        at = content.index(b"data") + 4
        changed[at : at + 4] = length.to_bytes(4, "little")
    else:  # 36 bits of STREAMINFO
        changed[21] = changed[21] & 0xF0 | length >> 32
        changed[22:26] = (length & 0xFFFFFFFF).to_bytes(4, "big")
    return bytes(changed)


@pytest.mark.parametrize("in_memory", [False, True])
def test_headers_that_lie_about_the_length(tmp_path, table_of, in_memory):
    """What a header claims must not be allocated (2**36 samples are 256 GiB), nor stand for what is there."""
    wav = io.BytesIO()
    sf.write(wav, chirp(2.0), SAMPLE_RATE_HZ, format="WAV")
    flac = encode_flac(chirp(2.0))

    def ref_to(content: bytes, suffix: str) -> AudioRef:
        if in_memory:
            return AudioRef(path=str(table_of([{"bytes": content, "path": None}], ".parquet")), row=0)
        (tmp_path / f"a.{suffix}").write_bytes(content)
        return AudioRef(path=str(tmp_path / f"a.{suffix}"))

    for length in (0xFFFFFFFF, 0xFFFFFFFE, 0x7FFFFFFF):
        ref = ref_to(claiming(wav.getvalue(), length), "wav")
        assert probe(ref).duration_s == 2.0 and len(load(ref)) == 2 * SAMPLE_RATE_HZ
    ref = ref_to(claiming(flac, 0), "flac")  # as an encoder to a pipe leaves it
    assert probe(ref).duration_s == 2.0 and len(load(ref)) == 2 * SAMPLE_RATE_HZ
    for num_samples in (10**6, 10**9, 2**36 - 1):
        ref = ref_to(claiming(flac, num_samples), "flac")
        with pytest.raises(AudioError) as caught:
            load(ref)
        assert caught.value.reason == "cut_short"
        assert f"the header says {num_samples / SAMPLE_RATE_HZ:.2f} s, samples end at 2.00 s" in str(caught.value)


def test_many_channels_and_loud_floats(tmp_path):
    """Seven channels are averaged; floats that overshoot are kept as they are, up to what no recording reaches."""
    samples = chirp(1.5, 48000)
    weights = np.arange(7) / 3  # mean 1
    sf.write(tmp_path / "seven.wav", samples[:, None] * weights, 48000, subtype="FLOAT")
    sf.write(tmp_path / "loud.wav", chirp(1.5) * 6, SAMPLE_RATE_HZ, subtype="FLOAT")
    heard = load(AudioRef(path=str(tmp_path / "seven.wav")))
    np.testing.assert_allclose(heard, soxr.resample(samples, 48000, SAMPLE_RATE_HZ), atol=1e-5)
    assert load(AudioRef(path=str(tmp_path / "loud.wav"))).max() == pytest.approx(3.0, abs=0.01)


def test_blocks_join_without_a_seam(tmp_path, monkeypatch):
    """Decoding in blocks gives the same bits as decoding at once, resampled or not."""
    for rate_hz in (16000, 44100):
        path = tmp_path / f"{rate_hz}.wav"
        sf.write(path, np.random.default_rng(0).standard_normal((rate_hz, 2)) * 0.1, rate_hz, subtype="FLOAT")
        whole = load(AudioRef(path=str(path)))
        with monkeypatch.context() as patched:
            patched.setattr(sndfile, "_BLOCK_VALUES", 1000)
            np.testing.assert_array_equal(load(AudioRef(path=str(path))), whole)
        expected = soxr.resample(sf.read(path, dtype="float32")[0].mean(axis=1), rate_hz, SAMPLE_RATE_HZ)
        np.testing.assert_array_equal(whole, expected)


@pytest.mark.parametrize("has_sound", [True, False])
def test_video(tmp_path, has_sound):
    """A film's sound is its audio; one without sound has a reason."""
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("mpeg4", rate=10)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("aac", rate=SAMPLE_RATE_HZ, layout="mono") if has_sound else None
        for _ in range(20):
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        container.mux(pictures.encode(None))
        if sound:
            frame = av.AudioFrame.from_ndarray(chirp(2.0)[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = SAMPLE_RATE_HZ, 0
            container.mux([*sound.encode(frame), *sound.encode(None)])
    ref = AudioRef(path=str(path))
    if not has_sound:
        with pytest.raises(AudioError, match="no audio stream"):
            load(ref)
        return
    assert probe(ref).duration_s == pytest.approx(2.0, abs=0.1)
    assert pitch_hz(load(ref)[14400:17600]) == pytest.approx(300, abs=4)


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "m4a"])
def test_damaged_bytes_never_raise_anything_else(tmp_path, suffix):
    """Row 5 of 100,000 with a flipped byte in its header must cost that row and no more."""
    rng = np.random.default_rng(0)
    path = tmp_path / f"a.{suffix}"
    if suffix == "m4a":
        write_av(path, chirp(1.0), "aac", SAMPLE_RATE_HZ)
    else:
        sf.write(path, chirp(1.0), SAMPLE_RATE_HZ, **FORMATS[suffix])
    content, num_refused = path.read_bytes(), 0
    for _ in range(40):
        damaged = bytearray(content)
        for at in rng.integers(0, 200, 4):
            damaged[at] = rng.integers(0, 256)
        path.write_bytes(damaged)
        try:
            assert probe(AudioRef(path=str(path))).duration_s > 0
            assert np.isfinite(load(AudioRef(path=str(path)))).all()
        except AudioError:
            num_refused += 1
    assert num_refused > 0 or suffix == "mp3"  # which has no header to break, only frames


@pytest.mark.parametrize("cell, reason", [({"bytes": None, "path": None}, "missing_audio"), (None, "missing_audio")])
def test_empty_cells(table_of, cell, reason):
    path = table_of([{"bytes": encode_flac(chirp(1.0)), "path": "a"}, cell], ".parquet")
    with pytest.raises(AudioError) as caught:
        load(AudioRef(path=str(path), row=1))
    assert caught.value.reason == reason and "table.parquet row 1: " in str(caught.value)


def test_span_beyond_audio(tmp_path):
    path = tmp_path / "a.wav"
    sf.write(path, chirp(1.0), SAMPLE_RATE_HZ)
    with pytest.raises(AudioError, match=r"starts at 2.00 s, the audio ends at 1.00 s") as caught:
        load(AudioRef(path=str(path), start_s=2.0, end_s=3.0))
    assert caught.value.reason == "span_beyond_audio"


def test_cut_mp3_gives_what_is_left(tmp_path):
    """A truncated MP3 must not claim the length in its header, nor pass as whole."""
    encoded = io.BytesIO()
    sf.write(encoded, chirp(10.0), SAMPLE_RATE_HZ, format="MP3")
    path = tmp_path / "a.mp3"
    path.write_bytes(encoded.getvalue()[: len(encoded.getvalue()) // 2])
    duration_s = probe(AudioRef(path=str(path))).duration_s
    assert 3 < duration_s < 7
    blocks = stream(path)
    assert sum(map(len, blocks)) == pytest.approx(duration_s * SAMPLE_RATE_HZ, abs=0.2 * SAMPLE_RATE_HZ)
    assert len(load(AudioRef(path=str(path), end_s=3.0))) == 3 * SAMPLE_RATE_HZ
    with pytest.raises(AudioError, match=r"the header says 9\.9"):
        load(AudioRef(path=str(path)))


def test_encode_flac(tmp_path):
    """16-bit samples come back bit for bit, the same samples give the same bytes, overshoot does not wrap around."""
    samples = np.random.default_rng(0).integers(-32768, 32768, 1000).astype(np.float32) / 32768
    content = encode_flac(samples)
    assert content == encode_flac(samples.copy())
    path = tmp_path / "a.flac"
    path.write_bytes(content)
    np.testing.assert_array_equal(load(AudioRef(path=str(path))), samples)
    path.write_bytes(encode_flac(np.array([1.5, -1.5, 1.0, -1.0] * 100, np.float32)))
    loud = load(AudioRef(path=str(path)))
    assert loud[:4].tolist() == [32767 / 32768, -1.0, 32767 / 32768, -1.0]


@pytest.mark.parametrize("name, rate_hz", [("yesno_he", 8000), ("an4_en", 16000)])
def test_real_recordings(name, rate_hz):
    """Real headers agree with their manifest, and spans of real recordings with slices of the whole."""
    manifest = SHARED / name / "manifest.jsonl"
    if not manifest.exists():
        pytest.skip("shared/data is not beside the repository")
    rows = [json.loads(line) for line in manifest.read_text().splitlines()][:20]
    assert rows
    for row in rows:
        ref = AudioRef(path=str(manifest.parent / row["audio"]))
        info = probe(ref)
        assert info.sample_rate_hz == rate_hz and info.duration_s == pytest.approx(row["duration"], abs=0.05)
        samples = load(ref)
        assert len(samples) == pytest.approx(info.duration_s * SAMPLE_RATE_HZ, abs=2)
        span = load(ref.cut(0.2, 0.5))
        middle = slice(400, -400)  # a resampler sees another neighbourhood at the edges
        np.testing.assert_allclose(span[middle], samples[3200:8000][middle], atol=2e-3)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("rate_hz", [8000, 16000, 48000])
def test_a_stream_is_the_whole_file(tmp_path, suffix, rate_hz):
    """Protects from samples lost between blocks, and from a click where one resampling meets the next."""
    path = tmp_path / f"a.{suffix}"
    channels = np.stack([chirp(10.3, rate_hz), 0.2 * chirp(10.3, rate_hz)[::-1]], axis=1)
    sf.write(path, channels, rate_hz, **FORMATS[suffix])
    blocks, whole = list(stream(path, block_s=3.0)), load(AudioRef(path=str(path)))
    assert len(blocks) >= 4 and max(map(len, blocks)) <= 3.2 * SAMPLE_RATE_HZ
    np.testing.assert_allclose(np.concatenate(blocks), whole, atol=1e-5)


def test_a_stream_of_what_only_pyav_opens(tmp_path):
    path = tmp_path / "a.m4a"
    write_av(path, chirp(7.0), "aac", 16000)
    whole = load(AudioRef(path=str(path)))
    np.testing.assert_allclose(np.concatenate(list(stream(path, block_s=2.0))), whole, atol=1e-5)


def test_a_stream_that_breaks_off_gives_what_was_before_and_says_so(tmp_path):
    path = tmp_path / "cut.flac"
    sf.write(path, chirp(20.0), SAMPLE_RATE_HZ)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    blocks = stream(path, block_s=2.0)
    assert 8 < sum(map(len, blocks)) / SAMPLE_RATE_HZ < 16
    [note] = blocks.notes
    assert note.startswith("the header says 20.00 s, samples end at 1")
    with pytest.raises(AudioError, match="no such file"):
        next(stream(tmp_path / "none.wav"))
    sf.write(tmp_path / "empty.wav", np.zeros(0, np.float32), SAMPLE_RATE_HZ)
    with pytest.raises(AudioError, match="no samples"):
        list(stream(tmp_path / "empty.wav"))
