"""What the sections on scores show: the comparison, other systems, all scores, kinds of errors, listings, examples.

Chooses, sorts and lays out, as `sections` does; every rate comes from the files.
"""

from shibolet.records.files import read_json, read_jsonl
from shibolet.records.runfolder import RunFolder
from shibolet.report import figures
from shibolet.report.figures import Change, Difference
from shibolet.report.recipe import ShownRecipe
from shibolet.scoring.counts import align_words
from shibolet.scoring.sclite import Entry, align_weighted
from shibolet.speech.text.language import Language

ROUND1, ROUND2 = "round1", "round2"  # their folders under evaluate/
TITLES = {
    "sets": "By set", "domains": "By domain", "buckets": "By duration", "lengths": "By words in the reference",
    "noise": "By signal over noise", "speakers": "By speaker",
}  # fmt: skip
FOLDED = ("lengths", "noise", "speakers")  # tables that open on demand
IN_FIGURE = ("sets", "domains", "buckets", "lengths", "noise")
MAX_EACH_EXAMPLE, MAX_LISTED, MAX_FREQUENT = 3, 8, 12
MAX_SLICES = 40  # rows of a table: a set may have hundreds of speakers
MAX_EXAMPLE_WORDS = 60  # recordings of minutes are not shown


def comparison(run: RunFolder, recipe: ShownRecipe) -> dict | None:
    """Both rounds by slice, in the order in which they should be read."""
    if not run.compare.is_file():
        return None
    compared = run.read_compare()
    lead = compared["lead_with"]
    published = {one.name: one.baseline_wer_pct for one in recipe.evaluate.sets if one.baseline_wer_pct}
    groups = [
        {
            "key": key, "title": TITLES[key], "folded": key in FOLDED, "published": published if key == "sets" else {},
            "blocks": _largest(compared[key]), "num_left_out": max(0, len(compared[key]) - MAX_SLICES),
        }
        for key in _breakdowns(compared)
    ]  # fmt: skip
    if compared["forgetting"]:
        other = {"key": "forgetting", "title": "Other languages: forgotten?", "blocks": compared["forgetting"]}
        groups.append({**other, "num_left_out": 0, "folded": False, "published": {}})
    changes = [
        Change(name, 100 * before, 100 * after)
        for name, block in compared[lead].items()
        if (before := block["wer"]["round1"]["rate"]) is not None
        and (after := block["wer"]["round2"]["rate"]) is not None
    ]
    in_figure = {TITLES[key]: compared[key] for key in _breakdowns(compared) if key in IN_FIGURE}
    differences = _differences({"All": {"all sets": compared["overall"]}} | in_figure)
    return {
        **compared,
        "notes": [overlap["note"] for overlap in compared["overlaps"].values() if overlap["note"]],
        "groups": groups,
        "figure": figures.changes(changes) if changes else None,
        "difference_figure": figures.differences(differences, compared["target"]["points"]) if differences else None,
    }


def _largest(blocks: dict) -> dict:
    """The slices with most utterances, where there are very many, in their order."""
    by_size = sorted(blocks, key=lambda name: -blocks[name]["utterances"])
    return {name: block for name, block in blocks.items() if name in set(by_size[:MAX_SLICES])}


def _breakdowns(compared: dict) -> list[str]:
    """Keys of the breakdowns, what leads first; domains that are the sets under the same names are shown once."""
    shown: list[str] = []
    for key in sorted(TITLES, key=lambda key: key != compared["lead_with"]):
        numbers = {name: block["wer"]["delta_points"] for name, block in compared.get(key, {}).items()}
        if numbers and numbers not in [{n: b["wer"]["delta_points"] for n, b in compared[k].items()} for k in shown]:
            shown.append(key)
    return shown


def _differences(groups: dict[str, dict]) -> list[Difference]:
    rows = []
    for title, blocks in groups.items():
        heading = title
        for name, block in blocks.items():
            wer = block["wer"]
            if wer["delta_points"] is not None:  # a slice of empty references has no rate
                rows.append(Difference(name, wer["delta_points"], *(wer["interval_points"] or (None, None)), heading))
                heading = ""
    return rows


def systems(run: RunFolder) -> dict | None:
    """Any systems that were compared each with each."""
    return read_json(run.systems) if run.systems.is_file() else None


def scores(run: RunFolder) -> list[dict]:
    """Every `scores.json`, by model and set, with (set, what its intervals are over, caveat) under "over"."""
    found = [read_json(path) for path in sorted(run.path.glob("evaluate/*/*/scores.json"))]
    # files of earlier versions have no "number_aware"
    return [{"number_aware": None, **one, "over": (one["set"], one["counted"], one["caveat"])} for one in found]


def errors(run: RunFolder, language: Language) -> list[dict]:
    """Of each model and set with errors: its most frequent ones, and the utterances with most of them, word by word."""
    shown = []
    for path in sorted(run.path.glob("evaluate/*/*/scores.json")):
        found = read_json(path)
        if not found["wer"]["errors"] or found["language"] != language.name:
            continue
        frequent = {kind: tallies[:MAX_FREQUENT] for kind, tallies in found["frequent_errors"].items()}
        entries = []
        for line in read_jsonl(path.parent / "hypotheses.jsonl"):
            said, heard = (language.to_scoring(line[key]).split() for key in ("reference", "hypothesis"))
            if said != heard and len(said) <= MAX_EXAMPLE_WORDS:
                entries.append(Entry(line["id"], align_weighted(said, heard)))
        entries.sort(key=lambda entry: (-entry.counts.errors, entry.id))
        shown.append({**found, "frequent": frequent, "listed": entries[:MAX_LISTED], "num_wrong": len(entries)})
    return sorted(shown, key=lambda one: (one["model"] != ROUND2, one["model"], -one["wer"]["errors"]))


def examples(run: RunFolder, language: Language) -> list[dict]:
    """Utterances that Round 2 gained and lost most on, of each set that both rounds have."""
    chosen = []
    for path in sorted((run.path / "evaluate" / ROUND2).glob("*/hypotheses.jsonl")):
        before_path = run.hypotheses(ROUND1, path.parent.name)
        if not before_path.is_file():
            continue
        before = {line["id"]: line for line in read_jsonl(before_path)}
        rows = [_example(path.parent.name, before[line["id"]], line, language) for line in read_jsonl(path)]
        rows = [row for row in rows if len(row["round1"]) <= MAX_EXAMPLE_WORDS]
        rows.sort(key=lambda row: (row["errors"][1] - row["errors"][0], row["id"]))
        better = [{**row, "why": "Better"} for row in rows if row["errors"][1] < row["errors"][0]]
        worse = [{**row, "why": "Worse"} for row in reversed(rows) if row["errors"][1] > row["errors"][0]]
        chosen += better[:MAX_EACH_EXAMPLE] + worse[:MAX_EACH_EXAMPLE]
    return chosen


def _example(set_name: str, before: dict, after: dict, language: Language) -> dict:
    reference = language.to_scoring(after["reference"])
    aligned = [align_words(reference, language.to_scoring(line["hypothesis"])) for line in (before, after)]
    return {
        **after,
        "set": set_name,
        "round1": aligned[0],
        "round2": aligned[1],
        "errors": [sum(op != "hit" for op, _, _ in words) for words in aligned],
    }
