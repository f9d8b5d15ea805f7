"""`shibolet recipes`: who installed a wheel has no folder of the repository to copy from."""

import pytest

from shibolet.cli.recipes import FOR, NEEDS
from shibolet.recipe import load_recipe, shipped_recipes


@pytest.mark.parametrize("name", shipped_recipes())
def test_each_recipe_says_what_it_is_for_and_what_it_needs(name):
    first, second, *_ = shipped_recipes()[name].read_text(encoding="utf-8").splitlines()
    assert first.startswith(FOR) and second.startswith(NEEDS) and max(len(first), len(second)) < 120


def test_the_list_names_every_recipe_and_fits_the_terminal(run_cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = run_cli("recipes")
    assert code == 0 and all(name in out for name in shipped_recipes()) and "--to FILE" in err
    assert max(map(len, out.splitlines())) <= 80


def test_a_copy_is_the_recipe_and_can_be_read(run_cli, monkeypatch, tmp_path):
    """A copy with other comments, or another line's end, would not be what the docs talk of."""
    monkeypatch.chdir(tmp_path)
    content = shipped_recipes()["hebrew-small"].read_text(encoding="utf-8")
    assert run_cli("recipes", "hebrew-small")[:2] == (0, content)
    assert run_cli("recipes", "hebrew-small", "--to", "my.yaml")[0] == 0
    assert (tmp_path / "my.yaml").read_text(encoding="utf-8") == content
    assert load_recipe("my.yaml", ["data.train.0.manifest=m.jsonl"]).name == "hebrew-small"


def test_a_file_that_exists_is_not_written_over(run_cli, monkeypatch, tmp_path):
    """It may be the recipe that somebody has worked on for days."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").write_text("mine")
    code, _, err = run_cli("recipes", "hebrew-small", "--to", "my.yaml")
    assert code == 2 and "not written over" in err and (tmp_path / "my.yaml").read_text() == "mine"
    (tmp_path / "file").touch()
    assert run_cli("recipes", "hebrew-small", "--to", "file/my.yaml")[0] == 3


def test_unknown_names_and_a_copy_of_nothing_are_one_sentence(run_cli):
    code, _, err = run_cli("recipes", "hebrew-smal")
    assert code == 2 and "did you mean 'hebrew-small'?" in err
    assert run_cli("recipes", "--to", "my.yaml")[0] == 2


def test_keys_of_a_section_have_default_and_meaning_and_fit_the_terminal(run_cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run_cli("recipes", "--keys", "train.lora")
    assert code == 0 and "\ntrain.lora.rank: 16\n" in out and "Rank of the adapters." in out
    assert "train.optimizer" not in out and max(map(len, out.splitlines())) <= 80
    code, everything, _ = run_cli("recipes", "--keys")
    assert (
        code == 0
        and {*out.splitlines()} <= {*everything.splitlines()}
        and "\ntrain.optimizer.eps: 1.0e-08\n" in everything
    )


def test_keys_are_named_as_set_names_them_and_an_unknown_one_is_told(run_cli):
    assert (
        run_cli("recipes", "--keys", "data.train.0.columns")[1] == run_cli("recipes", "--keys", "data.train.columns")[1]
    )
    assert "--keys data.train" in run_cli("recipes", "--keys", "evaluate.sets")[1]
    assert "\ntrain.lora.rank: 16\n" in "\n" + run_cli("recipes", "--keys", "rank")[1]
    code, _, err = run_cli("recipes", "--keys", "trian.lora")
    assert code == 2 and "did you mean 'train.lora'?" in err
    assert run_cli("recipes", "--keys", "train", "--to", "x.yaml")[0] == 2
