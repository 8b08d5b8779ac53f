"""What every document of the schema is made of: strict models, finite numbers, and the words that several share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Direction = Literal["higher", "lower", "none"]
Verdict = Literal["improved", "equivalent", "regressed", "inconclusive"]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Model(BaseModel):
    """Strict base: unknown keys are errors, NaN and infinity never enter the file."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=())
