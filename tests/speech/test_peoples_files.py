"""Files as people have them: read as they are meant, or refused by name; never a value that was guessed in silence."""

import gzip
import json
import os
import unicodedata
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile as sf

from shibolet.audit.review import read_saved
from shibolet.errors import DataError
from shibolet.evaluate.imported import read_hypotheses
from shibolet.records.files import hash_file
from shibolet.records.ledger import LedgerLine
from shibolet.records.utterance import Utterance
from shibolet.speech import rows, textfiles
from shibolet.speech.audio import SAMPLE_RATE_HZ
from shibolet.speech.read import read_source
from shibolet.speech.sources import DataSource

CASES = Path(__file__).resolve().parents[2] / ".." / "shared" / "cases"
FORMATS = ["m.jsonl", "m.tsv", "m.csv", "semicolon.csv", "m.parquet"]


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with ten seconds of audio."""
    sf.write(tmp_path / "a.wav", np.full(10 * SAMPLE_RATE_HZ, 0.1), SAMPLE_RATE_HZ)
    return tmp_path


def write(path: Path, table: list[dict]) -> Path:
    """The same rows in the format that the name of the file says."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(table), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in table), encoding="utf-8")
    else:
        delimiter = {"m.tsv": "\t", "m.csv": ",", "semicolon.csv": ";"}[path.name]
        cells = [table[0].keys(), *(row.values() for row in table)]
        path.write_text("".join(delimiter.join(map(str, row)) + "\n" for row in cells), encoding="utf-8")
    return path


def read(path: Path, language: str = "Hebrew", **settings) -> tuple[list[Utterance], list[LedgerLine]]:
    place = {"parquet" if path.suffix in (".parquet", ".arrow") else "manifest": path}
    return read_source(DataSource(name="mine", **place, **settings), path.parent / "cache", language=language)


def spans(utterances: list[Utterance]) -> list[tuple[float, float]]:
    return [(u.audio.start_s, pytest.approx(u.audio.start_s + u.duration_s)) for u in utterances]


def rules(ledger: list[LedgerLine]) -> list[str]:
    return [line.rule for line in ledger]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("start", "end", "advice"),
    [
        ("start_time", "end_time", "`columns: {start_s: start_time, end_s: end_time}` (seconds)"),
        ("begin", "end", "`columns: {start_s: begin, end_s: end}`"),
        ("segmentStart", "segmentEnd", "`columns: {start_s: segmentStart, end_s: segmentEnd}`"),
        ("onset", "offset", "`columns: {start_s: onset, end_s: offset}`"),
        ("starttime", "endtime", "`columns: {start_s: starttime, end_s: endtime}`"),
        ("t_start", "t_end", "`columns: {start_s: t_start, end_s: t_end}`"),
        ("from", "to", "`columns: {start_s: from, end_s: to}`"),
        ("start_ms", "end_ms", "write seconds in place of milliseconds"),
        ("start_sample", "end_sample", "write seconds in place of samples"),
    ],
)
def test_spans_under_other_names_are_asked_about_in_every_format(folder, name, start, end, advice):
    """Each row would be the whole file, in silence."""
    path = write(folder / name, [{"audio": "a.wav", "text": "שלום", start: 1, end: 2}])
    with pytest.raises(DataError) as caught:
        read(path)
    message = str(caught.value)
    assert f"'{start}'" in message and "not read" in message and advice in message
    if "ms" not in start and "sample" not in start:
        assert spans(read(path, columns={"start_s": start, "end_s": end})[0]) == [(1, 2)]
        assert spans(read(path, columns={"start_s": None, "end_s": None})[0]) == [(0, 10)]


@pytest.mark.parametrize("name", FORMATS)
def test_a_start_with_a_duration_is_a_span_in_every_format(folder, name):
    """`offset` and `duration` mean one thing everywhere; so does a start that has a duration and no end."""
    for start in ("offset", "start_s"):
        path = write(folder / name, [{"audio": "a.wav", "text": "שלום", start: 1.5, "duration": d} for d in (2, 8.5)])
        assert spans(read(path)[0]) == [(1.5, 3.5), (1.5, 10)]
    with pytest.raises(DataError, match="has 'length', which is not read, and no 'duration'"):
        read(write(folder / name, [{"audio": "a.wav", "text": "שלום", "start_s": 1.5, "length": 2}]))


