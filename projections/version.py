"""The version of the folds."""

from __future__ import annotations

#: Grows with every change of a fold that makes other rows of the same events.  The tables remember by which version
#: they were folded last; where that is an older one, ``runlane migrate`` rebuilds them.
PROJECTION_VERSION = 1
