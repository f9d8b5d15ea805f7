"""Settings of the publish stage."""

from collections.abc import Mapping

from pydantic import Field

from shibolet.records.config import Config

REPOSITORY = r"^[\w.-]+/[\w.-]+$"


class PublishConfig(Config):
    """Where a kept model goes; nothing is uploaded without this."""

    to: str = Field(pattern=REPOSITORY)  # organisation/name on the Hub
    private: bool = True  # of a repository that is made now; one that is there stays as it is
    layout: str = "native"  # one of the model family's: "native" is transformers' own
    license: str | None = None  # of the model, as the Hub names it ("apache-2.0"); null: not stated
    licenses: Mapping[str, str] = {}  # of base and data sets by Hub id or name, where their own card does not say
