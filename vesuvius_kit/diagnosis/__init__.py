"""Why a run does not learn: what a log shows, with the numbers behind it and with what to change, the loss first."""

from vesuvius_kit.diagnosis.finding import Finding
from vesuvius_kit.diagnosis.readers import find_logs
from vesuvius_kit.diagnosis.verdict import Diagnosis, diagnose, suspect_loss

__all__ = ["Diagnosis", "Finding", "diagnose", "find_logs", "suspect_loss"]
