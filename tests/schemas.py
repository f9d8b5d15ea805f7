"""Writes the JSON schema of every document into `docs/schemas/`: `make schemas`."""

import importlib
import json
import pkgutil
import re
from pathlib import Path

from shibolet.records import documents
from shibolet.records.documents.base import Document

FOLDER = Path(__file__).parents[1] / "docs" / "schemas"


def schemas() -> dict[str, str]:
    """File name -> content, for each subclass of Document in the modules of `records/documents`."""
    for module in pkgutil.iter_modules(documents.__path__, f"{documents.__name__}."):
        importlib.import_module(module.name)
    return {f"{snake_case(one.__name__)}.json": schema_of(one) for one in all_documents(Document)}


def all_documents(base: type[Document]) -> list[type[Document]]:
    return [one for child in base.__subclasses__() for one in (child, *all_documents(child))]


def snake_case(name: str) -> str:
    """`TrainResult` -> `train_result`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def schema_of(document: type[Document]) -> str:
    """The schema of the file as `to_json` gives it: its version first, and every field there."""
    schema = document.model_json_schema(by_alias=True, mode="serialization")
    schema["properties"] = {"format": {"const": document.FORMAT, "type": "integer"}, **schema["properties"]}
    for part in (schema, *schema.get("$defs", {}).values()):
        if "properties" in part:
            part["required"] = list(part["properties"])
            for field in part["properties"].values():
                field.pop("title", None)  # the name again
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=1) + "\n"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    written = schemas()
    for old in FOLDER.glob("*.json"):
        if old.name not in written:
            old.unlink()
    for name, content in written.items():
        (FOLDER / name).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
