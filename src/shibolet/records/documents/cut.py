"""`cut.json` in the folder of a model that was cut from another one: which model, and which layers are left."""

from typing import ClassVar

from shibolet.records.documents.base import Document


class CutModel(Document):
    """Where the weights of a smaller model are from."""

    FORMAT: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "'shibolet cut' writes it anew"

    source: str  # the model as it was named
    identity: str  # its content hash
    encoder_layers: tuple[int, ...]  # those that were kept, by their places in the source
    decoder_layers: tuple[int, ...]
    parameters: int  # of the cut model
    source_parameters: int
