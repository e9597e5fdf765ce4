"""Base class and field types of document sections."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=60)]
#: Numbers within the range in which squares and products of a few of them are finite.
Positive = Annotated[float, Field(gt=0, le=1e30, allow_inf_nan=False)]
Finite = Annotated[float, Field(ge=-1e30, le=1e30, allow_inf_nan=False)]
#: A size in nm, and a fractional coordinate.
Size = Annotated[float, Field(gt=0, le=1e4, allow_inf_nan=False)]
Fractional = Annotated[float, Field(ge=-1000, le=1000, allow_inf_nan=False)]
#: The name of a parameter or a quantity, or a wildcard for several.
Names = Annotated[str, Field(max_length=200)]
#: An arithmetic expression in parameters.
Expression = Annotated[str, Field(max_length=2000)]


class Section(BaseModel):
    model_config = ConfigDict(defer_build=True, extra="forbid", frozen=True, str_strip_whitespace=True)
