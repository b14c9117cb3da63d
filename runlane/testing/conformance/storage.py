"""The suite for a storage."""

from __future__ import annotations

from runlane.testing.conformance.deliveries import OutboxCases
from runlane.testing.conformance.histories import HistoryCases
from runlane.testing.conformance.leases import CapacityCases, LeaseCases
from runlane.testing.conformance.ownership import IdempotencyCases, SingletonCases
from runlane.testing.conformance.upkeep import OccurrenceCases, PromiseCases, PruneCases, ReadCases


class StorageConformance(
    HistoryCases,
    IdempotencyCases,
    SingletonCases,
    LeaseCases,
    CapacityCases,
    OutboxCases,
    OccurrenceCases,
    PruneCases,
    ReadCases,
    PromiseCases,
):
    """What every storage has to do; give it a fixture `storage` that returns a ``Database`` on an empty place."""
