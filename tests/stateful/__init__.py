"""Random histories of every command beside a model: ``episodes`` plays them, ``by_*`` have the commands."""

import pytest

# What their assertions compare is told when one fails.
pytest.register_assert_rewrite(
    *(
        f"tests.stateful.{name}"
        for name in (
            "acting",
            "by_applications",
            "by_consumers",
            "by_operators",
            "by_schedulers",
            "by_workers",
            "follower",
            "machine",
        )
    )
)
