"""Amazon SQS as a lane's transport: one message per run to be delivered, and the two ways of consuming them.

    lane = Lane(Database("postgresql://…"), SqsTransport([SqsQueue(emails, name="emails")]))
    app = Runlane(lane, queues=[emails], tasks=[…])
    SqsConsumer(app).run()                # a process of its own, or
    handler = lambda_handler(app)         # AWS Lambda with SQS as its event source

A message is a doorbell: it says which run to look at, and storage decides whether that run is to be executed.  So
messages that are lost, doubled, late or out of order cost time or a look, never a run.  Needs ``runlane[sqs]``.
"""

from runlane.sqs.bindings import SqsQueue
from runlane.sqs.consumer import SqsConsumer
from runlane.sqs.lambdas import lambda_handler
from runlane.sqs.transport import SqsTransport

__all__ = ["SqsConsumer", "SqsQueue", "SqsTransport", "lambda_handler"]
