from pathlib import Path

import pytest
import torch
from tiny_run import make_rows, save_base, write_shard

from shibolet.model.family import LoadedModel
from shibolet.model.qwen3_asr.family import FAMILY
from shibolet.model.qwen3_asr.load import load_recogniser
from shibolet.model.qwen3_asr.prompt import TranscriptionPrompt
from shibolet.train.data import TrainExample, read_examples
from shibolet.train.reader import PackReader


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # sums differ in bits between numbers of threads


@pytest.fixture(scope="session")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def prepared_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """22 training utterances in two shards."""
    path = tmp_path_factory.mktemp("prepared")
    rows = make_rows(22, seed=1)
    write_shard(path / "train-00000.parquet", rows[:12])
    write_shard(path / "train-00001.parquet", rows[12:])
    return path


@pytest.fixture
def loaded(base_dir: Path) -> LoadedModel:
    return load_recogniser(str(base_dir))


@pytest.fixture
def prompt(loaded: LoadedModel) -> TranscriptionPrompt:
    return TranscriptionPrompt(loaded.tokenizer, "Hebrew")


@pytest.fixture
def examples(prepared_dir: Path, prompt: TranscriptionPrompt) -> list[TrainExample]:
    return read_examples(prepared_dir, "train", FAMILY, prompt, max_tokens=4096)[0]


@pytest.fixture
def reader(loaded: LoadedModel, prompt: TranscriptionPrompt) -> PackReader:
    return PackReader(FAMILY, prompt.frame, loaded.extractor, cache_gib=1.0)
