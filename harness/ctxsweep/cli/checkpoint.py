"""``ctxsweep checkpoint``: the folder of the weights that all engines load for a model."""

from __future__ import annotations

from pydantic import ValidationError

from ctxsweep.backends.base import InvalidSeries, Unsupported
from ctxsweep.backends.checkpoints import model_folder
from ctxsweep.cli.errors import BadInput
from ctxsweep.records import Series


def print_checkpoint(model: str, dtype: str, seed: int) -> None:
    """Print the folder, drawing the weights unless that was done. Raises ``BadInput``."""
    try:
        series = Series.model_validate({"name": "checkpoint", "model": model, "dtype": dtype})
        print(model_folder(series, seed))
    except ValidationError as error:
        problem = error.errors()[0]
        raise BadInput(f"--{problem['loc'][0]}: {problem['msg']}") from error
    except (InvalidSeries, Unsupported) as error:
        raise BadInput(str(error)) from error
