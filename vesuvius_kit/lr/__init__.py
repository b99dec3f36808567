"""The learning rate of each epoch: a bounded controller, and beside it the plateau case's handlers for the study."""

from vesuvius_kit.checks import check_choice
from vesuvius_kit.lr.bounded import MAX_FACTOR, RAISE_SCALES, SCHEDULES, BoundedLR
from vesuvius_kit.lr.legacy import LegacyHandler

__all__ = ["HANDLERS", "MAX_FACTOR", "RAISE_SCALES", "SCHEDULES", "BoundedLR", "LegacyHandler", "make_lr"]

HANDLERS = ("bounded", "legacy", "legacy_compounding")


def make_lr(handler: str, base_lr: float, **settings):
    """Return the controller of a run.

    Parameters
    ----------
    handler : {"bounded", "legacy", "legacy_compounding"}
        `BoundedLR`; or `LegacyHandler` as the plateau case had it, or as it was repaired: both for the study alone.
    base_lr : float
        The configured rate.
    **settings
        Of `BoundedLR`; the legacy handlers take their base schedule from them.

    Returns
    -------
    BoundedLR or LegacyHandler

    Raises
    ------
    InputTypeError, InputValueError
        An unknown handler, or a setting of the wrong kind or outside its range.
    """
    if check_choice("handler", handler, HANDLERS) == "bounded":
        return BoundedLR(base_lr, **settings)
    return LegacyHandler(base_lr, compounding=handler == "legacy_compounding", **settings)
