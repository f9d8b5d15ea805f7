"""The data sets that recipes name, as their users find them on the Hub: what a `DataSource` need not say of them.

Columns as read from the cards and the viewer (facts: "Data sets, as their users find them"); a recipe's own entry wins.
"""

_TEXT_TEST = {"split": "test", "columns": {"text": "text"}, "language": "Hebrew"}

KNOWN_SOURCES: dict[str, dict] = {
    "ivrit-ai/crowd-transcribe-v5": {  # gated; no recording, speaker or domain column
        "split": "train",
        "columns": {"id": "uuid", "text": "sentence", "flags": "extra_data"},
        "timestamps": False,  # the specification has them taken out
        "language": "Hebrew",
    },
    "ivrit-ai/crowd-recital-whisper-training": {
        "split": "train",
        "columns": {"text": "transcript", "recording": "metadata.entry_id"},
        "format": "whisper_slices",
        "language": "Hebrew",
    },
    "ivrit-ai/eval-d1": _TEXT_TEST,
    "ivrit-ai/eval-whatsapp": _TEXT_TEST,
    "upai-inc/saspeech": _TEXT_TEST,
    "google/fleurs": {
        "config": "he_il",
        "split": "test",
        "columns": {"text": "transcription", "id": None},  # its `id` is the sentence's: several speakers read each
        "language": "Hebrew",
    },
    "mozilla-foundation/common_voice_17_0": {  # gated
        "config": "he",
        "split": "test",
        "columns": {"text": "sentence", "speaker": "client_id"},
        "language": "Hebrew",
    },
    "imvladikon/hebrew_speech_kan": {"split": "validation", "columns": {"text": "sentence"}, "language": "Hebrew"},
}

ELSEWHERE: dict[str, str] = {  # where a data set can be had when the Hub does not give it
    "mozilla-foundation/common_voice_17_0": (
        "Mozilla hands Common Voice out at https://datacollective.mozillafoundation.org: take the Hebrew corpus there "
        "and name its clips in a manifest"
    ),
}
