"""Settings of the publish stage."""

from collections.abc import Mapping

from pydantic import Field

from shibolet.records.config import Config

REPOSITORY = r"^[\w.-]+/[\w.-]+$"


class PublishConfig(Config):
    """Where a kept model is uploaded; without this section nothing is."""

    to: str = Field(pattern=REPOSITORY)  # repository on the Hub, as organisation/name
    private: bool = True  # whether a new repository is private; an existing one stays as it is
    layout: str = "native"  # layout of the files, one of the model family's; `native` is that of transformers
    # Licence of the model as the Hub names it, such as apache-2.0; null: the card states none
    license: str | None = None
    # Hub id or name -> licence, for a base model and data sets whose own cards state none
    licenses: Mapping[str, str] = {}