@pytest.mark.parametrize("name", ["m.jsonl", "m.csv", "m.parquet"])
def test_what_is_not_read_is_asked_about_only_where_it_matters(folder, name):
    """Speakers decide the split; anything else is anybody's."""
    row = {"audio": "a.wav", "text": "שלום", "to": "x", "is_start": 1, "segment": "", "end_of_turn": 1, "frame_rate": 2}
    assert read(write(folder / name, [row]))[1] == []
    for own, field in (("speakerId", "speaker"), ("spk", "speaker"), ("recording_id", "recording")):
        with pytest.raises(DataError, match=f"has '{own}', which is not read, and no '{field}'"):
            read(write(folder / name, [row | {own: "x"}]))


def test_what_is_said_of_a_speaker_is_not_taken_for_who_speaks(folder):
    """`columns: {speaker: speaker_age}`, as the sentence once said, would split the data by age."""
    row = {"audio": "a.wav", "text": "שלום", "speaker_age": 40, "speaker_sex": "f", "recording_date": "1"}
    assert read(write(folder / "m.jsonl", [row]))[1] == []


def test_a_span_that_turns_up_late_is_asked_about_too(folder):
    path = write(folder / "m.jsonl", [{"audio": "a.wav", "text": "שלום"}] * 300 + [
        {"audio": "a.wav", "text": "שלום", "start_time": 1, "end_time": 2}])  # fmt: skip
    with pytest.raises(DataError, match="has 'start_time' and 'end_time', which are not read"):
        read(path)
    with pytest.raises(DataError, match="has no 'begin' in its first 100 rows"):
        read(path, columns={"start_s": "begin"})


def test_spans_that_nemo_does_not_have_are_asked_about(folder):
    path = folder / "m.jsonl"
    row = {"audio_filepath": "a.wav", "text": "שלום", "duration": 1.5}
    assert spans(read(write(path, [row | {"start_s": 2, "end_s": 3.5}]))[0]) == [(2, 3.5)]
    assert spans(read(write(path, [row | {"offset": "2.5"}]))[0]) == [(2.5, 4)]
    with pytest.raises(DataError, match="has 'start', which is not read"):
        read(write(path, [row | {"start": 2}]))


def test_a_duration_that_neither_the_span_nor_the_audio_has(folder):
    """The file was cut off, or is another; rounding and a codec's padding are no reason."""
    given = [
        {"duration": 9.6}, {"duration": 9}, {"duration": 11}, {"duration": "10.4"},
        {"start_s": 1, "end_s": 3, "duration": 2.3}, {"start_s": 1, "end_s": 3, "duration": 10},
        {"start_s": 4, "duration": 10}, {"duration": 20.5}, {"duration": 3.3},
        {"start_s": 1, "end_s": 3, "duration": 5.5},
    ]  # fmt: skip
    utterances, ledger = read(write(folder / "m.jsonl", [{"audio": "a.wav", "text": "שלום"} | row for row in given]))
    assert len(utterances) == 7 and rules(ledger) == ["wrong_duration"] * 3
    assert "'duration' is 20.5 s, the audio has 10.00 s" in ledger[0].detail and ledger[0].text == "שלום"
    assert utterances[6].audio.start_s == 4 and utterances[6].duration_s == 6


@pytest.mark.parametrize("own", ["Hebrew", "he", "HE", "he-IL", "he_IL", "heb", "iw", "und", "auto", "N/A", ""])
def test_a_language_by_any_of_its_codes(folder, own):
    utterances, _ = read(write(folder / "m.jsonl", [{"audio": "a.wav", "text": "שלום", "language": own}]))
    assert utterances[0].language == (None if own in ("", "und", "auto", "N/A") else "Hebrew")


def test_a_number_for_a_language_is_said_to_be_one(folder):
    """VoxPopuli's rows have the place of their language in a list of names; it is no language to compare."""
    path = write(folder / "m.parquet", [{"audio": {"path": "a.wav"}, "text": "שלום", "language": 0}])
    with pytest.raises(DataError, match=r"bad_language, .*'language' is 0, no name; .*`columns: \{language: null\}`"):
        read(path)
    assert len(read(path, columns={"language": None})[0]) == 1


