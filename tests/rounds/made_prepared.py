"""What `prepare` leaves in a run folder, of utterances that all have one text and a recording of their own."""

import numpy as np

from shibolet.prepare.pieces import Piece
from shibolet.prepare.shards import ShardWriter
from shibolet.records.manifest import write_manifest
from shibolet.records.runfolder import RunFolder
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.speech.audio import encode_flac


def make_prepared(folder: RunFolder, text: str, num_dev: int, swapped: bool = False) -> None:
    """30 training utterances and some for dev, each of another sound; `swapped`: those of dev train, and 30 are dev."""
    stage = folder.stage("prepare", {"made": "here"})
    folder.prepared.mkdir(parents=True)
    made, splits = [], ("dev", "train") if swapped else ("train", "dev")
    for number, (split, count) in enumerate(zip(splits, (30, num_dev), strict=True)):
        writer = ShardWriter(folder.prepared, split, 1000)
        for i in range(count):
            name = f"{('train', 'dev')[number]}{i}"
            utterance = Utterance(id=name, audio=AudioRef(path=""), text=text, duration_s=0.5, source="here",
                                  recording=name)  # fmt: skip
            flac = encode_flac(np.full(8000, 0.1 + 0.2 * number + 0.001 * i, np.float32))
            made.append(writer.add(Piece.whole(utterance, flac), flac))
        writer.close()
    write_manifest(folder.prepared / "manifest.jsonl", made)
    stage.finish()
