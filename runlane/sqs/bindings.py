"""Which SQS queue carries the wakeups of which queue."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from attrs import Attribute, field, frozen

from runlane.errors import ConfigurationInvalid
from runlane.shown import shown
from runlane.tasks import Queue

_URL = re.compile(r"https?://[^\s/@?#]+/[^\s?#]*[^\s?#/]")
_NAME = re.compile(r"(?=.{1,80}\Z)[A-Za-z0-9_-]+(\.fifo)?")


def _is_queue(_: object, __: Attribute[Queue], value: object) -> None:
    if not isinstance(value, Queue):
        raise ConfigurationInvalid(f"SqsQueue takes the Queue that it carries the wakeups of first, not {shown(value)}")


@frozen
class SqsQueue:
    """The SQS queue of one queue; give exactly one of `url` and `name`.

    A name or URL that ends in ``.fifo``, as SQS demands of FIFO queues and of no others, makes it one.

    Args:
        queue: the Runlane queue whose wakeups it carries.
        url: the SQS queue's URL.
        name: its name in the account and region of the transport's client; looked up once, at the start.

    Raises:
        ConfigurationInvalid: naming what is not valid.
    """

    queue: Queue = field(validator=_is_queue)
    url: str | None = field(default=None, kw_only=True)
    name: str | None = field(default=None, kw_only=True)

    def __attrs_post_init__(self) -> None:
        whose = f"the SQS queue of {self.queue.name!r}"
        if (self.url is None) == (self.name is None):
            raise ConfigurationInvalid(f"{whose} needs exactly one of url and name")
        if self.url is not None and not (isinstance(self.url, str) and _URL.fullmatch(self.url)):
            raise ConfigurationInvalid(f"url of {whose} must be like https://sqs.REGION.amazonaws.com/ACCOUNT/NAME")
        if self.name is not None and not (isinstance(self.name, str) and _NAME.fullmatch(self.name)):
            raise ConfigurationInvalid(
                f"name of {whose} must have 1 to 80 letters, digits, '-' and '_', and may end in '.fifo'; "
                f"got {self.name!r}"
            )

    @property
    def fifo(self) -> bool:
        """Whether it is a FIFO queue."""
        return self.place.endswith(".fifo")

    @property
    def place(self) -> str:
        """Its URL or name, as it was given."""
        return self.url or self.name or ""


def bindings_of(queues: Iterable[SqsQueue]) -> Mapping[str, SqsQueue]:
    """The bindings by the name of the queue they are for.

    Raises:
        ConfigurationInvalid: there is none, a queue has two, or two queues share one.
    """
    found: dict[str, SqsQueue] = {}
    places: dict[str, str] = {}
    for binding in queues:
        if not isinstance(binding, SqsQueue):
            raise ConfigurationInvalid(
                f"SqsTransport takes SqsQueue(queue, url=… or name=…) entries, not {shown(binding)}"
            )
        name = binding.queue.name
        if name in found:
            raise ConfigurationInvalid(f"queue {shown(name)} is bound to two SQS queues; it can have one")
        if binding.place in places:
            raise shared(places[binding.place], name, binding.place)
        found[name] = binding
        places[binding.place] = name
    if not found:
        raise ConfigurationInvalid("SqsTransport needs at least one SqsQueue")
    return found


def shared(one: str, other: str, place: str) -> ConfigurationInvalid:
    """A consumer of one of these queues would take, and throw away, what is meant for the other."""
    return ConfigurationInvalid(
        f"queues {one!r} and {shown(other)} are bound to one SQS queue, {place}; each needs one of its own"
    )


def missing(bindings: Mapping[str, SqsQueue], queues: Collection[str]) -> str:
    """A sentence about the queues without a binding; empty if there are none."""
    without = [name for name in queues if name not in bindings]
    if not without:
        return ""
    names = ", ".join(repr(name) for name in without)
    return f"no SQS queue is bound to {names}; add SqsQueue(…) to SqsTransport([…])"