def test_rows_in_another_language_leave_by_name(folder):
    """A row that says English would be trained and scored as Hebrew; its words are nothing that Hebrew deletes."""
    given = [
        {"language": "en-US"},
        {"text": "language English<asr_text>hello"},
        {"language": "Arabic"},
        {"language": "he"},
    ]
    utterances, ledger = read(write(folder / "m.jsonl", [{"audio": "a.wav", "text": "שלום"} | row for row in given]))
    assert len(utterances) == 1 and rules(ledger) == ["other_language"] * 3
    assert "its language is 'English', that of the source Hebrew" in ledger[0].detail
    assert all(line.text is None for line in ledger)
    assert len(read(folder / "m.jsonl", language="English")[0]) == 2


def test_paths_as_systems_write_them(folder, monkeypatch):
    """Composed and decomposed letters, file://, ~, backslashes: each names the one file that is there."""
    monkeypatch.setenv("HOME", str(folder))
    composed, decomposed = (unicodedata.normalize(form, "é/café.wav") for form in ("NFC", "NFD"))
    for name in ("b c%.wav", composed):
        (folder / name).parent.mkdir(exist_ok=True)
        sf.write(folder / name, np.full(SAMPLE_RATE_HZ, 0.1), SAMPLE_RATE_HZ)
    uri = f"file://{folder}/b%20c%25.wav"
    names = [
        "b c%.wav",
        composed,
        decomposed,
        "~/b c%.wav",
        uri,
        "file://localhost" + uri[7:],
        composed.replace("/", "\\"),
    ]
    path = write(folder / "m.jsonl", [{"audio": name, "text": "שלום"} for name in [*names, "gone.wav", "", 5]])
    utterances, ledger = read(path)
    found = [Path(u.audio.path).relative_to(folder).as_posix() for u in utterances]
    assert found == ["b c%.wav", composed, composed, "b c%.wav", "b c%.wav", "b c%.wav", composed]
    assert rules(ledger) == ["missing_file", "missing_audio", "missing_audio"]
    texts = folder / "texts"
    texts.mkdir()
    sf.write(texts / Path(decomposed).name, np.full(SAMPLE_RATE_HZ, 0.1), SAMPLE_RATE_HZ)
    (texts / Path(composed).name).with_suffix(".txt").write_text("שלום")
    assert [u.text for u in read(texts)[0]] == ["שלום"]


