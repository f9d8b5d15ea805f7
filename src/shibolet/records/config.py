"""The base of every component's settings: immutable, strict, validated before anything is paid for."""

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Settings of one component; an unknown key is an error, units stand in the names, numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
