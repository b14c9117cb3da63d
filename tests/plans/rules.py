"""What a plan may do, so that its cost does not grow with what is stored."""

from __future__ import annotations

from collections.abc import Iterator

from tests.plans.watching import Plan

#: Tables that grow with use; each of the others has a row per process or queue.
GROWING = frozenset({"runs", "events", "outbox", "schedules", "occurrences", "idempotency_keys"})


def breaches(plan: Plan, rows: int, passed: int = 0) -> Iterator[str]:
    """What a statement did that it must not, where it was asked for `rows` rows (or has that many to look at).

    `passed` is how many runs it may pass on its way, each once and without a look at its events.
    """
    for node in plan.nodes():
        walks = passed if node.table == "runs" else 0
        if node.kind == "Seq Scan" and node.table in GROWING:
            yield f"reads all of {node.table}"
        if node.kind.endswith("Sort") and node.rows > 200 + 4 * rows:
            yield f"sorts {node.rows:,.0f} rows"
        if node.removed > 100 + 2 * rows + walks:
            yield f"reads {node.removed:,.0f} rows of {node.table or node.kind} in vain"
        if node.table in GROWING and node.rows > 200 + 10 * rows:
            yield f"reads {node.rows:,.0f} rows of {node.table}"
    if plan.root.blocks > 150 + 40 * rows + passed // 20:
        most = ", ".join(
            f"{n.kind} {n.table or ''} {n.blocks:,}" for n in plan.nodes() if n.blocks > plan.root.blocks // 5
        )
        yield f"touches {plan.root.blocks:,} pages ({most})"
