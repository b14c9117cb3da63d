"""The same engine in an asyncio program: the methods are awaited, handlers may be coroutines."""

import asyncio

from runlane import AsyncRunlane, Context, Queue, task

media = Queue("media", default=True)


@task("media.thumbnail")
async def thumbnail(name: str) -> str:
    """Make one thumbnail."""
    await asyncio.sleep(0.01)
    return f"{name}.thumb"


@task("media.album")
async def album(names: list[str], context: Context) -> int:
    """Trigger a run for each picture; those runs remember this one as their parent."""
    await app.trigger_many(thumbnail, names)
    return len(names)


app = AsyncRunlane("memory:", queues=[media], tasks=[thumbnail, album])


async def main() -> None:
    """Make an album of three."""
    async with app:
        triggered = await app.trigger(album, ["sea", "hill", "town"], correlation_id="holiday")
        await app.worker("drain").run()
        children = await app.runs.list(parent_run_id=triggered.run.id, order="oldest")
        for run in children.data:
            print(f"{run.correlation_id}: {run.payload} -> {run.result}")


if __name__ == "__main__":
    asyncio.run(main())
