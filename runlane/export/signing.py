"""Signing manifests with Ed25519: keys are PEM files, as ``openssl genpkey -algorithm ed25519`` makes them."""

from __future__ import annotations

import base64
import binascii
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runlane.errors import ConfigurationInvalid
from runlane.values import file_path

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


class Signer:
    """A private key.

    Args:
        path: its PEM file (PKCS 8), not encrypted.

    Raises:
        ConfigurationInvalid: it cannot be read, it is of another kind, or the package ``cryptography`` is missing.
    """

    def __init__(self, path: str | Path) -> None:
        primitives = _primitives()
        try:
            key = primitives.serialization.load_pem_private_key(_bytes(path), None)
        except (ValueError, TypeError, primitives.UnsupportedAlgorithm) as error:  # a TypeError: there is a password
            raise ConfigurationInvalid(f"{path} is no unencrypted private key in PEM: {error}") from error
        if not isinstance(key, primitives.ed25519.Ed25519PrivateKey):
            raise ConfigurationInvalid(f"{path} is no Ed25519 key; make one with openssl genpkey -algorithm ed25519")
        self._key = key
        self.fingerprint = fingerprint(key.public_key())

    def sign(self, data: bytes) -> str:
        """The signature of `data`, base64."""
        return base64.b64encode(self._key.sign(data)).decode()


class Checker:
    """A public key.

    Args:
        path: its PEM file, as ``openssl pkey -pubout`` makes it.

    Raises:
        ConfigurationInvalid: it cannot be read, it is of another kind, or the package ``cryptography`` is missing.
    """

    def __init__(self, path: str | Path) -> None:
        primitives = _primitives()
        try:
            key = primitives.serialization.load_pem_public_key(_bytes(path))
        except (ValueError, primitives.UnsupportedAlgorithm) as error:
            raise ConfigurationInvalid(f"{path} is no public key in PEM: {error}") from error
        if not isinstance(key, primitives.ed25519.Ed25519PublicKey):
            raise ConfigurationInvalid(f"{path} is no Ed25519 key")
        self._key = key
        self._invalid = primitives.InvalidSignature
        self.fingerprint = fingerprint(key)

    def holds(self, data: bytes, signature: str) -> bool:
        """Whether `signature` is this key's over `data`."""
        try:
            self._key.verify(base64.b64decode(signature, validate=True), data)
        except (self._invalid, binascii.Error, ValueError):
            return False
        return True


def fingerprint(key: Ed25519PublicKey) -> str:
    """SHA-256 (hex) of a public key in DER, as ``openssl pkey -pubin -outform DER | sha256sum`` prints it."""
    encoding = _primitives().serialization
    der = key.public_bytes(encoding.Encoding.DER, encoding.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def _bytes(path: str | Path) -> bytes:
    place = file_path("a key", path)
    try:
        return place.read_bytes()
    except (OSError, ValueError) as error:
        raise ConfigurationInvalid(f"the key {path} cannot be read: {_why(error)}") from error


class _Primitives:
    """The parts of the package ``cryptography`` that are used here."""

    def __init__(self) -> None:
        from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519

        self.InvalidSignature = InvalidSignature
        self.UnsupportedAlgorithm = UnsupportedAlgorithm
        self.serialization: Any = serialization
        self.ed25519 = ed25519


def _primitives() -> _Primitives:
    try:
        return _Primitives()
    except ImportError:
        raise ConfigurationInvalid("signatures need a package: pip install 'runlane[crypto]'") from None


def _why(error: OSError | ValueError) -> str:
    return str(getattr(error, "strerror", None) or error)
