"""Where every file of a round lies in its run folder.

recipe.yaml                     the recipe in full: defaults and overrides resolved, paths relative to this file
provenance.json                 versions, commit, platform, threads, time of every start
audit/alignment_report.json     what the audit found, in total and by domain
      utterances.parquet        ... and for each utterance of its sample
      rest.parquet              the same for all others, when prepare hears them
      answers.jsonl             every answer that people gave while they reviewed, as they gave it
      review.jsonl              what they come to, one verdict an utterance, once there are any
      audit.html                utterances to listen to and to judge
      sounds.jsonl              what it plays, so that nothing is encoded twice
      calibration.json          what a clean clip looks like to these models
      heard/                    what the models said, so that nothing is heard twice
      extended.json             how many utterances `audit --extend` has asked for
calibration.json                what the listeners detect, from `shibolet calibrate`
gate.json                       the verdict and the interval behind it
audit/long.parquet              what label.writer heard in long utterances, where the recipe cuts them by that
labelled/label.json             how far two hearers agree on audio without text, and what passed
         manifest.jsonl         the pieces that passed, with their texts
         texts.jsonl            texts by machines in all, what was heard beside each and how far apart they are
         ledger.jsonl           pieces that did not pass
prepared/                       shards, splits and ledger: what may train
audit-prepared/                 the same as audit/, over what was kept, when a STOP was repaired
gate-prepared.json
prepare-replay/<source>/        the same of a source of data.replay, all of which trains
teach/texts.jsonl               what the teacher writes of them and the audit admits, where the recipe wants it
teacher_cache/                  what the teacher expects at each label of the training set
train/plan.json                 phases, steps, memory
      metrics.jsonl             one line a step
      dev.jsonl                 one line a dev score
      events.jsonl              steps skipped, roll-backs, memory that ran out
      result.json               which step was chosen, and by what
      checkpoints/
      final/                    the result: the model that the later stages use
evaluate/<label>/<set>/hypotheses.jsonl
                       listing.txt
                       scores.json
audit-sets/<set>/utterances.parquet    what the audit's models say of a set's references
doubtful/<label>/<set>/doubtful.json   references in doubt, and the WER without them
non-speech/<label>/non_speech.json     what a model writes where nobody speaks, and repeats of its context
compare.json                    the result against the baseline
systems.json                    any systems that were scored here, each against each
ngram/ngram.arpa                a language model of texts over the model's tokens, from `shibolet ngram`
      ngram.json                what it was made from, and which test texts it holds
waterfall.json                  systems that each have one part more, and what every step changes
robustness/robustness.json      WER by dose of noise, bit rate and lost packets
          <label>/<dose>/<set>/  hypotheses.jsonl, listing.txt and scores.json of each copy
search/search.json              trials of learning rates, and which rates are shown to be better
       trials/<trial>/          what each came to; of the one that is recommended also what it has trained
tune-decoding/decoding.json     ways to decode on dev, with what each costs
average/<name>/average.json     models that were averaged, what each average came to, and why one was chosen
               model/           that average
               scores/          what each of them wrote
parts/single/model/             the best checkpoint alone, where the result is an average and the recipe has `parts`
publish/model/                  the repository as it is uploaded: weights, processor, card
       reproduced.json          which hypotheses a fresh process repeated from it
tracking/tensorboard/           the whole round for TensorBoard
         wandb/                 ... and for W&B, where the recipe names a project
         <tracker>.json         what it was shown, so that nothing is shown twice
timings.jsonl                   one line a stage that was finished: its seconds and how much it did
report.html
.stages/<stage>.json            what a stage was begun with, and its outputs once it is done
.aside/<stage>-<inputs>/        what other inputs made; the same inputs take it back
.mirror.json                    where a store of objects has a copy of this folder, and which state of it
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RunPaths:
    """Paths of one round."""

    path: Path

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def provenance(self) -> Path:
        return self.path / "provenance.json"

    def audit(self, *, prepared: bool = False) -> Path:
        return self.path / ("audit-prepared" if prepared else "audit")

    def alignment_report(self, *, prepared: bool = False) -> Path:
        return self.audit(prepared=prepared) / "alignment_report.json"

    def audited_utterances(self, *, prepared: bool = False) -> Path:
        return self.audit(prepared=prepared) / "utterances.parquet"

    @property
    def audited_rest(self) -> Path:
        return self.audit() / "rest.parquet"

    @property
    def review(self) -> Path:
        return self.audit() / "review.jsonl"

    @property
    def answers(self) -> Path:
        return self.audit() / "answers.jsonl"

    @property
    def sounds(self) -> Path:
        return self.audit() / "sounds.jsonl"

    @property
    def audit_page(self) -> Path:
        return self.audit() / "audit.html"

    @property
    def audit_extension(self) -> Path:
        return self.audit() / "extended.json"

    @property
    def calibration(self) -> Path:
        return self.path / "calibration.json"

    def gate(self, *, prepared: bool = False) -> Path:
        return self.path / ("gate-prepared.json" if prepared else "gate.json")

    @property
    def audited_long(self) -> Path:
        return self.audit() / "long.parquet"

    @property
    def labelled(self) -> Path:
        return self.path / "labelled"

    @property
    def prepared(self) -> Path:
        return self.path / "prepared"

    def replay(self, source_name: str) -> Path:
        return self.path / "prepare-replay" / source_name

    @property
    def train(self) -> Path:
        return self.path / "train"

    @property
    def plan(self) -> Path:
        return self.train / "plan.json"

    @property
    def train_result(self) -> Path:
        return self.train / "result.json"

    @property
    def metrics(self) -> Path:
        return self.train / "metrics.jsonl"

    @property
    def dev_scores(self) -> Path:
        return self.train / "dev.jsonl"

    @property
    def events(self) -> Path:
        return self.train / "events.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.train / "checkpoints"

    @property
    def final(self) -> Path:
        return self.train / "final"

    def evaluation(self, label: str, set_name: str) -> Path:
        return self.path / "evaluate" / label / set_name

    def hypotheses(self, label: str, set_name: str) -> Path:
        return self.evaluation(label, set_name) / "hypotheses.jsonl"

    def scores(self, label: str, set_name: str) -> Path:
        return self.evaluation(label, set_name) / "scores.json"

    def audited_set(self, set_name: str) -> Path:
        return self.path / "audit-sets" / set_name / "utterances.parquet"

    def doubtful_scores(self, label: str, set_name: str) -> Path:
        return self.path / "doubtful" / label / set_name / "doubtful.json"

    def non_speech(self, label: str) -> Path:
        return self.path / "non-speech" / label / "non_speech.json"

    @property
    def compare(self) -> Path:
        return self.path / "compare.json"

    @property
    def systems(self) -> Path:
        return self.path / "systems.json"

    def averaged(self, name: str) -> Path:
        return self.path / "average" / name / "model"

    @property
    def ngram(self) -> Path:
        return self.path / "ngram" / "ngram.arpa"

    @property
    def waterfall(self) -> Path:
        return self.path / "waterfall.json"

    @property
    def robustness(self) -> Path:
        return self.path / "robustness" / "robustness.json"

    @property
    def search(self) -> Path:
        return self.path / "search" / "search.json"

    @property
    def publish(self) -> Path:
        return self.path / "publish"

    @property
    def tracking(self) -> Path:
        return self.path / "tracking"

    @property
    def timings(self) -> Path:
        return self.path / "timings.jsonl"

    @property
    def report(self) -> Path:
        return self.path / "report.html"
