"""The short form of the tests, which ``make test`` runs in minutes, and the rest, which ``make test-long`` runs.

Both together are every test there is, apart from those of ``tests/chaos`` that only ``make chaos`` runs; CI runs both.
Without ``--tier`` pytest runs whatever it is asked for.

The short form holds every test function, except those that are named here and the races that show no invariant by its
number: what is left out are further cases of a function that differ in a seed, a row of a matrix, an operation or, in
most folders, the database.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from zlib import crc32

import pytest

TIERS = ("short", "long", "all")

#: Of each function in these folders and files the short form has one case in so many, at least one for each database.
SAMPLED = {
    # Documentation and examples are executed whole, and every module is looked at.
    "tests/acceptance/test_docs": 1,
    "tests/acceptance/test_examples.py": 1,
    "tests/storage/test_one_writer.py": 1,
    "tests/acceptance/test_cli_unread.py": 1000,
    "tests/acceptance/test_demo.py": 1000,
    "tests/acceptance/test_dev.py": 1000,
    "tests/acceptance/test_processes.py": 1000,
    "tests/defects/": 30,
    "tests/engine/test_interrupts.py": 1000,
    "tests/export/test_paths.py": 10,
    "tests/export/test_writing.py::test_the_last_steps": 10,
    "tests/faults/": 20,
    "tests/hostile/": 40,
    "tests/races/": 1000,
    "tests/simulation/test_simulation.py": 1000,
    "tests/acceptance/": 4,
    "tests/engine/": 4,
    "tests/export/": 4,
    "tests/health/": 4,
    "tests/sqs/": 4,
    "tests/storage/": 4,
}
#: Each function is on one database in the short form, in turns, and on the other one in the rest.  What a storage, a
#: transport and a lane promise is tested on both all the same (tests/conformance).
IN_TURNS = (
    "tests/acceptance/",
    "tests/engine/",
    "tests/export/",
    "tests/health/",
    "tests/hostile/",
    "tests/races/",
    "tests/sqs/",
    "tests/storage/",
    "tests/transport/",
)
#: The memory lane is SQLite without a file: in these folders the file is enough, where a function is given both.
ON_FILES = ("tests/engine/", "tests/export/", "tests/health/", "tests/hostile/", "tests/storage/")
#: Whole functions, or files, of the long form: each takes many seconds, and something shorter stands for it.
LONG = (
    # Every scenario, every peer, crowds of processes; the scenarios' own parts are tested one by one.
    "tests/acceptance/test_benchmarks.py::test_all_scenarios_run_and_tell_their_circumstances",
    "tests/acceptance/test_benchmarks.py::test_it_brings_its_own_postgres",
    "tests/acceptance/test_benchmarks.py::test_what_differs_by_database_runs_on_sqlite_too",
    "tests/acceptance/test_crowd.py",
    "tests/acceptance/test_peers.py",
    # Commands whose reader is gone: their errors and exit codes are in the short form, and work that goes on in others.
    "tests/acceptance/test_cli_unread.py::test_dev_goes_on",
    "tests/acceptance/test_cli_unread.py::test_output_that_has_no_room_is_told_and_the_work_is_done",
    "tests/acceptance/test_cli_unread.py::test_to_follow_ends_and_its_cursor_stays_before_what_nobody_saw",
    "tests/acceptance/test_cli_unread.py::test_what_was_found_is_in_the_exit_code",
    "tests/acceptance/test_cli_unread.py::test_work_is_done_to_its_end",
    # Killed processes are in the short form of the chaos, and writers at once in the races.
    "tests/acceptance/test_demo.py::test_killed_in_the_middle_it_finishes_at_the_next_start",
    "tests/acceptance/test_processes.py::test_a_killed_process_leaves_whole_batches_or_none",
    "tests/acceptance/test_processes.py::test_one_key_triggered_by_four_processes_at_once_makes_one_run",
    "tests/acceptance/test_processes.py::test_processes_that_write_at_once_lose_nothing_and_are_never_locked_out",
    "tests/acceptance/test_processes.py::test_a_second_signal_gives_even_a_deaf_run_back_at_once",
    "tests/acceptance/test_processes.py::test_a_second_signal_may_come_at_any_moment",
    "tests/acceptance/test_processes.py::test_a_stopping_worker_gives_a_long_run_back_and_leaves",
    # A demo is made, and started once more, in the short form.
    "tests/acceptance/test_demo.py::test_it_goes_on_and_says_so_where_its_output_has_no_room",
    "tests/acceptance/test_demo.py::test_a_report_that_cannot_be_written_is_told_and_made_at_a_later_start",
    "tests/acceptance/test_demo.py::test_a_report_that_is_gone_is_written_again",
    # The first start of each kind, and what is printed, is in the short form.
    "tests/acceptance/test_dev.py::test_a_failed_attempt_shows_where",
    "tests/acceptance/test_dev.py::test_a_program_that_fails_as_it_is_imported_ends_a_start_without_reloading",
    "tests/acceptance/test_dev.py::test_a_change_of_source_is_executed_and_broken_source_survived",
    "tests/acceptance/test_dev.py::test_a_second_interrupt_waits_for_no_attempt",
    "tests/acceptance/test_dev.py::test_an_attempt_that_does_not_end_is_queued_again_at_a_reload",
    "tests/acceptance/test_dev.py::test_a_memory_lane_is_told_in_the_first_line",
    "tests/acceptance/test_dev.py::test_an_interrupt_lets_attempts_end",
    "tests/acceptance/test_dev.py::test_nothing_is_left_when_the_watcher_is_killed",
    "tests/acceptance/test_dev.py::test_other_places_are_watched_where_they_are_named",
    "tests/acceptance/test_dev.py::test_tables_are_made_at_the_start",
    "tests/acceptance/test_dev.py::test_without_reloading_it_works_and_stops",
    "tests/acceptance/test_dev.py::test_without_watchfiles_it_says_how_to_get_it",
    "tests/acceptance/test_dev.py::test_what_folders_further_up_are_called_does_not_matter",
    # What the short form runs was installed from the same project file.
    "tests/acceptance/test_packaging.py",
    "tests/acceptance/test_cli_completion.py::test_bash_really_completes",
    # Whole programs about what the tests beside them try in this process.
    "tests/acceptance/test_cli_runs.py::test_a_narrow_terminal_gets_fewer_columns_rather_than_broken_ones",
    "tests/acceptance/test_cli_simulate.py::test_it_fits_a_terminal_of_a_hundred_columns",
    "tests/acceptance/test_cli_travel.py::test_a_timeline_reads_well_at_a_hundred_columns",
    "tests/acceptance/test_pytest_plugin.py::test_a_program_that_is_not_there_is_told_by_the_name_of_the_option",
    "tests/acceptance/test_pytest_plugin.py::test_without_a_program_the_fixture_says_what_to_configure",
    "tests/engine/test_capabilities.py::test_the_command_line_says_it_in_one_line",
    "tests/engine/test_interrupts.py::test_a_forked_child_waits_for_no_thread_of_its_parent",
    "tests/storage/test_sharing.py::test_a_process_that_cannot_reach_the_database_says_so",
    "tests/storage/test_sharing.py::test_ctrl_c_is_heard_by_the_caller_alone",
    "tests/storage/test_sharing.py::test_every_difference_is_found_wherever_it_is",
    "tests/storage/test_sharing.py::test_the_others_may_take_their_time",
    "tests/storage/test_sharing.py::test_what_moved_since_then",
    "tests/unit/test_benchmark_noise.py::test_a_report_is_one_page_with_its_plots",
    "tests/export/test_fixtures.py::test_the_written_module_is_a_test_that_runs",
    # The same corpus, another way in.
    "tests/hostile/test_async.py::test_a_payload_comes_back_equal_or_is_refused",
    "tests/hostile/test_files.py::test_any_value_in_any_place_of_a_checkpoint",
    "tests/hostile/test_files.py::test_any_value_in_any_place_of_a_proof",
    "tests/hostile/test_files.py::test_several_changes_at_once",
    "tests/hostile/test_messages.py::test_a_consumer_goes_past_whatever_stands_in_its_queue",
    "tests/hostile/test_files.py::test_any_value_in_any_place_of_the_data",
    "tests/hostile/test_handlers.py::test_nothing_of_an_exception_is_kept_where_failures_are_redacted",
    "tests/hostile/test_handlers.py::test_the_callers_thread_ends_every_attempt",
    # The same once more behind PgBouncer, which the short form of the chaos has too.
    "tests/conformance/test_pgbouncer.py",
    "tests/storage/test_pgbouncer.py",
    # Adapters that are wrong, and found; the suites themselves are in the short form.
    "tests/conformance/test_broken_adapters.py",
    "tests/conformance/test_documented.py::test_the_adapters_of_the_page_pass_their_suites",
    # 2,000 places of a log are changed; what verify says of single changes is in the short form.
    "tests/storage/test_digests.py::test_postgres_works_out_the_same",
    "tests/storage/test_digests.py::test_whatever_is_changed_at_random_is_found",
    "tests/storage/test_following.py::test_a_real_dump_restored_into_a_fresh_cluster",
    # Memory over a large export, and thousands of events told apart.
    "tests/export/test_importing.py::test_memory_does_not_grow_with_the_export",
    "tests/export/test_writing.py::test_memory_does_not_grow_with_the_log",
    "tests/unit/test_digests.py::test_no_two_events_have_the_same_bytes",
    # A rebuild under full load, a standby promoted, a reader beside writers, wakeups gone wild.
    "tests/health/test_cluster.py::test_a_standby_that_becomes_the_primary",
    "tests/races/test_log_order.py::test_invariant_15_a_reader_that_follows_the_log_misses_no_event",
    "tests/storage/test_rebuild_at_work.py",
    "tests/transport/test_metamorphic.py",
    # A million rows; SQLite's statements are explained in the short form too.
    "tests/plans/test_postgres.py",
    # The simulator notices planted defects, each of which it then makes small for seconds.
    "tests/simulation/test_simulation.py::test_it_finds_a_planted_defect",
    # What the harness does with its own processes and reports.
    "tests/chaos/test_short.py::test_nobody_outlives_who_started_the_chaos",
    "tests/chaos/test_short.py::test_sittings_add_up",
    # How failing histories are made small and long runs shared is no promise of the product, nor what mutants say.
    "tests/defects/test_defects.py::test_what_breaks_no_promise_is_not_called_killed",
    "tests/mutation/test_mutants.py::test_changes_that_no_test_comes_to_are_told_to_survive",
    "tests/mutation/test_mutants.py::test_every_change_is_another_module_that_compiles",
    "tests/simulation/test_simulation.py::test_a_seed_stands_for_one_course_of_things",
    "tests/stateful/test_episodes.py",
    "tests/stateful/test_shares.py",
    # `make check` has them.
    "tests/properties/test_simulation.py::test_how_much_is_in_memory_changes_nothing",
    "tests/unit/test_simulation.py::test_the_memory_is_the_same_however_many_runs_there_are",
    # Each change of every zone's clocks; what is missed around them is in the short form for zones drawn at random.
    "tests/zones/test_cron.py::test_a_daily_rule_fires_once_on_every_date_of_every_zone",
    "tests/zones/test_cron.py::test_occurrences_are_what_a_look_at_the_clock_every_minute_finds",
    "tests/zones/test_cron.py::test_missed_weeks_around_every_change_are_counted_exactly",
)
#: What stands in the short form for everything that has a command of its own, or a matrix.
SHORT_FORMS = {
    "the fault at the n-th statement": "tests/faults/test_nth.py::test_a_statement_that_fails_leaves_all_or_nothing",
    "make simulate": "tests/simulation/test_simulation.py::test_no_promise_is_broken",
    "make stateful": "tests/stateful/test_commands.py::test_2_500_steps_on_postgres",
    "make fuzz": "tests/hostile/test_operations.py::test_it_is_answered_or_refused_in_one_clear_error",
    "make defects": "tests/defects/test_defects.py::test_the_defect_is_killed",
    "make mutants": "tests/mutation/test_mutants.py::test_changes_of_the_waits_are_noticed_by_the_tests_about_them",
    "make chaos, on a file": "tests/chaos/test_short.py::test_killed_and_paused_processes_on_a_file_break_no_promise",
    "make chaos": "tests/chaos/test_short.py::test_killed_servers_and_cut_connections_break_no_promise",
    "make soak": "tests/chaos/test_soak.py::test_a_short_one_prunes_and_is_judged_over_the_whole_history",
    "make soak, what it judges": "tests/unit/test_growth.py",
    "runlane doctor": "tests/acceptance/test_cli_doctor.py",
}


def select(tier: str, items: Iterable[pytest.Item]) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """The tests of a tier, and the others, both in the order given.

    Args:
        tier: one of `TIERS`.
        items: all tests that were collected; what the short form holds depends on these.
    """
    collected = list(items)
    if tier == "all":
        return collected, []
    short = set(_short(collected))
    chosen = [item for item in collected if (item in short) == (tier == "short")]
    left = [item for item in collected if (item in short) != (tier == "short")]
    return chosen, left


def _short(items: list[pytest.Item]) -> Iterable[pytest.Item]:
    on = {lane: {_function(item) for item in items if lane in _case(item)} for lane in ("sqlite", "postgres")}
    seen = Counter[tuple[str, ...]]()
    for item in items:
        kind = _kind(item)
        one_in = next((n for folder, n in SAMPLED.items() if item.nodeid.startswith(folder)), 1)
        if item.nodeid.startswith(LONG) or _stands_back(item, on) or _names_no_invariant(item):
            continue
        seen[kind] += 1
        if (seen[kind] - 1) % one_in == 0:
            yield item


def _stands_back(item: pytest.Item, on: dict[str, set[str]]) -> bool:
    """Whether the same function on another lane, or with another seed, is enough."""
    case, function = _case(item), _function(item)
    if item.nodeid.startswith(ON_FILES) and "memory" in case:
        return function in on["sqlite"]
    if item.nodeid.startswith(IN_TURNS) and function in on["sqlite"] & on["postgres"]:
        return ("sqlite", "postgres")[crc32(function.encode()) % 2] in case
    return False


def _names_no_invariant(item: pytest.Item) -> bool:
    """Of the races the short form has those that show an invariant of SPEC section 17 by its number."""
    return item.nodeid.startswith("tests/races/") and "::test_invariant_" not in item.nodeid


def _kind(item: pytest.Item) -> tuple[str, ...]:
    """Cases that differ in more than their numbers are of different kinds."""
    return _function(item), *sorted(_case(item) & {"memory", "sqlite", "postgres", "delivering"})


def _function(item: pytest.Item) -> str:
    return item.nodeid.partition("[")[0]


def _case(item: pytest.Item) -> set[str]:
    """The words of a case's id: its lane is one of them."""
    return set(re.findall(r"\w+", item.nodeid.partition("[")[2]))
