"""The deterministic simulator: whole processes on one thread, on virtual time, on a real database, from one seed.

`kernel` decides who goes on; `patching` gives the product its threads, its time and its ids; `stage` has the database,
which fails where the plan says so; `world` has the processes of an episode, `clients` what they are asked for,
`strikes` what goes wrong; `rules` has what each event must be, `pulses` what a heartbeat may say, and `judging` what
must hold at the end; `episodes` plays plans and makes failing ones small.
"""

import pytest

pytest.register_assert_rewrite("tests.simulation.judging", "tests.stateful.follower", "tests.stateful.invariants")
