"""Background work that fails twice and then succeeds, and work that must not be tried again."""

import attrs

from runlane import Context, Fixed, NonRetryable, Queue, Retry, Runlane, task

payments = Queue("payments", default=True)


@attrs.frozen
class Charge:
    order: str
    cents: int


@task("payments.charge", retry=Retry(max_attempts=5, backoff=Fixed("10ms")))
def charge(payload: Charge, context: Context) -> dict[str, str]:
    """Charge a card at a bank that is down at first."""
    if payload.cents <= 0:
        raise NonRetryable(f"cannot charge {payload.cents} cents")  # trying again would change nothing
    if context.attempt < 3:
        raise ConnectionError("the bank does not answer")
    return {"receipt": f"{payload.order}-{payload.cents}"}


def main() -> None:
    """Charge two orders, and tell what became of them."""
    with Runlane("memory:", queues=[payments], tasks=[charge]) as app:
        good = app.trigger(charge, Charge("order-1", 4200), idempotency_key="charge-order-1").run
        bad = app.trigger(charge, Charge("order-2", 0)).run
        worker = app.worker(poll_interval=0.01)
        worker.start()
        for run in (app.runs.wait(good.id, timeout=10), app.runs.wait(bad.id, timeout=10)):
            reason = run.failure.message if run.failure else run.result
            print(f"{run.payload['order']}: {run.status} after {run.attempt_count} attempt(s): {reason}")
        worker.stop()
        for record in app.runs.events(good.id):
            print(f"  {record.sequence}. {type(record.event).__name__} by {record.actor}")


if __name__ == "__main__":
    main()