@pytest.mark.parametrize("delimiter", ["\t", ",", ";"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_cells_as_spreadsheets_write_them(folder, delimiter, end):
    """Quotes of a spreadsheet are undone, all others kept; a quote that is not closed swallows no rows."""
    texts = {
        '"צה""ל יצא"': 'צה"ל יצא', '"""שלום"", אמר; הילד"': '"שלום", אמר; הילד', 'אמר "שלום"': 'אמר "שלום"',
        '"שלום" אמר': '"שלום" אמר', '"לא נסגר': '"לא נסגר', f'"שורה{end}שנייה"': f"שורה{end}שנייה",
        f'"א{delimiter}ב"': f"א{delimiter}ב",
    }  # fmt: skip
    lines = [" Audio ", "TEXT", "speaker", "note"]
    content = [delimiter.join(lines), *(delimiter.join(("a.wav", cell, "s", "x")) for cell in texts)]
    path = folder / "m.data"
    path.write_bytes(("\ufeff" + end.join(content) + end).encode())
    utterances, ledger = read(path)
    assert [u.text for u in utterances] == list(texts.values()) and ledger == []
    assert {u.speaker for u in utterances} == {"s"}


def test_cells_that_are_missing_or_too_many(folder):
    """What a spreadsheet leaves out at the end of a row is empty; half of a text must not pass for the whole of it."""
    path = folder / "m.tsv"
    lines = [
        "audio\ttext\tspeaker\tnote", "a.wav\tאחת\ts", "a.wav\tשתיים", "a.wav\tשלוש\ts\tx\t\t",
        "a.wav\tחצי של", "טקסט\ts\tx", "a.wav\tx\ts\tx\ty", "a.wav", "a.wav\tסוף", "a.wav\tנחתך",
    ]  # fmt: skip
    path.write_text("\n".join(lines), encoding="utf-8")
    utterances, ledger = read(path)
    assert [u.text for u in utterances] == ["אחת", "שתיים", "שלוש", "סוף"]
    assert [(line.id, line.rule) for line in ledger][:4] == [
        ("line 5", "not_a_row"), ("טקסט", "missing_file"), ("line 7", "not_a_row"), ("line 8", "not_a_row"),
    ]  # fmt: skip
    assert len(utterances) + len(ledger) == len(lines) - 1 and ledger[-1].rule == "not_a_row"
    for twice in ("audio\ttext\ttext\n", "path\tsentence\tpath\n"):
        path.write_text(twice + "a.wav\tx\ty\n")
        with pytest.raises(DataError, match="has 2 columns named"):
            read(path)


def test_numbers_as_text_and_as_tables_have_them(folder):
    """`1,5` is one and a half or fifteen: nobody knows, so it is a line of the ledger."""
    given = ["1.5", " 2 ", "1e0", "", "1,5", "0:01.5", "1_0", "٣", "nan"]
    utterances, ledger = read(
        write(folder / "m.jsonl", [{"audio": "a.wav", "text": "שלום", "start_s": start} for start in given])
    )
    assert [u.audio.start_s for u in utterances] == [1.5, 2, 1, 0] and rules(ledger) == ["bad_span"] * 5
    columns = {"start_s": pa.array([Decimal("1.500")]), "end_s": pa.array([2_500_000], pa.duration("us"))}
    pq.write_table(pa.table({"audio": ["a.wav"], "text": ["שלום"]} | columns), folder / "m.parquet")
    assert spans(read(folder / "m.parquet")[0]) == [(1.5, 2.5)]


ROW = '{"audio": "a.wav", "text": "שלום עולם וכל השאר"}\n'


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("content", [ROW * 3, "audio\ttext\na.wav\tשלום\n"])
def test_wide_encodings_are_named(folder, encoding, content):
    (folder / "m").write_bytes(content.encode(encoding))
    with pytest.raises(DataError, match=r"cannot be read: it is UTF-(16|32): save it as UTF-8"):
        read(folder / "m")


def test_code_pages_are_named_with_their_place(folder):
    """A Hebrew file of an older program, an accented letter of another one, and a row that is only damaged."""
    hebrew = "audio\ttext\na.wav\tשלום עולם\n".encode("cp1255")
    (folder / "m.tsv").write_bytes(hebrew)
    with pytest.raises(DataError, match=r"not_utf8, byte 0xf9 at character 6 .*reads as Hebrew in windows-1255"):
        read(folder / "m.tsv")
    (folder / "m.tsv").write_bytes("טקסט".encode("cp1255") + b"\t" + hebrew)
    with pytest.raises(DataError, match=r"its first line is byte 0xe8 at character 0 .*windows-1255"):
        read(folder / "m.tsv")
    (folder / "m.jsonl").write_bytes(
        ROW.encode() + '{"audio": "a.wav", "text": "café"}\n'.encode("cp1252") + ROW.encode()
    )
    utterances, (line,) = read(folder / "m.jsonl")
    assert len(utterances) == 2 and (line.id, line.rule) == ("line 2", "not_utf8")
    assert "byte 0xe9 at character 31 is not UTF-8" in line.detail
    assert "it may be windows-1252" in line.detail
    texts = folder / "texts"
    texts.mkdir()
    (folder / "a.wav").rename(texts / "a.wav")
    for encoding, name in (("cp1255", "Hebrew in windows-1255"), ("utf-16", "a.txt is UTF-16")):
        (texts / "a.txt").write_bytes("שלום עולם".encode(encoding))
        with pytest.raises(DataError, match=f"not_utf8.*{name}"):
            read(texts)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (json.dumps([{"audio": "a.wav", "text": "x"}]), "is a JSON array: one object a line is expected"),
        (json.dumps([{"audio": "a.wav", "text": "x"}] * 2, indent=1), "is a JSON array"),
        ('[{"audio": "a.wav", "text": "x"},\n{"audio": "a.wav", "text": "y"}\n]', "is a JSON array"),
        (json.dumps({"audio": "a.wav", "text": "x"}, indent=1), "has an object over several lines"),
        ("", "has no rows"),
        ("\n \n\r\n", "has no rows"),
        ('{"audio": "b.wav", "text": "x"}\n{"text": "x", "text": "y"}', "not JSON: 'text' occurs twice"),
    ],
)
def test_json_that_is_not_one_object_a_line(folder, content, said):
    (folder / "m.jsonl").write_text(content)
    with pytest.raises(DataError, match=said):
        read(folder / "m.jsonl")


