"""The diagnosis as training asks it."""

from collections.abc import Sequence

from vesuvius_kit.config import RunConfig, config_to_dict
from vesuvius_kit.diagnosis.verdict import suspect_loss
from vesuvius_kit.io.record import EpochRecord


def veto_raise(records: Sequence[EpochRecord], config: RunConfig) -> str | None:
    """Return why the loss, and not the rate, is the suspect, so that the rate is not raised; None lets it rise.

    The hook of `vesuvius_kit.training.loop.Hooks`; see `suspect_loss`.
    """
    return suspect_loss(records, config_to_dict(config))
