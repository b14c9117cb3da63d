"""The offline history checker: states every promise of the specification over what a history left behind.

It shares no code with what it judges: it reads the tables with plain drivers, folds runs by itself, and knows the
specification's tables of statuses and events by heart.  Nothing in this package imports Runlane.

    evidence = read_postgres(conninfo)
    evidence.effects, evidence.calls = read_effects(paths), read_calls(paths)
    report = check(evidence)
"""

from __future__ import annotations

from tests.chaos.history import promises
from tests.chaos.history.evidence import (
    Call,
    Effect,
    Event,
    Evidence,
    Promised,
    read_calls,
    read_effects,
    read_postgres,
    read_sqlite,
)
from tests.chaos.history.lives import live
from tests.chaos.history.report import Report

__all__ = [
    "Call",
    "Effect",
    "Event",
    "Evidence",
    "Promised",
    "Report",
    "check",
    "read_calls",
    "read_effects",
    "read_postgres",
    "read_sqlite",
]


def check(evidence: Evidence, *, ended: bool = True) -> Report:
    """Judge a history.

    Args:
        ended: whether the faults are over and every run must have come to its end.
    """
    report = Report(events=len(evidence.events), effects=sum(effect.began for effect in evidence.effects))
    lives = live(evidence.events, report)
    report.runs = len(lives)
    promises.rows_are_what_the_log_says(evidence, lives, report)
    if ended:
        promises.every_run_ended(lives, report)
    promises.keys_have_one_owner(evidence, lives, report)
    promises.limits_hold(evidence, lives, report)
    promises.occurrences_fire_once(evidence, lives, report)
    promises.effects_belong_to_leases(evidence, lives, report)
    promises.clients_were_told_the_truth(evidence, lives, report)
    return report
