"""Suites that anybody's adapter can run: subclass one in a test module, and give it the fixture it asks for.

``StorageConformance`` asks for `storage`, ``TransportConformance`` and ``PublisherConformance`` for `transport`,
``LaneConformance`` for `lane`; docs/adapters.md shows each.  What an adapter does not promise is skipped and said so.
"""

from runlane.testing.conformance.lane import LaneConformance
from runlane.testing.conformance.publisher import PublisherConformance
from runlane.testing.conformance.storage import StorageConformance
from runlane.testing.conformance.transport import TransportConformance

__all__ = ["LaneConformance", "PublisherConformance", "StorageConformance", "TransportConformance"]
