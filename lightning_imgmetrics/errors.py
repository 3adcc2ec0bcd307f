"""The errors that this package raises; each is also the builtin exception that a caller would catch."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from types import ModuleType


class ImgMetricsError(Exception):
    """Base of all errors of this package."""


class ShapeError(ImgMetricsError, ValueError):
    """A tensor has the wrong number of axes, channels or rows."""


class ValueRangeError(ImgMetricsError, ValueError):
    """Values lie outside their declared or possible range."""


class NotEnoughSamples(ImgMetricsError, RuntimeError, ValueError):
    """A statistic is undefined for so few samples."""

    def __init__(self, metric: str, have: int, need: int, why: str):
        super().__init__(f"{metric} has {have} samples and needs {need}: {why}")


class NothingToJudge(NotEnoughSamples):
    """The judge's question applies to none of the samples."""


class NonFiniteFeatures(ImgMetricsError, ValueError):
    """A network returned NaN or infinity."""


class IncompatibleStates(ImgMetricsError, ValueError):
    """Two states cannot be merged."""


class DuplicateSamples(IncompatibleStates):
    """Several ranks hold the same sample, and it can no longer be counted once."""


class SignatureMismatch(ImgMetricsError, ValueError):
    """Two numbers were not measured in the same way."""


class UnknownName(ImgMetricsError, KeyError, ValueError):
    """A name is not among those that an argument takes; the message lists them."""

    def __init__(self, argument: str, name: object, choices: Iterable[object]):
        self.message = f"`{argument}` must be one of {', '.join(map(repr, choices))}; got {name!r}"
        super().__init__(self.message)

    def __str__(self) -> str:  # KeyError would print the message in quotes
        return self.message


class MissingExtra(ImgMetricsError, ImportError):
    """An optional dependency is not installed."""


class MissingWeights(ImgMetricsError, FileNotFoundError):
    """Weights are neither on this machine nor can they be downloaded."""


class WeightsMismatch(ImgMetricsError, ValueError):
    """A weights file is not the one its card names, or does not fit the network."""


class UnreadableImage(ImgMetricsError, ValueError):
    """An image, or the folder, archive or array that holds it, cannot be read."""


class JudgeUnavailable(ImgMetricsError, ConnectionError):
    """A judge cannot be reached, or takes no further questions."""


class JudgeFailed(ImgMetricsError, RuntimeError):
    """A judge rejects requests, or too few of its answers are usable."""


class UnreadableQuestions(ImgMetricsError, ValueError):
    """A file of benchmark questions, prompts, target texts or a rubric does not have the expected format."""


class SamplerError(ImgMetricsError, ValueError):
    """The image sampler returned something other than the requested images."""


class MissingRanks(ImgMetricsError, RuntimeError):
    """Some ranks did not reach a synchronization point."""


def require(module: str, extra: str) -> ModuleType:
    """Import an optional module; if it is not installed, MissingExtra gives the pip command."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra(f"`{module}` is needed here: pip install 'lightning-imgmetrics[{extra}]'") from error
