"""A run in the caller's own transaction: the order and its run exist together, or neither does."""

import tempfile
from pathlib import Path

import sqlalchemy

from runlane import Queue, Runlane, task

orders = Queue("orders", default=True)


@task("orders.confirm")
def confirm(order: str) -> str:
    """Tell the customer."""
    return f"{order} confirmed"


def place_order(app: Runlane, engine: sqlalchemy.Engine, order: str, *, sold_out: bool) -> None:
    """Store an order and trigger its confirmation, in one transaction."""
    with engine.begin() as connection:
        connection.exec_driver_sql("insert into orders values (?)", (order,))
        app.trigger(confirm, order, idempotency_key=f"confirm-{order}", connection=connection)
        if sold_out:
            raise LookupError("sold out")


def main() -> None:
    """Place an order that goes through and one that does not."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'shop.db'}"
        engine = sqlalchemy.create_engine(url)
        with engine.begin() as connection:
            connection.exec_driver_sql("create table orders (id text primary key)")
        with Runlane(url, queues=[orders], tasks=[confirm]) as app:
            place_order(app, engine, "order-1", sold_out=False)
            try:
                place_order(app, engine, "order-2", sold_out=True)
            except LookupError as error:
                print(f"order-2: {error}")
            app.worker("drain").run()
            for run in app.runs.list().data:
                print(f"{run.payload}: {run.result}")
        engine.dispose()


if __name__ == "__main__":
    main()
