"""Births of runs that differ by their ids and payloads alone: one of them, as it is folded, stands for all."""

from __future__ import annotations

from runlane import codec
from runlane.decisions import Change
from runlane.storage import rows
from runlane.storage.dialect import Alike
from runlane.storage.encoding import event_rows


def alike(change: Change) -> Alike:
    """Births like this one, which has neither idempotency nor singleton key and is due at once."""
    one = change.after
    return Alike(one, rows.birth_values(one), event_rows([change]), codec.around_payload(one.created))
