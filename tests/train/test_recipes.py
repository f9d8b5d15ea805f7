"""Every phase of every shipped recipe trains what it names and nothing else, in models of its depth, not its width."""

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file
from test_trainer import rows, run
from tiny_run import make_rows, save_base, write_shard
from whisper_models import save_whisper

from shibolet.demo import tiny
from shibolet.model.family import load_recogniser
from shibolet.model.outline import offline_config
from shibolet.recipe import find_recipe
from shibolet.records.documents.training import DevRates
from shibolet.records.shards import num_rows
from shibolet.train.config import TrainConfig
from shibolet.train.phases import add_adapters, enter_phase
from shibolet.train.schedule import lr_factor, phase_steps

RECIPES = sorted(
    path.stem
    for path in Path(str(files("shibolet"))).glob("recipes/*.yaml")
    if "train" in yaml.safe_load(path.read_text())
)


@pytest.fixture
def deep_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Layers of the 1.7B model, 24 and 28."""
    plain = tiny._config

    def deep(tokenizer, **kwargs):
        config = plain(tokenizer, **kwargs)
        config.audio_config.encoder_layers = config.audio_config.num_hidden_layers = 24
        config.text_config.num_hidden_layers = 28
        config.text_config.layer_types = ["full_attention"] * 28
        return config

    monkeypatch.setattr(tiny, "_config", deep)
    return save_base(tmp_path / "base")


@pytest.fixture
def data_of(base_dir: Path, deep_dir: Path, prepared_dir: Path, tmp_path: Path) -> Callable[[str], tuple[Path, Path]]:
    """A base of the depth of the one that a recipe names, and prepared utterances of two steps."""

    def find(base: str) -> tuple[Path, Path]:
        if base.startswith("builtin:"):
            return base_dir, prepared_dir
        if "whisper" not in base:
            return deep_dir, prepared_dir
        few, depth = tmp_path / "few", offline_config(base)[0]
        write_shard(few / "train-00000.parquet", make_rows(2, seed=1))  # each is 30 s for a Whisper
        layers = {"encoder_layers": depth.encoder_layers, "decoder_layers": depth.decoder_layers}
        return save_whisper(
            tmp_path / "whisper", d_model=8, encoder_ffn_dim=8, decoder_ffn_dim=8, encoder_attention_heads=1,
            decoder_attention_heads=1, **layers,
        ), few  # fmt: skip

    return find


def scored(loaded, when: str) -> DevRates:
    """A teacher that is better than who learns from it."""
    return DevRates(wer=0.1 if when == "of the teacher" else 0.9, cer=0.1)


WRITES = "hebrew-round4"  # a phase of it writes texts of its own, with 28 layers that were never trained


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow("train", seconds=45)] if n == WRITES else []) for n in RECIPES]
)
def test_what_a_phase_names_moves_and_the_rest_is_bit_identical(
    name: str, data_of: Callable[[str], tuple[Path, Path]], tmp_path: Path
):
    raw = yaml.safe_load(find_recipe(name).read_text(encoding="utf-8"))  # some want data from the command line
    base, prepared = data_of(raw["models"].get("base", ""))
    num = sum(map(num_rows, prepared.glob("*.parquet")))
    recipe = TrainConfig.model_validate(raw["train"])
    short = tuple(phase.model_copy(update={"num_epochs": 1, "warmup_steps": 2}) for phase in recipe.phases)
    config = recipe.model_copy(
        update={"phases": short, "precision": "fp32", "utterances_per_step": num // 2, "checkpoint_every_steps": 100}
    )
    taught = {"teacher": str(base), "score_dev": scored} if config.is_taught else {}
    run(base, prepared, tmp_path / "train", config, **taught)
    model = load_recogniser(str(base)).model
    add_adapters(model, config, seed=5)
    before = {weight_name: weight.detach().clone() for weight_name, weight in model.named_parameters()}
    step = 0
    for phase in config.phases:
        trained = {weight_name for group in enter_phase(model, phase).values() for weight_name in group}
        step += phase_steps(phase, 2)
        folder = tmp_path / "train" / "checkpoints" / f"step-{step:08d}"
        frozen = load_file(folder / "frozen.safetensors") if (folder / "frozen.safetensors").exists() else {}
        after = before | frozen | load_file(folder / "masters.safetensors")
        assert len(trained) > 10
        assert {n for n in after if not after[n].equal(before[n])} == trained
        before = after
    for row in rows(tmp_path / "train"):  # the rate that was used is the one that was planned
        phase = config.phases[row["phase_index"]]
        factor = lr_factor(row["step_in_phase"] - 1, phase, 2)
        assert row["lr"] == pytest.approx({part: lr * factor for part, lr in phase.lr_by_part.items()})