def test_marks_and_line_separators_inside_a_file(folder):
    """Files that were put together have marks in their middle; U+2028 ends no line."""
    (folder / "m.jsonl").write_text(f"\ufeff{ROW}\ufeff{ROW}" + ROW.replace("שלום ", "שלום\u2028"), encoding="utf-8")
    assert len(read(folder / "m.jsonl")[0]) == 3


def test_a_gzip_that_unpacks_out_of_all_proportion(folder, monkeypatch):
    """Half a megabyte would fill the memory of the machine with rows."""
    monkeypatch.setattr(textfiles, "MIN_UNPACKED_BYTES", 1 << 18)
    for name, num_rows in (("good.jsonl.gz", 2000), ("bomb.jsonl.gz", 20_000)):
        (folder / name).write_bytes(gzip.compress(ROW.encode() * num_rows))
    assert len(read(folder / "good.jsonl.gz")[0]) == 2000
    with pytest.raises(DataError, match="it unpacks to over 50 times its size: if that is right, unpack it"):
        read(folder / "bomb.jsonl.gz")


def test_a_source_of_hardly_a_good_row_ends_early(folder, monkeypatch):
    """Millions of lines of the ledger would fill the memory, and say no more than the first three."""
    monkeypatch.setattr(rows, "MAX_BAD_ROWS", 1000)
    (folder / "m.jsonl").write_text(ROW * 9 + "{}\n" * 5000, encoding="utf-8")
    with pytest.raises(DataError, match=r"9 of the first 1,009 rows can be used; line 10: text_not_string"):
        read(folder / "m.jsonl")
    (folder / "m.jsonl").write_text(ROW * 11 + "{}\n" * 1000, encoding="utf-8")
    assert len(read(folder / "m.jsonl")[1]) == 1000


def test_a_cell_of_any_length(folder):
    """The library's limit is 131,072 characters: one text over it would end the audit of a million rows."""
    (folder / "m.csv").write_text(f'audio,text,note\na.wav,שלום,"{"x," * 200_000}"\n', encoding="utf-8")
    assert [u.text for u in read(folder / "m.csv")[0]] == ["שלום"]


def test_cells_of_a_table_that_no_row_can_hold(folder):
    """One text that is not UTF-8 costs its row, not the table; a column twice is no column."""
    texts = pa.array([b"good", b"\xff\xfe", b"also"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"audio": ["a.wav"] * 3, "text": texts}), folder / "m.parquet")
    utterances, (line,) = read(folder / "m.parquet")
    assert [u.text for u in utterances] == ["good", "also"] and (line.id, line.rule) == (
        "row 1 of m.parquet",
        "not_utf8",
    )
    twice = pa.Table.from_arrays([pa.array(["a.wav"]), pa.array(["x"]), pa.array(["y"])], ["audio", "text", "text"])
    pq.write_table(twice, folder / "m.parquet")
    with pytest.raises(DataError, match="has 2 columns named 'text'"):
        read(folder / "m.parquet")


def test_the_cases_that_were_reported():
    """Spans by their values, and quotes undone, in the files as they came."""
    if not CASES.exists():
        pytest.skip("no folder 'shared' beside the repository")
    utterances, ledger = read(CASES / "span_names" / "offset_duration.jsonl")
    assert len(utterances) == 8 and ledger == [] and spans(utterances)[1] == (4.073, 8.293)
    with pytest.raises(DataError, match=r"columns: \{start_s: start_time, end_s: end_time\}"):
        read(CASES / "span_names" / "start_time.jsonl")
    utterances, _ = read(CASES / "csv_quoted_tsv" / "d.tsv")
    assert [u.text for u in utterances[:2]] == ['"שלום," אמר הילד.', 'צה"ל יצא']


