"""For tests of programs and of adapters: a clock that stands still, waits, runs in every state, and what was triggered.

With pytest, the fixtures ``runlane_app``, ``drain`` and ``assert_triggered`` come by themselves (see
``runlane.pytest_plugin``).  The suites for adapters are in ``runlane.testing.conformance``, which alone needs pytest.
"""

from runlane.clock import SettableClock
from runlane.testing.assertions import ANY_PAYLOAD, assert_triggered, drain, on_memory

__all__ = ["ANY_PAYLOAD", "SettableClock", "assert_triggered", "drain", "on_memory"]
