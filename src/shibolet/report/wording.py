"""What suspect types, reasons, failures and rates are called where people read them; and how odd text is shown."""

import re

# Control characters but tab and line feed; and those that turn the direction of text, with which a line can be made to
# read as another one (Unicode technical report 36).
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

SUSPECTS = {
    "wrong_text": ("another text", "What is said seems to be another text than the one written."),
    "text_missing": ("text missing", "More is said than is written."),
    "text_extra": ("text too long", "More is written than is said."),
    "audio_cut": ("audio cut", "The audio seems to be cut: words are missing where it begins or ends."),
    "no_speech": ("no speech", "Hardly any of the text is heard; perhaps nobody speaks."),
    "other_language": ("other language", "What is written, or what was heard, is mostly in another script."),
}
FAILURES = {  # why an utterance could not be scored; of the codes that are not here, their words will do
    "beyond_calibration": "longer than all that the audit heard",
    "bad_duration": "impossible length",
    "bad_span": "impossible start or end",
    "cut_short": "shorter than its header says",
    "damaged": "damaged: a part cannot be decoded",
    "decoder_crashed": "the decoder crashed",
    "decoder_hung": "decoding took too long",
    "empty_audio": "no samples in it",
    "listener_crashed": "the process that heard it crashed",
    "markup": "markup in the text",
    "missing_audio": "no audio in the row",
    "missing_file": "file missing",
    "nan_samples": "samples that are not numbers",
    "no_hypothesis": "not in the file of hypotheses",
    "no_words": "no word that could be checked",
    "not_a_file": "a folder or a pipe",
    "out_of_range": "samples out of range",
    "span_beyond_audio": "ends after the audio",
    "text_not_string": "text missing in the row",
    "too_long": "over an hour long",
    "too_short": "too short to score",
    "undecodable": "cannot be decoded",
    "wrong_duration": "not as long as its row says",
}
REASONS = {
    "fit": "the text does not fit",
    "words": "few words found",
    "length": "the length does not fit",
    "failed": "could not be heard",
}
NOT_HEARD = "This could not be heard."


def visible(text: str) -> str:
    """A text from outside as pages and terminals show it: characters that would change how the rest reads are named."""
    return _UNSEEN.sub(lambda found: f"[U+{ord(found[0]):04X}]", text)


def p_value(value: float) -> str:
    """A probability as people print it: no more digits than it has."""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def in_words(code: str) -> str:
    """A suspect type or a failure's reason in words."""
    return SUSPECTS[code][0] if code in SUSPECTS else FAILURES.get(code, code.replace("_", " "))


def sentence(reason: str) -> str:
    """A reason with a capital and a full stop; one that begins with a file's name keeps it as it is."""
    if reason.split(" ")[0].isalpha():
        reason = reason[0].upper() + reason[1:]
    return reason.rstrip(".") + "."
