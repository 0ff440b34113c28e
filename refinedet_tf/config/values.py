"""The types of the values in a config, with their ranges."""

from typing import Annotated

from pydantic import ConfigDict, Field

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
"""How every dataclass of a config reads its keys: none is unknown, and no value is converted."""

MAX_STEPS = 10**9
"""The largest number of steps."""

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
# The upper bounds lie far above useful values. They turn typing errors and foreign files, which would exhaust
# the memory or overflow the integers of a graph, into one line.
Epochs = Annotated[float, Field(gt=0, le=1_000_000)]
StepCount = Annotated[int, Field(ge=0, le=MAX_STEPS)]
PositiveStepCount = Annotated[int, Field(ge=1, le=MAX_STEPS)]
ImageSide = Annotated[int, Field(ge=64, le=10_000)]
Images = Annotated[int, Field(ge=1, le=100_000)]
Channels = Annotated[int, Field(ge=1, le=10_000)]
Anchors = Annotated[int, Field(ge=0, le=1_000_000)]
Trials = Annotated[int, Field(ge=1, le=10_000)]
Candidates = Annotated[int, Field(ge=1, le=10_000)]
CandidatesOfClass = Annotated[int, Field(ge=1, le=100_000)]
Detections = Annotated[int, Field(ge=1, le=100_000)]
Range = tuple[NotNegative, NotNegative]
