"""Writes the Lhotse manifests of this folder, and what Lhotse makes of them: `pip install lhotse==1.33`, run it."""

import json
import os
from pathlib import Path

from lhotse import CutSet, Recording, RecordingSet, SupervisionSegment, SupervisionSet
from lhotse.audio import AudioSource

os.chdir(Path(__file__).parent)


def recording(name: str, *sources: tuple[str, list[int]]) -> Recording:
    files = [AudioSource("file", channels, f"audio/{file}") for file, channels in sources]
    return Recording(id=name, sources=files, sampling_rate=16000, num_samples=96000, duration=6.0)


recordings = RecordingSet.from_recordings(
    [
        recording("one", ("one.wav", [0])),
        recording("stereo", ("stereo.wav", [0, 1])),
        recording("apart", ("left.wav", [0]), ("right.wav", [1])),
        recording("rate", ("rate.wav", [0])).resample(8000),
    ]
)
supervisions = SupervisionSet.from_segments(
    [
        SupervisionSegment("s1", "one", 0.5, 1.25, text="שלום עולם", speaker="a", language="he", custom={"room": "x"}),
        SupervisionSegment("s2", "one", 2.1, 2.333, text="b", speaker="b", language="he"),
        SupervisionSegment("s3", "stereo", 3, 2, channel=[0, 1], text="c"),
        SupervisionSegment("s4", "stereo", 0, 2, channel=1, text="one of two channels"),
        SupervisionSegment("s5", "apart", 1, 2, channel=1, text="d"),
        SupervisionSegment("s6", "rate", 0.1, 5.7, text="e"),
        SupervisionSegment("s7", "one", 5, 0.5),
    ]
)
recordings.to_file("x_recordings_train.jsonl.gz")
supervisions.to_file("x_supervisions_train.jsonl.gz")

cuts = CutSet.from_manifests(recordings=recordings, supervisions=supervisions)
spans = [
    {
        "id": cut.supervisions[0].id, "recording": cut.recording.id, "start_s": cut.start, "end_s": cut.end,
        "text": cut.supervisions[0].text, "speaker": cut.supervisions[0].speaker,
    }
    for cut in cuts.trim_to_supervisions(keep_overlapping=False)
]  # fmt: skip
Path("spans.json").write_text(json.dumps(spans, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

whole = {cut.recording.id: cut for cut in cuts}
odd = [
    whole["one"].truncate(offset=1.0, duration=3.5, preserve_id=True),  # s1 starts before the cut, s2 inside it
    whole["rate"].pad(8.0, preserve_id=True),
    whole["rate"].perturb_speed(1.1),
    whole["one"].drop_supervisions().with_id("silent"),
]
CutSet.from_cuts([*cuts, *odd[1:]]).to_file("cuts.jsonl")
CutSet.from_cuts(odd[:1]).to_file("truncated.jsonl")
