"""The section ``regression`` of a scenario file: what of a later run is worth an alarm."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from ctxsweep.frozen import Frozen

THRESHOLDS = {
    "prefill_s": 0.03,
    "itl_s": 0.03,
    "joules_per_prompt_token": 0.05,
    "joules_per_generated_token": 0.05,
    "cache_used_bytes": 0.005,
    "cache_reserved_bytes": 0.01,
    "bytes_per_token": 0.005,
    "weights_bytes": 0.005,
    "process_peak_bytes": 0.05,
    "device_peak_bytes": 0.02,
    "time_s": 0.05,
}
"""Changes, as shares, of which nobody is told, by metric; ``time_s`` is that of a benchmark."""
PARAMETERS = ("intercept", "slope", "bend", "crossover")
PARAMETER_THRESHOLD = 0.05
"""Of parameters fitted to times; those of bytes are exact, as the bytes are."""

Share = Annotated[float, Field(gt=0, lt=10)]


class Regression(Frozen):
    """How two runs of the scenario are compared."""

    alarm_rate: float = Field(
        0.01, gt=0, le=0.2, description="False alarms allowed per comparison of equal builds."
    )
    thresholds: dict[str, Share] = Field(
        default_factory=dict,
        description="Smallest change worth an alarm, as a share: itl_s: 0.05; of a curve's "
        "parameter: itl_s.slope: 0.1.",
    )
    recheck_rounds: int = Field(
        8, ge=4, le=1000, description="Times that a suspect is measured again, in turn with base."
    )
    recheck_s: float = Field(
        600.0, gt=0, le=7 * 86400, description="Time for measuring suspects again, at most."
    )

    @model_validator(mode="after")
    def _known(self) -> Self:
        for name in self.thresholds:
            metric, _, parameter = name.partition(".")
            if metric not in THRESHOLDS or parameter not in ("", *PARAMETERS):
                raise ValueError(
                    f"thresholds.{name[:60]} is unknown; valid: {', '.join(THRESHOLDS)}, each also "
                    f"with .{', .'.join(PARAMETERS)}"
                )
        return self

    def threshold(self, metric: str) -> float:
        """For a metric or ``metric.parameter``: as the scenario says, or the default."""
        if metric in self.thresholds:
            return self.thresholds[metric]
        plain, _, parameter = metric.partition(".")
        own = self.thresholds.get(plain)
        if own is not None:
            return own
        fitted = parameter and plain.endswith("_s")
        return PARAMETER_THRESHOLD if fitted else THRESHOLDS[plain]
