"""``AesGcm``: payloads encrypted by AES-256-GCM; needs the package ``cryptography`` (``runlane[crypto]``)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from runlane import jsontext
from runlane.errors import ConfigurationInvalid, PayloadUnreadable
from runlane.payload_codec import CodecContext, KeyUnavailable, Wrapped

#: Bytes of every key, and of a nonce.
_KEY, _NONCE = 32, 12
#: A master key: 32 bytes, ``env:NAME``, ``file:PATH`` or a path.
MasterKey = bytes | str | Path


class AesGcm:
    """Encrypts payloads with a data key for each subject; what is erased is the data key.

    Every value has a key of its own, derived from the data key and what it belongs to, and the same is authenticated:
    environment, run, task, part and data key.  So a ciphertext that is moved to another run is refused.

    Args:
        master_key: wraps the data keys: 32 bytes; or where they are, in base64, hex or, in a file, as they are:
            ``env:NAME`` for an environment variable, ``file:PATH`` or a ``Path``.  Keep it outside the database.
        older: master keys that wrap nothing any more, for data keys that are still wrapped by them.

    Raises:
        ConfigurationInvalid: a key is no 32 bytes or cannot be read, or the package ``cryptography`` is missing.
    """

    name = "aes-gcm"

    def __init__(self, master_key: MasterKey, *older: MasterKey) -> None:
        try:
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ModuleNotFoundError as error:
            raise ConfigurationInvalid("AesGcm needs a package: pip install 'runlane[crypto]'") from error
        self._aesgcm: Callable[[bytes], Any] = AESGCM
        self._invalid: type[Exception] = InvalidTag
        keys = [_read(key) for key in (master_key, *older)]
        self._masters = {_expand(key, b"runlane master key id")[:8].hex(): key for key in keys}
        #: The id of the master key that wraps new data keys: a hash of it.
        self.master = next(iter(self._masters))

    def __repr__(self) -> str:
        return f"<AesGcm {', '.join(self._masters)}>"

    def encode(self, plain: bytes, context: CodecContext) -> Mapping[str, Any]:
        """See ``PayloadCodec``."""
        about, nonce = _about(context), os.urandom(_NONCE)
        data = self._aesgcm(_of(context, about)).encrypt(nonce, plain, about)
        return {"v": 1, "nonce": _text(nonce), "data": _text(data)}

    def decode(self, stored: Mapping[str, Any], context: CodecContext) -> bytes:
        """See ``PayloadCodec``."""
        if stored.get("v") != 1:
            raise PayloadUnreadable(f"version {stored.get('v')!r} of {self.name} is not known here")
        about = _about(context)
        try:
            nonce = base64.b64decode(stored["nonce"], validate=True)
            data = base64.b64decode(stored["data"], validate=True)
            plain: bytes = self._aesgcm(_of(context, about)).decrypt(nonce, data, about)
        except (KeyError, TypeError, ValueError, self._invalid) as error:
            raise PayloadUnreadable(
                f"the {context.part} was not encrypted for task {context.task_id} and {context.run_id} in environment "
                f"{context.environment!r}, or was changed since"
            ) from error
        return plain

    def wrap(self, secret: bytes, row: bytes) -> Wrapped:
        """See ``KeyedCodec``."""
        nonce = os.urandom(_NONCE)
        return Wrapped(self.master, nonce + self._wrapping(self.master).encrypt(nonce, secret, row))

    def unwrap(self, wrapped: Wrapped, row: bytes) -> bytes:
        """See ``KeyedCodec``."""
        if wrapped.master not in self._masters:
            raise KeyUnavailable(
                f"the data key is wrapped by master key {wrapped.master}, which is not here; known are "
                + ", ".join(self._masters)
            )
        try:
            secret: bytes = self._wrapping(wrapped.master).decrypt(wrapped.data[:_NONCE], wrapped.data[_NONCE:], row)
        except (ValueError, self._invalid) as error:
            raise KeyUnavailable("the row of the data key was changed: it cannot be unwrapped") from error
        return secret

    def _wrapping(self, master: str) -> Any:
        return self._aesgcm(_expand(self._masters[master], b"runlane wrapping"))


def _of(context: CodecContext, about: bytes) -> bytes:
    if context.key is None:
        raise PayloadUnreadable(f"the {context.part} names no data key")
    return _expand(context.key.secret, about)


def _about(context: CodecContext) -> bytes:
    """What a value is bound to; JSON, as no two contexts have the same."""
    about = [context.environment, str(context.run_id), context.task_id, context.part.value]
    return jsontext.dumps(["runlane", 1, *about, None if context.key is None else str(context.key.id)]).encode()


def _expand(secret: bytes, what: bytes) -> bytes:
    """A key of its own for each purpose, by BLAKE2b with a key (RFC 7693), which takes a third of what HMAC does."""
    return hashlib.blake2b(what, key=secret, digest_size=_KEY).digest()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _read(key: object) -> bytes:
    """The bytes of a master key, from wherever they are."""
    may_be_raw = True
    if isinstance(key, bytes):
        found, where = key, "the master key"
    elif isinstance(key, Path) or (isinstance(key, str) and key.startswith("file:")):
        path = key if isinstance(key, Path) else Path(key.removeprefix("file:"))
        where = f"the master key in {path}"
        try:
            found = path.read_bytes()
        except OSError as error:
            raise ConfigurationInvalid(f"{where} cannot be read: {error.strerror or error}") from error
    elif isinstance(key, str) and key.startswith("env:"):
        name = key.removeprefix("env:")
        where = f"the master key in the environment variable {name}"
        if not os.environ.get(name):
            raise ConfigurationInvalid(f"{where} is not set")
        found, may_be_raw = os.environ[name].encode("utf-8", "replace"), False
    else:  # not named: it may be the key itself
        raise ConfigurationInvalid("a master key is 32 bytes, 'env:NAME', 'file:PATH' or a Path")
    if may_be_raw and len(found) == _KEY:
        return found
    decoded = None if isinstance(key, bytes) else _decoded(found)
    if decoded is None:
        raise ConfigurationInvalid(
            f"{where} must be 32 bytes, or their base64 or hex; make one with openssl rand -hex 32"
        )
    return decoded


def _decoded(text: bytes) -> bytes | None:
    text = text.strip()
    for decode in (binascii.unhexlify, _from_base64):
        try:
            found = decode(text)
        except ValueError:
            continue
        if len(found) == _KEY:
            return found
    return None


def _from_base64(text: bytes) -> bytes:
    """Base64 of either alphabet."""
    return base64.b64decode(text.translate(bytes.maketrans(b"-_", b"+/")), validate=True)
