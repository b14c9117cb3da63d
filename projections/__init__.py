"""The folds: pure functions from events to state, and nothing else.

A fold sees no clock, no configuration and no database, so replaying the same log always gives the same state.
"""

if __name__ != "runlane.projections":
    # A second copy of these classes would compare unequal to the engine's own.
    raise ImportError("import runlane.projections, not projections")
