"""Writes the JSON schema of every document into `docs/schemas/`: `make schemas`."""

import importlib
import json
import pkgutil
import re
from pathlib import Path

from pydantic.json_schema import GenerateJsonSchema

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


class AsWritten(GenerateJsonSchema):
    """Every field is in the file; the titles of fields, which repeat their names, are left out."""

    def field_is_required(self, field, in_typed_dict: bool, total: bool) -> bool:
        return True

    def field_title_should_be_set(self, schema) -> bool:
        return False


def schema_of(document: type[Document]) -> str:
    """The schema of the file as `to_json` gives it, its version first."""
    schema = document.model_json_schema(by_alias=True, mode="serialization", schema_generator=AsWritten)
    schema["properties"] = {"format": {"const": document.FORMAT, "type": "integer"}, **schema["properties"]}
    schema["required"] = ["format", *schema.get("required", [])]
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
