"""Readers of logs: one module a form, all ending in runs in the form of `log.jsonl`; which form it is, the content says."""

from vesuvius_kit.diagnosis.readers.places import find_logs, read_runs

__all__ = ["find_logs", "read_runs"]
