"""A polling job: the handler looks, releases its run, and the same run goes on later.  Waiting is no failure."""

from itertools import count

from runlane import Context, Queue, Release, Runlane, task

exports = Queue("exports", default=True)
_looks = count(1)


def export_is_ready(name: str) -> bool:
    """Stands for a slow system of somebody else's, which is ready at the third look."""
    return next(_looks) >= 3


@task("exports.fetch")
def fetch(name: str, context: Context) -> Release | str:
    """Fetch an export once it is ready."""
    if not export_is_ready(name):
        return context.release("20ms", reason="not ready yet")
    return f"{name}.csv"


def main() -> None:
    """Wait for one export."""
    with Runlane("memory:", queues=[exports], tasks=[fetch]) as app:
        run = app.trigger(fetch, "sales").run
        worker = app.worker(poll_interval=0.01)
        worker.start()
        done = app.runs.wait(run.id, timeout=10)
        worker.stop()
        print(f"{done.status}: {done.result}, released {done.release_count} times, {done.failure_count} failures")


if __name__ == "__main__":
    main()
