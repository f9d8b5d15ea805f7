"""What a Whisper that is tuned on English forgets: Hebrew and English before and after, by the round's verdict.

    python benchmarks/whisper_forgetting.py --models M --data D --out O

base on AN4, 60 speakers for training; then its 14 other speakers, fsdd's English digits, yesno's Hebrew (one speaker:
no interval), and ordinary sentences that espeak-ng says in both languages, which are synthetic. Prints lines of JSON:
the rates as written and in the nearest reading by set, and what `compare.json` says. Some ten minutes on two cores.
"""

import random
from pathlib import Path

from espeak_english import said
from whisper_figures import differences, rows_of, show
from whisper_jobs import (
    AS_IT_IS,
    SMALL_LETTERS,
    TEST_SPEAKERS,
    Job,
    arguments,
    hear_untouched,
    hypotheses_file,
    opened,
    parse,
    run_jobs,
    trained,
    utterances_of,
    written,
)
from whisper_settings import data_of

ENGLISH_VOICES = ("f2", "m3", "Andy", "Annie")
SENTENCES = (
    "The weather in the north will be warm and dry until the weekend.",
    "She put the letters on the kitchen table before she went to work.",
    "Nobody knew why the train had stopped in the middle of the field.",
    "My brother is looking for a flat that is not too far from the sea.",
    "They have opened a small bakery across the street from the school.",
    "If you turn left after the bridge you will see the old library.",
    "The doctor told him to drink more water and to sleep longer.",
    "We could not find the key although we looked in every drawer.",
    "Her grandmother still tells stories about the village by the river.",
    "The meeting was moved to the afternoon because of the strike.",
    "Please close the window when you leave the room in the evening.",
    "The children built a castle of sand and watched the waves take it.",
)


def synthetic(folder: Path, num_hebrew: int = 48) -> dict[str, Path]:
    """Manifests of ordinary sentences said by espeak-ng, in Hebrew (the demo's grammar) and English; made once."""
    made = {"synthetic_he": folder / "he.jsonl", "synthetic_en": folder / "en.jsonl"}
    if all(path.is_file() for path in made.values()):
        return made
    from shibolet.demo.lexicon import load_lexicon
    from shibolet.demo.sentences import sample_sentence
    from shibolet.demo.synth import SpeechRequest, synthesise
    from shibolet.demo.voices import TEST_VOICES, draw_manner

    rng, lexicon = random.Random(23), load_lexicon()
    requests = []
    for _ in range(num_hebrew):
        words = tuple(entry.spelling for entry in sample_sentence(rng, lexicon))
        requests.append(SpeechRequest(words=words, voice=draw_manner(rng, TEST_VOICES.draw(rng))))
    folder.mkdir(parents=True, exist_ok=True)
    speech = synthesise(requests, folder, 1)
    hebrew = [(" ".join(r.words), r.voice.variant, s.samples) for r, s in zip(requests, speech, strict=True)]
    return {"synthetic_he": _saved(folder / "he", hebrew), "synthetic_en": _saved(folder / "en", _in_english())}


def _in_english() -> list:
    """The sentences above, each by two voices."""
    spoken = [(sentence, voice) for i, sentence in enumerate(SENTENCES) for voice in ENGLISH_VOICES[i % 2 :: 2]]
    return [(*one, samples) for one, samples in zip(spoken, said(spoken), strict=True)]


def _saved(folder: Path, spoken: list) -> Path:
    import soundfile

    from shibolet.records.utterance import AudioRef, Utterance

    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for place, (text, voice, samples) in enumerate(spoken):
        path = folder / f"{place}.wav"
        soundfile.write(path, samples, 16000)
        rows.append(
            Utterance(
                id=f"{folder.name}-{place}", audio=AudioRef(path=str(path)), text=text, source="synthetic",
                duration_s=len(samples) / 16000, recording=None, speaker=f"espeak {voice}", domain="synthetic",
            )
        )  # fmt: skip
    return written(folder.with_suffix(".jsonl"), rows)


def tune(job: Job) -> dict:
    """Train without an audit's verdicts, score both models and compare them."""
    from shibolet.rounds import auditing, scoring, stages

    with opened(job, **AS_IT_IS) as current:
        auditing.do_audit(current)
        auditing.do_gate(current)
        stages.do_prepare(current)
        stages.do_train(current)
        scoring.do_evaluate(current, scoring.candidates_of(current))
        compared = scoring.do_compare(current)
        forgotten = {name: block.wer.model_dump(mode="json") for name, block in compared.forgetting.items()}
        return {"verdict": compared.verdict, "sentence": compared.sentence, "beside": list(compared.beside),
                "forgetting": forgotten, **trained(current, job)}  # fmt: skip


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--model", default="whisper-base")
    args = parse(parser)
    model, folder = args.models / args.model, args.out / "forgetting"
    spoken = utterances_of(args.data / "an4_en" / "manifest.jsonl", "an4", "English")
    sets = {
        "an4": (written(folder / "an4.jsonl", [u for u in spoken if u.speaker in TEST_SPEAKERS]), "English"),
        "fsdd_en": (args.data / "fsdd_en" / "manifest.jsonl", "English"),
        "yesno_he": (args.data / "yesno_he" / "manifest.jsonl", "Hebrew"),
    }
    sets = {
        name: (written(folder / f"{name}.jsonl", utterances_of(path, name, language)), language)
        for name, (path, language) in sets.items()
    }
    made = synthetic(folder / "synthetic")
    sets |= {"synthetic_en": (made["synthetic_en"], "English"), "synthetic_he": (made["synthetic_he"], "Hebrew")}
    train = [u for u in spoken if u.speaker not in TEST_SPEAKERS]
    whole = {**sets, "train": (written(folder / "train.jsonl", train), "English")}
    heard = hear_untouched(args, model, whole)
    listener = hypotheses_file(folder / "heard.jsonl", heard["train"])
    named = [f"{{name: {name}, manifest: {path}, language: {language}}}" for name, (path, language) in sets.items()]
    data = data_of(*(path for path, _ in whole.values()))
    jobs = [
        Job(
            key=f"forgetting/{args.model}/{seed}",
            run_dir=folder / f"{args.model}-{seed}",
            recipe=args.recipe,
            changes=(
                f"models.base={model}", f"models.baseline={model}", f"data.train.0.manifest={whole['train'][0]}",
                f"audit.recogniser={listener}", "language=English", f"seed={seed}", "prepare.min_duration_s=0.1",
                f"evaluate.sets=[{', '.join(named)}]", SMALL_LETTERS, *args.set,
            ),
            data=data,
            about={"what": "forgetting", "seed": seed},
        )
        for seed in args.seeds
    ]  # fmt: skip
    rows = [row for row in run_jobs(args, tune, jobs).values() if row.get("what") == "forgetting"]
    for name, (path, language) in sets.items():
        before, after, utterances = [], [], utterances_of(path, name, language)
        for row in rows:
            before += rows_of(utterances, heard[name], f"seed {row['seed']}", language)
            after += rows_of(utterances, dict(row["rows"][name]), f"seed {row['seed']}", language)
        if before:
            show(name, {"language": language, **differences(before, after, ("untouched", "tuned"), language)})
    for row in rows:
        show(
            f"verdict, seed {row['seed']}",
            {name: row[name] for name in ("verdict", "sentence", "beside", "forgetting")},
        )


if __name__ == "__main__":
    main()
