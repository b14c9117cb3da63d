"""Amazon SQS as a lane's transport: one message per run to be delivered.

    lane = Lane(Database("postgresql://…"), SqsTransport([SqsQueue(emails, name="emails")]))

A message is a doorbell: it says which run to look at, and storage decides whether that run is to be executed.  So
messages that are lost, doubled, late or out of order cost time or a look, never a run.  Needs ``runlane[sqs]``.
"""

from runlane.sqs.bindings import SqsQueue
from runlane.sqs.transport import SqsTransport

__all__ = ["SqsQueue", "SqsTransport"]
