"""Label Studio: utterances and answers as its tasks, and its annotations as answers.

A task's annotation has a choice `verdict` and the texts `corrected`, `note` and `reviewer`, the names of `CONFIG`.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from shibolet.errors import AudioError, DataError
from shibolet.records.answers import MAX_NAME, Given, from_review, latest
from shibolet.records.audited import Audited
from shibolet.records.files import make_folder, write_bytes, write_json, writing
from shibolet.records.reading import fault, parse_line, parse_own
from shibolet.records.review import REMEDY, Answer

CONFIG = """<View>
  <Audio name="audio" value="$audio"/>
  <Text name="given" value="$text"/>
  <Choices name="verdict" toName="audio" choice="single" showInline="true">
    <Choice value="good" hotkey="1"/>
    <Choice value="bad" hotkey="2"/>
    <Choice value="unsure" hotkey="3"/>
  </Choices>
  <TextArea name="corrected" toName="audio" rows="2" maxSubmissions="1" placeholder="What is said"/>
  <TextArea name="note" toName="audio" rows="1" maxSubmissions="1" placeholder="Note"/>
  <TextArea name="reviewer" toName="audio" rows="1" maxSubmissions="1" placeholder="Your name"/>
</View>
"""
UNNAMED = "Label Studio"  # whose annotation it is where nothing says


def export_tasks(rows: Iterable[Audited], given: Sequence[Given], run_dir: Path, out_dir: Path) -> tuple[int, int]:
    """Write `tasks.json`, `config.xml` and `audio/`; how many tasks, and how many utterances have no audio.

    Label Studio plays the files where LOCAL_FILES_DOCUMENT_ROOT is the folder. DataError where it exists.
    """
    from shibolet.speech.audio import encode_flac, load

    if out_dir.exists():
        raise DataError(f"{out_dir} exists; name a new folder")
    by_id: dict[str, list[Given]] = {}
    for one in latest(given).values():
        by_id.setdefault(one.id, []).append(one)
    make_folder(out_dir / "audio")
    tasks, num_silent = [], 0
    for row in rows:
        name = f"audio/{len(tasks):06d}.flac"
        try:
            if row.audio is None:
                raise AudioError("the row could not be read")
            flac = encode_flac(load(row.audio.in_folder(run_dir)))
        except AudioError:
            num_silent += 1
            continue
        with writing(out_dir / name, durable=False) as file:  # after a crash the folder is written anew
            file.write(flac)
        tasks.append(task_of(row, name, [one for one in by_id.get(row.id, []) if one.text == row.text]))
    write_json(out_dir / "tasks.json", tasks)
    write_bytes(out_dir / "config.xml", CONFIG.encode())
    return len(tasks), num_silent


def task_of(row: Audited, path: str, given: Iterable[Given]) -> dict[str, Any]:
    """A task of Label Studio; `path` is the audio's, below LOCAL_FILES_DOCUMENT_ROOT."""
    data = {
        "audio": f"/data/local-files/?d={path}", "id": row.id, "text": row.text, "heard": row.hypothesis,
        "domain": row.domain, "speaker": row.speaker, "recording": row.recording, "confidence": row.confidence,
        "suspect": row.suspect or row.failure,
    }  # fmt: skip
    return {"data": data, "annotations": [{"result": _result(one)} for one in given if one.verdict or one.corrected]}


def _result(one: Given) -> list[dict[str, Any]]:
    texts = {"corrected": one.corrected, "note": one.note, "reviewer": one.by}
    found = [_region(name, "textarea", {"text": [text]}) for name, text in texts.items() if text]
    return [_region("verdict", "choices", {"choices": [one.verdict]}), *found] if one.verdict else found


def _region(name: str, kind: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"id": name, "from_name": name, "to_name": "audio", "type": kind, "value": value}


def answers_in(content: bytes, name: str, by: str | None = None) -> list[Given]:
    """Answers of a file: tasks that Label Studio exported (JSON), our `answers.jsonl`, or what audit.html saved.

    `by` is who gave those of audit.html, else the file's name stands for the person. A text that was corrected in
    Label Studio is not accepted yet. DataError names the place that is wrong.
    """
    if content.lstrip()[:1] == b"[":
        try:
            tasks = parse_own(content)
        except ValueError as error:
            raise DataError(f"{name} is not whole ({error}); export it from Label Studio again, as JSON") from error
        return [one for number, task in enumerate(tasks, 1) for one in _of_task(task, f"{name}, task {number}")]
    found, by = [], (by or Path(name).name)[:MAX_NAME]
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.strip() and _has_name(line):
            found.append(parse_line(Path(name), number, line, Given, REMEDY))
        elif line.strip():
            found += from_review([parse_line(Path(name), number, line, Answer, REMEDY)], by)
    return found


def _has_name(line: bytes) -> bool:
    """Whether a line says who gave the answer; what is no JSON does not."""
    try:
        value = parse_own(line)
    except ValueError:
        return False
    return isinstance(value, dict) and "by" in value


def _of_task(task: Any, place: str) -> list[Given]:
    try:
        data = task["data"]
        return [
            _of_annotation(one, str(data["id"]), str(data["text"]))
            for one in task["annotations"]
            if not one.get("was_cancelled")
        ]
    except ValidationError as error:
        raise DataError(f"{place}: {fault(error)}") from error
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise DataError(
            f"{place} is no task that 'shibolet review --export-label-studio' wrote and Label Studio exported as JSON "
            f"({type(error).__name__}: {error})"
        ) from error


def _of_annotation(annotation: Mapping[str, Any], id: str, text: str) -> Given:
    said: dict[str, str] = {}
    for region in annotation["result"]:
        value = region["value"]
        values = value.get("choices") or value.get("text") or [""]
        said[region["from_name"]] = values if isinstance(values, str) else str(values[0])
    return Given(
        by=(said.get("reviewer") or _annotator(annotation.get("completed_by")))[:MAX_NAME], id=id, text=text,
        verdict=said.get("verdict"), note=said.get("note", ""), corrected=said.get("corrected") or None,
        at=str(annotation.get("updated_at") or "")[:40],
    )  # fmt: skip


def _annotator(completed_by: Any) -> str:
    """A name for whom Label Studio knows by number or by an account."""
    if isinstance(completed_by, Mapping):
        return str(completed_by.get("email") or completed_by.get("id") or UNNAMED)
    return UNNAMED if completed_by is None else f"{UNNAMED} {completed_by}"
