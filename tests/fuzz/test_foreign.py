"""What others wrote and went wrong: recipes, folders of models, answers of servers."""

import json
import os
import random
from http.client import HTTPMessage
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import yaml
from harness import MANY, Kind, fuzz, how_many
from mutate import ODD, mutated_bytes, mutated_json, mutated_value

from shibolet.listen import server
from shibolet.model.outline import offline_config, outline_of
from shibolet.model.qwen3_asr.load import open_folder
from shibolet.recipe import Recipe, load_recipe, recipe_yaml, shipped_recipes, write_recipe
from shibolet.records.settings import _all_keys


def mutated_recipe(rng: random.Random, content: bytes, value: dict) -> bytes:
    """As YAML, and as JSON, which YAML reads as well and in which nesting can be deeper."""
    if rng.random() < 0.3:
        return mutated_bytes(rng, content)
    changed = mutated_value(rng, value)
    try:
        return yaml.safe_dump(changed, allow_unicode=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    except RecursionError:
        return json.dumps(changed).encode()


def override(rng: random.Random) -> str:
    """A change of the command line, mostly of a key that there is."""
    key = rng.choice(KEYS if rng.random() < 0.9 else ["x", "", "..", "train.phases.x", "data.train.99.name"])
    value = rng.choice(ODD)
    text = value if isinstance(value, str) else json.dumps(value)
    return rng.choice((f"{key}={text}", f"{key}={text}", f"{key}={text}", f"{key}={text[:-1]}", key, f"{key}=[{text}"))


KEYS = list(_all_keys(Recipe, ""))


@how_many(400, few=40)
def test_recipes(num: int, tmp_path: Path):
    content = shipped_recipes()["demo"].read_bytes()
    value = yaml.safe_load(content)

    def read(path: Path) -> None:
        recipe = load_recipe(path, changes.pop())
        recipe_yaml(recipe)
        write_recipe(recipe, tmp_path / "again.yaml")
        assert load_recipe(tmp_path / "again.yaml") == recipe

    changes: list[list[str]] = []

    def make(rng: random.Random) -> bytes:
        has_changes = rng.random() < 0.3
        changes.append([override(rng) for _ in range(rng.choice((1, 2)))] if has_changes else [])
        return content if has_changes else mutated_recipe(rng, content, value)

    fuzz(Kind(make, read), tmp_path / "x.yaml", num)


def test_some_model_folders(tmp_path: Path):
    fuzz_model_folders(tmp_path, 40)


@pytest.mark.slow("fuzz", seconds=600)
def test_model_folders(tmp_path: Path):
    fuzz_model_folders(tmp_path, MANY)


def fuzz_model_folders(folder: Path, num: int) -> None:
    """One file of a model's settings is damaged; weights stay, and none is loaded."""
    whole = Path(str(files("shibolet"))) / "demo" / "checkpoints" / "round1"
    contents = {path.name: path.read_bytes() for path in sorted(whole.glob("*.json")) if path.name != "build.json"}
    os.symlink(whole / "model.safetensors", folder / "model.safetensors")
    chosen = [""]

    def make(rng: random.Random) -> bytes:
        chosen[0] = rng.choice(["config.json", *contents])
        return mutated_json(rng, contents[chosen[0]])

    def read(path: Path) -> None:
        for name, content in contents.items():
            (folder / name).write_bytes(path.read_bytes() if name == chosen[0] else content)
        open_folder(str(folder))
        config, _ = offline_config(str(folder))
        outline_of(config).blueprint(config)

    fuzz(Kind(make, read), folder / "x", num)


ANSWERS = {
    "/audio/transcriptions": b'{"text": "call two six", "language": "en", "usage": {"seconds": 2}}',
    "/models": b'{"object": "list", "data": [{"id": "whisper", "object": "model", "created": 1}]}',
}


@how_many(60)
def test_answers_of_servers(num: int, tmp_path: Path, monkeypatch):
    """Below the connection: status, headers and content of any kind, for both questions that are asked."""
    clips = [np.zeros(16_000, np.float32)]
    answered: dict[str, server.Answer] = {}
    monkeypatch.setattr(server, "WAITS_S", ())
    monkeypatch.setattr(server, "exchange", lambda url, *_: answered[url.removeprefix("http://a/v1")])

    def make(rng: random.Random) -> bytes:
        for path, content in ANSWERS.items():
            headers, status = HTTPMessage(), rng.choice((200, 200, 200, 200, 204, 302, 404, 500, 999))
            for name in rng.sample(("Content-Encoding", "Location", "Content-Type"), rng.choice((0, 0, 1))):
                headers[name] = rng.choice(("gzip", "\u202e", "x" * 5000, "file:///etc/passwd"))
            changed = mutated_json(rng, content) if rng.random() < 0.7 else content
            answered[path] = server.Answer(status, rng.choice(("OK", "", "\x1b[2J")), headers, changed)
        return b""

    def read(path: Path) -> None:
        [written] = server.ServerEngine("http://a").write(clips)
        written.text.encode()

    fuzz(Kind(make, read), tmp_path / "x", num)
