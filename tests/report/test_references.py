"""References: only the papers of what a training used stand on its page."""

import shutil

import pytest
from training_documents import phase_plan, training_plan

from shibolet.records.files import write_json
from shibolet.records.runfolder import RunFolder
from shibolet.report.page import write_report
from shibolet.report.recipe import ShownRecipe
from shibolet.report.references import references

ONE_RATE = {"projector": 1e-4, "head": 1e-4}


@pytest.fixture
def used(run_dir, tmp_path):
    """What the papers of a training are for: phases by their rates, the recipe's augmentation, the model's type."""

    def read(*rates: dict[str, float], augment: dict | None = None, model_type: str | None = None) -> list[str]:
        run = RunFolder(tmp_path / "run")
        shutil.copytree(run_dir, run.path, dirs_exist_ok=True)
        training_plan(*(phase_plan(f"P{i}", epochs=1, steps=9, lr_by_part=one) for i, one in enumerate(rates))).write(
            run.plan
        )
        if model_type:
            write_json(run.final / "config.json", {"model_type": model_type})
        shown = ShownRecipe.read(run.recipe)
        recipe = ShownRecipe.model_validate(shown.model_dump() | {"train": {"augment": augment}})
        return [what for what, _ in references(run, recipe)]

    return read


def test_each_paper_stands_for_what_was_used_and_for_nothing_else(used):
    assert used(ONE_RATE) == used(ONE_RATE, ONE_RATE, augment={"codec": {"share": 0.3}, "spec_augment": None}) == []
    assert used(ONE_RATE | {"lora": 2e-4}) == ["adapters"]
    assert used({"projector": 2e-4, "head": 1e-4}) == ["learning rates by layer"]
    assert used(ONE_RATE, ONE_RATE | {"encoder.layers[16:24]": 1e-4}) == ["gradual unfreezing"]
    assert used(ONE_RATE, augment={"spec_augment": {"share": 1.0}}) == ["masks on features"]
    assert used(ONE_RATE, model_type="toy") == [] and used(ONE_RATE, model_type="qwen3_asr") == ["the model"]


def test_they_stand_on_the_page(run_dir):
    page = write_report(run_dir).read_text(encoding="utf-8")
    found = page.split("<h3>References</h3>")[1].split("</ul>")[0]
    assert "Adapters: Hu et al., LoRA" in found and "Gradual unfreezing: Howard and Ruder" in found
    assert "SpecAugment" not in found
