"""What the tests of the Kaggle connection share."""

import pytest

from vesuvius_kit.kaggle.client import KaggleClient


@pytest.fixture
def slept(monkeypatch):
    """What the client waited for, without waiting."""
    pauses = []
    monkeypatch.setattr(KaggleClient, "pause", lambda self, seconds: pauses.append(seconds))
    return pauses