@pytest.mark.parametrize("name", ["m.jsonl", "m.parquet", "m.arrow", "heard.jsonl", "heard.csv", "saved.jsonl"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, name):
    """Opening one waits for ever for somebody who writes."""
    os.mkfifo(path := tmp_path / name)
    read_it = {"m": read, "heard": read_hypotheses, "saved": read_saved}[path.stem]
    with pytest.raises(DataError, match=f"{name}.*(neither a file nor a folder|not a regular file)"):
        read_it(path)
    with pytest.raises(OSError, match="not a regular file"):
        hash_file(path)


@pytest.mark.parametrize("delimiter", "\t,;")
def test_a_text_over_several_lines_is_whole_where_it_stands_last(folder, delimiter):
    """`"he` would be trained as the text of all that is said. Two halves of a quotation in two rows stay two texts."""
    path = folder / ("m.tsv" if delimiter == "\t" else "m.csv")
    lines = ["audio|text", 'a.wav|"he', "said", 'so"', 'a.wav|"he', 'a.wav|said"']
    path.write_text("".join(f"{line}\n" for line in lines).replace("|", delimiter))
    utterances, ledger = read(path, "English")
    assert [u.text for u in utterances] == ["he\nsaid\nso", '"he', 'said"'] and ledger == []


def test_quotes_that_are_never_closed_cost_no_more_than_their_lines(folder):
    """Each such row once took the hundred lines after it apart again and again: 6 MB took minutes."""
    cells = ['"x" said,"y', '"' + "x" * 400, 'a.wav,"x']
    path = folder / "m.csv"
    path.write_text("audio,speaker,text\n" + "".join(f"{cell}\n" for cell in cells * 3000) + 'a.wav,s,"he\nsaid"\n')
    utterances, ledger = read(path, "English")
    assert [u.text for u in utterances] == ["he\nsaid"] and len(ledger) == 9000


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "start, end",
    [
        ("beg", "dur"), ("tbeg", "tdur"), ("stime", "etime"), ("st", "et"), ("in", "out"), ("vad_start", "vad_end"),
        ("turn_start", "turn_duration"), ("sentence_start", "sentence_end"), ("start_point", "end_point"),
    ],
)  # fmt: skip
def test_more_names_of_spans(folder, name, start, end):
    path = write(folder / name, [{"audio": "a.wav", "text": "שלום", start: 1.5, end: 2.5}])
    with pytest.raises(DataError, match=f"'{start}'.* not read"):
        read(path)
    assert len(read(path, columns={"start_s": None, "end_s": None, "duration": None})[0]) == 1


@pytest.mark.parametrize("name", ["m.jsonl", "m.parquet", "m.tsv"])
@pytest.mark.parametrize("field", ["timestamp", "segment", "interval"])
def test_a_span_in_one_field_is_asked_about(folder, name, field):
    path = write(folder / name, [{"audio": "a.wav", "text": "שלום", field: [1.5, 2.5]}])
    with pytest.raises(DataError, match=f"'{field}' .* both ends of a span"):
        read(path)
    assert len(read(path, columns={"start_s": None, "end_s": None})[0]) == 1
    row = {"audio": "a.wav", "text": "שלום", field: "2024-01-01", "word_start": 1, "word_end": 2}
    other = write(folder / name, [row])
    assert len(read(other)[0]) == 1


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("field", ["lang", "locale"])
def test_a_language_under_its_other_names(folder, name, field):
    path = write(folder / name, [{"audio": "a.wav", "text": "שלום", field: own} for own in ("he", "en")])
    utterances, ledger = read(path)
    assert [u.language for u in utterances] == ["Hebrew"] and rules(ledger) == ["other_language"]


def test_a_text_over_several_lines_in_the_last_column(folder):
    (folder / "m.csv").write_text(
        'audio,text\na.wav,"שורה\nשנייה"\na.wav,"סוף\na.wav,"שלום" אמר\na.wav,עולם\n', encoding="utf-8"
    )
    utterances, ledger = read(folder / "m.csv")
    assert [u.text for u in utterances] == ["שורה\nשנייה", '"סוף', '"שלום" אמר', "עולם"] and not ledger


def test_a_folder_with_a_table_of_its_texts_and_audio_as_the_hub_writes_it(folder):
    (folder / "metadata.csv").write_text("file_name,text\na.wav,שלום\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"to read metadata\.csv, name it as the manifest"):
        read(folder)
    with pytest.raises(DataError, match=r"say which with `columns: \{audio"):
        read(folder / "metadata.csv")
    assert len(read(folder / "metadata.csv", columns={"audio": "file_name"})[0]) == 1
    as_json = write(folder / "m.jsonl", [{"audio": {"path": "a.wav", "bytes": None}, "text": "שלום"}])
    with pytest.raises(DataError, match=r"columns: \{audio: audio\.path\}"):
        read(as_json)
    assert len(read(as_json, columns={"audio": "audio.path"})[0]) == 1
