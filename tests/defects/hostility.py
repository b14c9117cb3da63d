"""Defects of what strangers send, and of what is told to strangers."""

from __future__ import annotations

from tests.defects.defect import Defect

DEFECTS = [
    Defect(
        "hostile: what was to be stored stands in the cause of the error",
        "runlane/storage/direct.py",
        "text, parameters, error, self._driver.Error, hide_parameters=True, dialect=self._dialect",
        "text, parameters, error, self._driver.Error, dialect=self._dialect",
        "tests/hostile/test_secrets.py::test_what_the_database_refuses_to_store_is_not_told[sqlite-sync]",
        "no payload is in a log",
    ),
    Defect(
        "hostile: what was to be stored stands in the cause of PostgreSQL's error",
        "runlane/storage/database.py",
        "                hide_parameters=True,",
        "                hide_parameters=False,",
        "tests/hostile/test_secrets.py::test_what_the_database_refuses_to_store_is_not_told[postgres-sync]",
        "no payload is in a log",
        postgres=True,
    ),
    Defect(
        "hostile: a row that PostgreSQL has refused stands in the cause of its error",
        "runlane/storage/faults.py",
        '_QUOTED.sub("", part) if isinstance(part, str) else part',
        "part",
        "tests/hostile/test_secrets.py::test_what_postgresql_quotes_of_a_row_is_not_told[idempotency_keys]",
        "no key is in a log",
        postgres=True,
    ),
    Defect(
        "hostile: the log of attempts carries payloads",
        "runlane/trips.py",
        "    before: Run = field(repr=False)",
        "    before: Run = field()",
        "tests/hostile/test_secrets.py::test_logs_and_listeners_hear_of_ids_and_codes_only[sync]",
        "no payload is in a log",
        postgres=True,
    ),
    Defect(
        "hostile: a password in the options of a URL is told",
        "runlane/storage/urls.py",
        '    if "@" in options:',
        '    if "@" in scheme:',
        "tests/hostile/test_commands.py::test_no_error_shows_the_password_of_a_connection",
        "no password is in an error",
    ),
    Defect(
        "hostile: a log is given what strangers sent",
        "runlane/shown.py",
        "isinstance(text, str) and len(text) <= _LONGEST and text.isprintable() else shown(text)",
        "isinstance(text, str) else shown(text)",
        "tests/hostile/test_wakeups.py::test_an_event_that_is_none_is_refused",
        "a log is legible whatever was sent",
    ),
    Defect(
        "hostile: a notice that is no list ends the listener",
        "runlane/transport/notify.py",
        "        except (ValueError, TypeError, RecursionError):",
        "        except ValueError:",
        "tests/hostile/test_wakeups.py::test_a_notice_never_raises",
        "strangers on the channel make nobody deaf",
    ),
    Defect(
        "hostile: an answer of SQS about something else is taken to heart",
        "runlane/sqs/batches.py",
        "isinstance(told, str) and told in known:",
        "isinstance(told, str):",
        "tests/hostile/test_messages.py::test_each_wakeup_has_an_outcome_whatever_is_answered",
        "11: a pending outbox row is eventually published or dead-lettered",
    ),
    Defect(
        "hostile: an exception that cannot be described ends the thread",
        "runlane/executor.py",
        "        except BaseException:",
        "        except ValueError:",
        "tests/hostile/test_handlers.py::test_the_callers_thread_ends_every_attempt[sqlite-raises]",
        "a handler may raise anything: its attempt ends",
    ),
    Defect(
        "hostile: the async face makes text of whatever an id is",
        "runlane/aio_operators.py",
        "        return await self._call(self._sync.events, id)",
        "        return await self._call(self._sync.events, str(id))",
        "tests/hostile/test_async.py::test_a_call_is_answered_or_refused_as_by_the_sync_face[runs.events]",
        "both faces answer alike",
    ),
]
