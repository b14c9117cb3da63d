"""The forms of an event outside a database: the canonical line, and the formats made of it."""

from __future__ import annotations

import csv
import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runlane import ConfigurationInvalid, Runlane, SettableClock, codec
from runlane.events import Recorded
from runlane.export import formats, manifest
from runlane.export.aligning import Aligned, Differing
from runlane.export.formats import Envelope, Malformed
from runlane.storage.tables import instant_to_text
from tests import strategies
from tests.export.histories import OPTIONS, live, work
from tests.support import START, database_of, execute

RECORDS = st.builds(
    Recorded,
    st.uuids(),
    st.integers(1, 2**31 - 1),
    strategies.events,
    strategies.instants,
    strategies.identifiers,
    strategies.actors,
)


def envelope_of(record: Recorded) -> Envelope:
    stored = codec.encode(record.event)
    at = instant_to_text(record.occurred_at)
    return Envelope(
        str(record.stream_id),
        record.sequence,
        stored.type,
        stored.version,
        at,
        record.environment,
        record.actor.text,
        "0f" * 32,
        stored.data,
    )


@given(RECORDS)
def test_a_line_says_all_of_an_event(record: Recorded) -> None:
    event = envelope_of(record)
    line = formats.line(event)
    assert line.count(b"\n") == 1
    assert line.endswith(b',"data":' + event.data.encode() + b"}\n")
    assert formats.parse(line) == event
    assert formats.recorded(event) == record
    assert orjson.loads(line) == {name: getattr(event, name) for name in formats.FIELDS} | {
        "data": orjson.loads(event.data)
    }


SOUND = Envelope(
    "00000000-0000-0000-0000-000000000001", 1, "run.created", 1, instant_to_text(START), "e", "system:x", "", "{}"
)


@given(
    st.text(st.characters(exclude_categories=["Cs"]))
    | st.sampled_from(['{"a":1} ', '{"a":\n1}', ',"data":{}', "{", "NaN"])
)
def test_any_text_that_is_stored_comes_back(data: str) -> None:
    """Damaged data is evidence, and must not keep the rest from being exported."""
    event = Envelope(*[getattr(SOUND, name) for name in formats.FIELDS], data)
    line = formats.line(event)
    assert line.count(b"\n") == 1
    assert formats.parse(line) == event
    orjson.loads(line)


@given(strategies.text, strategies.text)
def test_no_field_is_taken_for_another(environment: str, actor: str) -> None:
    for nasty in ('","data":{}', ',"text":"', environment):
        event = Envelope(
            SOUND.stream_id, 1, nasty, 1, SOUND.occurred_at, nasty, actor, actor, '{"data":{"x":",\\"data\\":"}}'
        )
        assert formats.parse(formats.line(event)) == event


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"{}\n",
        b"null\n",
        formats.line(SOUND)[:-1],
        formats.line(SOUND).replace(b'"sequence":1', b'"sequence":true'),
        formats.line(SOUND).replace(b'"sequence":1', b'"sequence":1.0'),
        formats.line(SOUND).replace(b'"sequence":1', b'"sequence": 1'),
        formats.line(SOUND).replace(b'"version":1,', b""),
        formats.line(SOUND).replace(b'"data":{}', b'"data":{},"x":1'),
        formats.line(SOUND).replace(b'"data":{}', b'"text":"{}"'),
        formats.line(SOUND).replace(b"system", b"\xff\xff"),
    ],
)
def test_other_lines_are_refused(line: bytes) -> None:
    with pytest.raises(Malformed):
        formats.parse(line)


# Which lines differ.


@given(st.lists(st.integers(0, 40), unique=True, max_size=30), st.data())
def test_lines_are_aligned_again_behind_every_difference(wanted: list[int], data: st.DataObject) -> None:
    """Whatever was done to the lines: those that are reported are all that have to be, and equal files report none."""
    found = data.draw(st.lists(st.sampled_from([*wanted, 50, 51]), unique=True, max_size=30))
    differing = differences(wanted, found)
    assert (not differing) == (found == wanted)
    missing = sum(one.missing for one in differing)
    new = sum(one.is_new for one in differing)
    assert len(wanted) - missing + new == len(found)


def differences(wanted: list[int], found: list[int]) -> list[Differing[int]]:
    aligned = Aligned[int](iter([bytes([n]) for n in wanted]))
    told = [one for n in found for one in aligned.feed(bytes([n]), n)]
    return told + list(aligned.end())


def test_each_kind_of_difference_has_its_place() -> None:
    wanted = list(range(20))
    assert differences(wanted, [*range(5), 50, *range(6, 20)]) == [Differing(50)]
    assert differences(wanted, [*range(5), *range(6, 20)]) == [Differing(6, 1)]
    assert differences(wanted, [*range(5), *range(9, 20)]) == [Differing(9, 4)]
    assert differences(wanted, [*range(5), 50, 51, *range(5, 20)]) == [
        Differing(50, is_new=True),
        Differing(51, is_new=True),
    ]
    assert differences(wanted, wanted[:17]) == [Differing(None, 3)]
    assert differences(wanted, [*wanted, 50]) == [Differing(50, is_new=True)]


