"""Protects the page from a mean over seeds that stands there without the variances that it was made with."""

import shutil

from shibolet.records.documents.comparison import BetweenSeeds, Comparison, SeedsSide
from shibolet.report.page import write_report


def test_the_mean_over_seeds_stands_with_both_standard_errors(run_dir, tmp_path):
    """Protects from one interval of which nobody knows whether another seed is in it."""
    copy = shutil.copytree(run_dir, tmp_path / "copy")
    assert "mean over seeds" not in write_report(copy).read_text(encoding="utf-8")
    seeds = BetweenSeeds(
        baseline=SeedsSide(title="Round 1", wer_pct=(20.0,), spread_points=None),
        candidate=SeedsSide(title="Round 2", wer_pct=(18.0, 19.0, 18.5), spread_points=0.5),
        delta_points=-1.5, interval_points=(-2.25, -0.75), shown="better", p=0.01, groups_error_points=0.31,
        seeds_error_points=0.29, sentence="",
    )  # fmt: skip
    path = copy / "compare.json"
    Comparison.read(path).model_copy(update={"seeds": seeds}).write(path)
    page = write_report(copy).read_text(encoding="utf-8")
    assert "WER, mean over seeds (1 and 3)" in page
    assert "standard errors 0.31 over groups and 0.29 between seeds" in page
