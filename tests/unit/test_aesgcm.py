"""Master keys: where they come from, and what is none."""

from __future__ import annotations

import base64
import sys
from pathlib import Path

import pytest

from runlane import AesGcm, ConfigurationInvalid

KEY = bytes(range(32))
HEX, BASE64, URL_SAFE = KEY.hex(), base64.b64encode(KEY).decode(), base64.urlsafe_b64encode(KEY).decode()


@pytest.mark.parametrize("text", [HEX, BASE64, URL_SAFE, f" {HEX}\n"])
def test_a_key_may_be_in_the_environment_or_in_a_file(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", text)
    file = tmp_path / "key"
    file.write_text(text)
    masters = {AesGcm(key).master for key in (KEY, "env:KEY", f"file:{file}", file)}
    assert len(masters) == 1
    file.write_bytes(KEY)
    assert {AesGcm(file).master} == masters


def test_a_key_is_not_shown() -> None:
    codec = AesGcm(KEY, bytes(32))
    assert HEX not in repr(codec)
    assert codec.master in repr(codec)


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        (KEY[1:], "must be 32 bytes"),
        (b"", "must be 32 bytes"),
        (HEX.encode(), "must be 32 bytes"),
        ("env:NO_SUCH_KEY", "NO_SUCH_KEY is not set"),
        ("env:SHORT_KEY", "SHORT_KEY must be 32 bytes"),
        ("file:/no/such/file", "cannot be read"),
        (Path("/"), "cannot be read"),
        (HEX, "a master key is 32 bytes, 'env:NAME'"),
        (None, "a master key is 32 bytes, 'env:NAME'"),
    ],
)
def test_what_is_no_key_is_refused(key: object, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHORT_KEY", "a passphrase of 32 characters...")
    with pytest.raises(ConfigurationInvalid, match=problem) as refused:
        AesGcm(key)  # type: ignore[arg-type]
    assert HEX not in str(refused.value)


def test_the_package_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "cryptography"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(ConfigurationInvalid, match=r"pip install 'runlane\[crypto\]'"):
        AesGcm(KEY)