# The other formats.


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same history in every format, in an environment that a spreadsheet would calculate."""
    folder, clock = tmp_path_factory.mktemp("formats"), SettableClock()
    with Runlane("memory:", environment="=1+1", clock=clock, **OPTIONS) as app:
        live(app, clock)
        for format in formats.FORMATS:
            app.audit.export(folder / format, format)
    return folder


def events_of(history: Path) -> list[Envelope]:
    return [formats.parse(line) for line in (history / "jsonl").read_bytes().splitlines(keepends=True)]


def test_every_manifest_names_the_same_events(history: Path) -> None:
    told = [manifest.read(history / format) for format in formats.FORMATS]
    assert len({one.events_sha256 for one in told}) == 1
    assert len({one.sha256 for one in told}) == len(told)
    assert [one.format for one in told] == list(formats.FORMATS)
    assert [one.lines_sha256 is not None for one in told] == [one.format == "jsonl" for one in told]
    assert not (history / "csv.lines").exists()


def test_csv_has_the_envelopes_and_no_formula(history: Path) -> None:
    with (history / "csv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == [*formats.FIELDS, "data"]
    wanted = [[str(getattr(event, name)) for name in header] for event in events_of(history)]
    for row in wanted:
        assert row[header.index("environment")] == "=1+1"
        row[header.index("environment")] = "'=1+1"
    assert rows == wanted
    assert not [cell for row in rows for cell in row if cell[:1] in "=+-@\t\r"]


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@x", "\t=1", "\r=1"])
def test_what_a_spreadsheet_would_calculate_is_text(text: str) -> None:
    assert formats._cell(text) == "'" + text
    assert formats._cell("a" + text) == "a" + text
    assert formats._cell(-1) == -1


def test_cloudevents_have_what_the_specification_asks_for(history: Path) -> None:
    found = [json.loads(line) for line in (history / "cloudevents").read_bytes().splitlines()]
    for one, event in zip(found, events_of(history), strict=True):
        assert one == {
            "specversion": "1.0",
            "id": f"{event.stream_id}:{event.sequence}",
            "source": "/runlane/%3D1%2B1",
            "type": f"runlane.{event.type}.v{event.version}",
            "subject": event.stream_id,
            "time": event.occurred_at,
            "sequence": str(event.sequence),
            "sequencetype": "Integer",
            "actor": event.actor,
            "datacontenttype": "application/json",
            "data": json.loads(event.data),
        }
        assert all(name.islower() and name.isalnum() for name in one)
    assert len({one["id"] for one in found}) == len(found)


def test_parquet_has_the_envelopes_in_row_groups(
    history: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow.parquet as parquet

    found = parquet.read_table(history / "parquet")
    assert found.column_names == [*formats.FIELDS, "data"]
    rows: list[dict[str, Any]] = found.to_pylist()
    for row, event in zip(rows, events_of(history), strict=True):
        assert instant_to_text(row.pop("occurred_at")) == event.occurred_at
        assert row == {name: getattr(event, name) for name in row}
    monkeypatch.setattr(formats, "_ROW_GROUP", 10)
    with (history / "jsonl").open("rb") as lines:
        formats.convert("parquet", lines, tmp_path / "groups")
    told = parquet.ParquetFile(tmp_path / "groups").metadata
    assert told.num_row_groups == -(-len(rows) // 10)
    assert parquet.read_table(tmp_path / "groups").equals(found)


def test_parquet_takes_little_data_at_once(history: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet as parquet

    events = list(events_of(history))
    most = 3 * max(len(event.data) for event in events)
    monkeypatch.setattr(formats, "_GROUP_DATA", most)
    with (history / "jsonl").open("rb") as lines:
        formats.convert("parquet", lines, tmp_path / "groups")
    file = parquet.ParquetFile(tmp_path / "groups")
    sizes = [
        sum(len(data) for data in file.read_row_group(n).column("data").to_pylist())
        for n in range(file.metadata.num_row_groups)
    ]
    assert max(sizes) <= most
    assert all(one + other > most for one, other in pairwise(sizes)), "no more groups than that takes"
    assert parquet.read_table(tmp_path / "groups").equals(parquet.read_table(history / "parquet"))
    monkeypatch.setattr(formats, "_GROUP_DATA", 1)
    with (history / "jsonl").open("rb") as lines:
        formats.convert("parquet", lines, tmp_path / "single")
    assert parquet.ParquetFile(tmp_path / "single").metadata.num_row_groups == len(events)


def test_parquet_without_its_package_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, module, None)
    with Runlane("memory:") as app:
        with pytest.raises(ConfigurationInvalid, match=r"needs a package: pip install 'runlane\[parquet\]'"):
            app.audit.export(tmp_path / "log", "parquet")
    assert list(tmp_path.iterdir()) == []


def test_damaged_data_is_exported_as_the_text_it_is(tmp_path: Path, sqlite_url: str) -> None:
    with Runlane(sqlite_url, **OPTIONS) as app:
        app.trigger(work, 1)
        execute(database_of(app), "drop trigger events_refuse_update")
        execute(database_of(app), "update {events} set data = '{{broken' || char(10) where sequence = 2")
        for format in formats.FORMATS:
            app.audit.export(tmp_path / format, format)
    assert json.loads((tmp_path / "jsonl").read_bytes().splitlines()[1])["text"] == "{broken\n"
    one = json.loads((tmp_path / "cloudevents").read_bytes().splitlines()[1])
    assert (one["data"], one["datacontenttype"]) == ("{broken\n", "text/plain")
