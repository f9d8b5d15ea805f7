"""`shibolet transcribe`: a result or one sentence for any audio, in order, and the exit code that says so."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from made_audio import mux
from object_store import URL

from shibolet.listen import recordings
from shibolet.listen.engine import Engine, Written
from shibolet.records import store
from shibolet.rounds import transcribe as module

RATE = 16000


@pytest.fixture
def shibolet(run_cli, monkeypatch, tmp_path):
    """Runs the command in a folder of its own; gives (exit code, standard output, error output)."""
    monkeypatch.chdir(tmp_path)
    return lambda *args: run_cli("transcribe", *args)


@pytest.fixture
def tiny(shibolet):
    return lambda *args: shibolet(*args, "--model", "builtin:round1", "--language", "Hebrew")


class Names(Engine):
    """Writes the level of a clip, so that a test knows which file it was."""

    identity, clips_at_once = "names", 3

    def write(self, clips):
        endings = {5: "loop", 6: "limit"}
        levels = [round(float(np.abs(clip).max()) * 10) for clip in clips]
        return [Written(f"level{level}", endings.get(level, "end")) for level in levels]


@pytest.fixture
def levels(shibolet, monkeypatch):
    """The command with an engine that needs no model."""
    monkeypatch.setattr(module, "open_engine", lambda *_, **__: Names())
    return lambda *args: shibolet(*args, "--model", "names", "--language", "Hebrew")


def write(path: Path, level: int, seconds: float = 1.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, np.full(round(seconds * RATE), level / 10, np.float32), RATE)


def audio(kind: str) -> tuple[np.ndarray, int]:
    """Audio that is not the speech of one person at 16 kHz."""
    rng, t = np.random.default_rng(0), np.arange(3 * 96000) / 96000
    chord = sum(np.sin(2 * np.pi * hz * t) for hz in (220, 277, 330)) * (1 + np.sin(2 * np.pi * 2 * t)) / 8
    return {
        "silence": (np.zeros(3 * RATE), RATE),
        "noise": (0.3 * rng.standard_normal(3 * RATE), RATE),
        "music": (chord[::6], RATE),
        "10ms": (0.1 * rng.standard_normal(160), RATE),
        "one_sample": (np.ones(1) * 0.1, RATE),
        "8khz": (chord[::12], 8000),
        "stereo": (np.stack([chord, -chord], axis=1)[::6], RATE),
        "96khz": (chord, 96000),
        "loud": (np.ones(RATE), RATE),
    }[kind]


@pytest.mark.parametrize("kind", ["silence", "noise", "music", "10ms", "one_sample", "8khz", "stereo", "96khz", "loud"])
def test_anything_that_sounds_gives_a_result(tiny, tmp_path, kind):
    samples, rate_hz = audio(kind)
    sf.write(tmp_path / "a.wav", samples, rate_hz, subtype="FLOAT")
    code, out, err = tiny("a.wav", "--format", "json")
    (found,) = json.loads(out)
    assert code == 0 and found["error"] is None and "Traceback" not in err
    assert found["duration_s"] == pytest.approx(len(samples) / rate_hz, abs=1e-3)


BROKEN = {
    "text.wav": b"this is text",
    "empty.wav": b"",
    "header.wav": b"RIFF\x24\x00\x00\x00WAVEfmt ",
    "random.mp3": bytes(np.random.default_rng(0).integers(0, 256, 4096, dtype=np.uint8)),
}


@pytest.mark.parametrize("name", [*BROKEN, "missing.wav", "no_samples.wav", "nan.wav"])
def test_anything_that_does_not_is_one_sentence_and_3(levels, tmp_path, name):
    write(tmp_path / "good.wav", 3)
    if name in BROKEN:
        (tmp_path / name).write_bytes(BROKEN[name])
    elif name == "no_samples.wav":
        sf.write(tmp_path / name, np.zeros(0), RATE)
    elif name == "nan.wav":
        sf.write(tmp_path / name, np.full(RATE, np.nan), RATE, subtype="FLOAT")
    code, out, err = levels(name, "good.wav")
    assert (code, out) == (3, "good.wav\tlevel3\n")
    sentences = [line for line in err.splitlines() if name in line]
    assert len(sentences) == 1 and "Traceback" not in err
    code, out, _ = levels(name, "good.wav", "--format", "json")
    assert code == 3 and [bool(row["error"]) for row in json.loads(out)] == [True, False]


def test_files_folders_and_patterns_keep_their_order(levels, tmp_path):
    for name, level in (("b/2.wav", 2), ("b/sub/1.flac", 1), ("a.wav", 3), ("x4.wav", 4), ("x7.wav", 7)):
        write(tmp_path / name, level)
    (tmp_path / "b/notes.txt").write_text("not audio")
    code, out, _ = levels("a.wav", "b", "x*.wav", "a.wav")
    assert code == 0
    assert [line.split("\t") for line in out.splitlines()] == [
        ["a.wav", "level3"], ["b/2.wav", "level2"], ["b/sub/1.flac", "level1"], ["x4.wav", "level4"],
        ["x7.wav", "level7"],
    ]  # fmt: skip


def test_objects_of_a_store_are_transcribed_as_files_are(object_store, levels, tmp_path):
    """A file, a folder and a pattern there: transcripts are called after the objects, and each is fetched once."""
    for name, level in (("b/2.wav", 2), ("b/sub/1.flac", 1), ("a.wav", 3), ("x4.wav", 4), ("x7.wav", 7), ("8.wav", 8)):
        write(tmp_path / name, level)
        object_store.put(f"calls/{name}", (tmp_path / name).read_bytes())
    object_store.put("calls/b/notes.txt", b"not audio")
    names = ("a.wav", "b", "x*.wav", "a.wav")
    code, out, _ = levels(*(f"{URL}/calls/{name}" for name in names), "8.wav")
    assert code == 0
    assert [line.split("\t") for line in out.splitlines()] == [
        [f"{URL}/calls/a.wav", "level3"], [f"{URL}/calls/b/2.wav", "level2"], [f"{URL}/calls/b/sub/1.flac", "level1"],
        [f"{URL}/calls/x4.wav", "level4"], [f"{URL}/calls/x7.wav", "level7"], ["8.wav", "level8"],
    ]  # fmt: skip
    for root, out in (("", "here"), (f"{URL}/calls/", "there")):
        assert levels(*(f"{root}{name}" for name in names), "--out", out)[0] == 0
    here, there = (
        {path.relative_to(tmp_path / out): path.read_text() for path in (tmp_path / out).rglob("*.txt")}
        for out in ("here", "there")
    )
    assert here == there and set(map(str, there)) == {"a.txt", "2.txt", "sub/1.txt", "x4.txt", "x7.txt"}
    copies = [path for path in (tmp_path / "cache" / "shibolet" / "objects").rglob("*") if path.is_file()]
    assert sorted(path.suffix for path in copies) == [".flac", ".wav", ".wav", ".wav", ".wav"]


@pytest.mark.parametrize(
    ("name", "code", "sentence"),
    [
        (f"{URL}/none.wav", 3, f"{URL}/none.wav cannot be read: the store has no such object, folder or bucket"),
        (f"{URL}/none/", 3, f"{URL}/none/ cannot be read: the store has no such object, folder or bucket"),
        (f"{URL}/texts/", 2, f"'{URL}/texts/' holds no audio file"),
        (f"{URL}/none*.wav", 2, f"'{URL}/none*.wav' holds no audio file"),
        (f"{URL}/odd/", 3, f"{URL}/odd/../../out.wav is no path, as it has //, . or .. in it"),
        ("s3://nobody/a/", 3, "s3://nobody/a/ cannot be read: the store has no such object, folder or bucket"),
        ("gs://speech/a.wav", 3, "the driver for gs:// is not installed; pip install gcsfs"),
        ("https://host/a.wav", 2, "or a URL that begins with s3:// or gs://"),
    ],
)
def test_what_a_store_cannot_give_is_one_sentence(object_store, levels, monkeypatch, name, code, sentence):
    """And known before anything is transcribed."""
    monkeypatch.setattr(store, "TRIES", 1)
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    object_store.put("texts/a.txt", b"text")
    object_store.put("odd/../../out.wav", b"sound")
    found, out, err = levels(name)
    assert (found, out) == (code, "") and sentence in " ".join(err.split()) and "Traceback" not in err


def test_a_store_that_fails_meanwhile_ends_the_command_and_blames_no_recording(
    object_store, levels, tmp_path, monkeypatch
):
    """The transcripts that were written before are whole."""
    monkeypatch.setattr(store, "TRIES", 1)
    monkeypatch.setattr(recordings, "FETCHED_AHEAD", 1)
    monkeypatch.setattr(recordings, "GROUP_S", 0.5)
    for i in range(1, 7):
        write(tmp_path / f"{i}.wav", i)
        object_store.put(f"calls/{i}.wav", (tmp_path / f"{i}.wav").read_bytes())
    fetch = recordings.fetch_ahead

    def fetch_until_6(urls: list) -> None:
        object_store.denies = ("GET", "HEAD") if urls[0].endswith("6.wav") else ()
        fetch(urls)

    monkeypatch.setattr(recordings, "fetch_ahead", fetch_until_6)
    code, _, err = levels(f"{URL}/calls/", "--out", "texts")
    assert code == 3 and f"{URL}/calls/6.wav cannot be read: Forbidden" in " ".join(err.split())
    found = {path.name: path.read_text() for path in (tmp_path / "texts").iterdir()}
    assert found.pop("1.txt") == "level1\n" and all(text == f"level{name[0]}\n" for name, text in found.items())


@pytest.mark.parametrize("format", ["txt", "json", "jsonl", "srt", "vtt"])
def test_each_recording_has_a_file_in_a_folder(levels, tmp_path, format):
    for i in (1, 2):
        write(tmp_path / f"{i}.wav", i, seconds=70.0)
    code, out, _ = levels("1.wav", "2.wav", "--format", format, "--out", "texts")
    assert (code, out) == (0, "")
    texts = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "texts").iterdir()}
    assert set(texts) == {f"1.{format}", f"2.{format}"}
    assert texts[f"2.{format}"].count("level2") >= 3 and "level1" not in texts[f"2.{format}"]


def test_what_looped_or_came_to_no_end_is_said(levels, tmp_path):
    write(tmp_path / "loops.wav", 5, seconds=50.0)
    write(tmp_path / "long.wav", 6)
    write(tmp_path / "good.wav", 1)
    code, out, err = levels("loops.wav", "long.wav", "good.wav")
    assert code == 0 and out.count("level5") == 2, "the text is there as it was written"
    assert "loops.wav: 2 of 2 pieces end in a repetition" in err
    assert "long.wav: 1 of 1 pieces were cut" in err and "good.wav:" not in err
    (tmp_path / "none.wav").write_bytes(b"no audio")
    code, out, err = levels("good.wav", "none.wav", "loops.wav", "-q")
    assert code == 3 and "none.wav" in err and "loops.wav: 2 of 2 pieces" in err, "a script would take them for whole"
    assert "good.wav" not in err and "transcribe" not in err


def test_what_could_not_be_decoded_is_said_and_the_rest_is_transcribed(levels, tmp_path):
    """Half a file, and one with a damaged frame: today's transcript of what is there, and where the rest would be."""
    write(tmp_path / "half.wav", 2, seconds=40.0)
    content = (tmp_path / "half.wav").read_bytes()
    (tmp_path / "half.wav").write_bytes(content[: len(content) // 2])
    write(tmp_path / "damaged.flac", 3, seconds=40.0)
    content = bytearray((tmp_path / "damaged.flac").read_bytes())
    content[len(content) // 2] ^= 0x55
    (tmp_path / "damaged.flac").write_bytes(content)
    write(tmp_path / "good.wav", 4)
    code, out, err = levels("half.wav", "damaged.flac", "good.wav", "--format", "json")
    assert code == 0, err
    half, damaged, good = json.loads(out)
    assert half["warnings"] == ["the header says 40.00 s, samples end at 20.00 s"] and half["error"] is None
    assert half["duration_s"] == pytest.approx(20.0, abs=0.01)
    [warning] = damaged["warnings"]
    assert warning.startswith("damaged: 0.26 s from ") and damaged["duration_s"] == 40.0
    assert "warnings" not in good
    assert f"half.wav: {half['warnings'][0]}" in err and f"damaged.flac: {warning}" in err
    code, out, _ = levels("half.wav", "--format", "jsonl")
    assert json.loads(out.splitlines()[-1]) == {"file": "half.wav", "warnings": half["warnings"]}


def test_two_minutes_before_an_error_are_transcribed(levels, tmp_path):
    """Pauses are sought in 150 s at a time: an error threw away all that was held of them."""
    samples = np.full(130 * RATE, 0.2, np.float32)
    samples[120 * RATE :] = np.nan
    sf.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    code, out, err = levels("a.wav", "--format", "json")
    [found] = json.loads(out)
    assert (
        code == 3 and found["duration_s"] == 120.0 and "a.wav: after 120.00 s: " in found["error"] and "level2" in out
    )
    assert found["error"] in err


@pytest.mark.parametrize("container, codec", [("matroska", "libopus"), ("mp4", "aac")])
def test_subtitles_have_the_times_of_the_film(levels, tmp_path, container, codec):
    """Where the sound of a film starts later than its picture, each cue stood on the screen too early."""
    sound = np.full(48000, 0.5, np.float32) * np.sin(np.arange(48000) / 20).astype(np.float32)
    mux(tmp_path / "film.mkv", container, [(codec, sound, 1.4)], picture_s=3.0)
    code, out, err = levels("film.mkv", "--format", "srt")
    assert code == 0, err
    start, end = out.splitlines()[1].split(" --> ")
    assert "00:00:01,37" <= start <= "00:00:01,41" and "00:00:02,3" < end < "00:00:02,5"


@pytest.mark.parametrize(
    "args",
    [
        ["a.wav"],
        ["a.wav", "--model", "m", "--language", "he", "--length-penalty", "2"],
        ["a.wav", "--server", "http://127.0.0.1:9", "--beam-size", "2"],
        ["empty_folder", "--model", "m", "--language", "he"],
        ["*.nothing", "--model", "m", "--language", "he"],
        ["a.wav", "b/a.wav", "--model", "m", "--language", "he", "--out", "texts"],
        ["a.wav", "b/a.wav", "--model", "m", "--language", "he", "--format", "srt"],
        ["a.wav", "--model", "m", "--language", "Klingon"],
        ["a.wav", "--model", "m", "--language", "he", "--format", "doc"],
        ["a.wav", "--server", "http://127.0.0.1:9", "--aligner", "builtin:aligner"],
    ],
)
def test_usage_errors_end_with_2_before_a_model_is_loaded(shibolet, tmp_path, monkeypatch, args):
    monkeypatch.setattr(module, "open_engine", lambda *_, **__: pytest.fail("a model was loaded"))
    write(tmp_path / "a.wav", 1)
    write(tmp_path / "b/a.wav", 1)
    (tmp_path / "empty_folder").mkdir()
    code, out, err = shibolet(*args)
    assert code == 2 and out == "" and err


def test_a_model_that_is_none_ends_with_3(shibolet, tmp_path):
    write(tmp_path / "a.wav", 1)
    code, _, err = shibolet("a.wav", "--model", "./nothing", "--language", "he")
    assert code == 3 and "no config.json" in err.splitlines()[-1]


def test_the_language_is_that_of_the_round_or_has_to_be_said(shibolet, tmp_path, monkeypatch):
    """A Whisper that was told Hebrew where nobody said so wrote Hebrew of English speech, and no word about it."""
    told = []
    monkeypatch.setattr(
        module, "open_engine", lambda model, server, language, *_, **__: told.append(language) or Names()
    )
    write(tmp_path / "a.wav", 1)
    final = tmp_path / "run" / "train" / "final"
    final.mkdir(parents=True)
    (tmp_path / "run" / "recipe.yaml").write_text("name: mine\nlanguage: English\n")
    assert shibolet("a.wav", "--model", "run/train/final")[0] == 0
    assert shibolet("a.wav", "--model", "run/train/final", "--language", "he")[0] == 0
    assert shibolet("a.wav", "--server", "http://127.0.0.1:9")[:2] == (0, "level1\n")
    assert told == ["English", "he", None]
    (tmp_path / "run" / "recipe.yaml").unlink()
    for model in ("run/train/final", "openai/whisper-base"):
        code, out, err = shibolet("a.wav", "--model", model)
        assert (code, out) == (2, "") and "as in --language English; only a model in the train/final" in err
        assert f"'{model}' is none" in err
    assert len(told) == 3


@pytest.mark.parametrize("args", [["verify", "m", "d.jsonl"], ["evaluate", "--model", "m", "--manifest", "d.jsonl"]])
def test_other_commands_do_not_guess_it_either(run_cli, tmp_path, monkeypatch, args):
    monkeypatch.chdir(tmp_path)
    code, _, err = run_cli(*args)
    assert code == 2 and f"{args[0]}: name the language that is spoken" in err
