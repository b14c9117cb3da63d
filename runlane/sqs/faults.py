"""What went wrong with SQS, in words that hold no secret, and whether trying again can help."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from runlane.transport import PublishOutcome, PublishStatus
from runlane.values import storable

#: The greatest length of such words, in characters.
_MOST = 400
_USER_INFO = re.compile(r"//[^/@\s]*@")
#: The texts of these quote signatures, tokens and headers.
_SECRET = ("signature", "token", "credential", "accesskey", "authfailure", "authorization")
#: Refusals of one message that come from the queue's state or an operator's settings, though SQS blames the sender.
_PASSING = ("throttl", "kms", "accessdenied", "overlimit", "limitexceeded", "toomany", "unavailable", "internal")
_NO_QUEUE = ("NonExistentQueue", "QueueDoesNotExist")


def code_of(error: BaseException) -> str | None:
    """The code of an answer in which AWS refused a call; None for any other error."""
    response = getattr(error, "response", None)
    found = response.get("Error") if isinstance(response, Mapping) else None
    code = found.get("Code") if isinstance(found, Mapping) else None
    return None if code is None else str(code).rpartition(".")[2]


def words_of(error: BaseException) -> str:
    """One line about an error of boto3, without credentials and without what was sent."""
    code = code_of(error)
    if code is None:
        lines = str(error).strip().splitlines()
        return _line(type(error).__name__, lines[0] if lines else "")
    return _answer(code, error.response["Error"].get("Message"))  # type: ignore[attr-defined]


def is_missing_queue(error: BaseException) -> bool:
    """Whether AWS says that the queue does not exist."""
    return code_of(error) in _NO_QUEUE


def is_unreachable(error: BaseException) -> bool:
    """Whether no answer came: the next call will fare alike, and may take as long to fail."""
    from botocore.exceptions import ConnectionError as NotConnected
    from botocore.exceptions import HTTPClientError

    return isinstance(error, (NotConnected, HTTPClientError))


def failed(error: BaseException) -> PublishOutcome:
    """The outcome of every wakeup of a call that raised: all such reasons pass, or an operator can remove them."""
    return PublishOutcome(PublishStatus.FAILED, words_of(error))


def entry_outcome(entry: Mapping[str, Any]) -> PublishOutcome:
    """The outcome of one message that a batch was accepted without."""
    detail = _answer(str(entry.get("Code", "unknown")), entry.get("Message"))
    return PublishOutcome(PublishStatus.REJECTED if is_final(entry) else PublishStatus.FAILED, detail)


def is_final(entry: Mapping[str, Any]) -> bool:
    """Whether SQS will never take this entry of a batch, however often it is tried."""
    code = str(entry.get("Code", "")).lower()
    return bool(entry.get("SenderFault")) and not any(word in code for word in _PASSING)


def _answer(code: str, message: object) -> str:
    if any(word in code.lower() for word in _SECRET):
        return _line(code, "")
    return _line(code, "" if message is None else str(message).partition("\n")[0])


def _line(name: str, text: str) -> str:
    words = storable(_USER_INFO.sub("//", f"{name}: {text}" if text else name), _MOST)
    return words if words.isprintable() else "".join(one if one.isprintable() else "\ufffd" for one in words)
