"""PostgreSQL: what the server and everybody else on it do to Runlane's tables."""

from __future__ import annotations

from typing import Any

from runlane.health import Bound, Check, Health, worst
from runlane.storage.health import Look
from runlane.storage.spans import counted, percent, some, span

#: The server stops writing a little before this age of a transaction id.
_IDS = 2**31
#: Tables whose rows are rewritten all the time.
_HOT = ("runs", "sessions", "maintainers", "outbox", "idempotency_keys", "schedules", "cursors", "queues")
_MAY_SEE = (
    "select rolsuper or pg_has_role(oid, 'pg_read_all_stats', 'usage') from pg_roles where rolname = current_user"
)
_HIDDEN = "grant pg_monitor to the role that looks: it sees only its own sessions"
# Only transactions of this database keep rows of its tables; a vacuum keeps none.
_OTHERS = """
    from pg_stat_activity where pid <> pg_backend_pid() and datname = current_database()
      and backend_type is distinct from 'autovacuum worker'"""
_OPEN = f"""
    select pid, usename, application_name, state, extract(epoch from clock_timestamp() - xact_start)::float8
    {_OTHERS} and xact_start is not null and (backend_xmin is not null or backend_xid is not null)
    order by xact_start limit 20"""
_IDLE = f"""
    select pid, usename, application_name, state, extract(epoch from clock_timestamp() - state_change)::float8
    {_OTHERS} and state like 'idle in transaction%%' order by state_change limit 20"""
_PREPARED = """
    select 'prepared transaction ' || gid, age(transaction), extract(epoch from clock_timestamp() - prepared)::float8,
      'rollback prepared ''' || gid || '''' from pg_prepared_xacts where database = current_database()"""
_SLOTS = """
    select 'replication slot ' || slot_name || case when active then '' else ' (nobody reads it)' end,
      greatest(age(xmin), age(catalog_xmin)), null::float8, 'select pg_drop_replication_slot(''' || slot_name || ''')'
    from pg_replication_slots where xmin is not null or catalog_xmin is not null"""
_REPLICAS = """
    select 'replica ' || coalesce(nullif(application_name, ''), host(client_addr), pid::text), age(backend_xmin),
      null::float8, 'end the long query there, or turn hot_standby_feedback off'
    from pg_stat_replication where backend_xmin is not null"""
_TABLES = """
    select relname, n_live_tup, n_dead_tup, n_tup_upd, n_tup_hot_upd,
      extract(epoch from clock_timestamp() - greatest(last_autovacuum, last_vacuum))::float8
    from pg_stat_all_tables where schemaname = %s and relname = any(%s)"""
_UNVACUUMED = """
    select relname from pg_class where relnamespace = (select oid from pg_namespace where nspname = %s)
      and relname = any(%s) and reloptions::text like '%%autovacuum_enabled=false%%'"""
_LOCKS = """
    select c.relname, l.mode, l.pid, a.usename, a.application_name, a.state,
      extract(epoch from clock_timestamp() - a.xact_start)::float8,
      (select count(*) from pg_locks w where w.relation = l.relation and w.database = l.database and not w.granted)
    from pg_locks l join pg_class c on c.oid = l.relation left join pg_stat_activity a on a.pid = l.pid
    where l.locktype = 'relation' and l.granted and l.pid <> pg_backend_pid()
      and l.database = (select oid from pg_database where datname = current_database())
      and c.relnamespace = (select oid from pg_namespace where nspname = %s) and c.relkind = 'r'
      and l.mode in ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
    order by a.xact_start limit 20"""
_CONNECTIONS = """
    select sum(numbackends)::int, current_setting('max_connections')::int,
      current_setting('superuser_reserved_connections')::int from pg_stat_database"""
_AGES = """
    select datname, age(datfrozenxid)::int8, mxid_age(datminmxid)::int8 from pg_database
    order by greatest(age(datfrozenxid), mxid_age(datminmxid)) desc limit 1"""


def server(look: Look) -> Check:
    """Which server it is, and whether it takes writes."""
    asked = (
        "select current_setting('server_version'), pg_is_in_recovery(), current_setting('transaction_read_only') = 'on'"
    )
    ((version, standby, read_only),) = look.asked(asked)
    values = {"version": version, "standby": standby, "read_only": read_only}
    if standby:
        told = f"PostgreSQL {version}, in recovery: a standby, where nothing can be triggered, claimed or finished"
        advice = "let the URL lead to the primary (`target_session_attrs=read-write` with several hosts), or promote it"
        return Check("server", Health.CRITICAL, told, advice, values)
    if read_only:
        told = f"PostgreSQL {version}; transactions are read-only by default, for this role or this database"
        return Check("server", Health.CRITICAL, told, "`alter role … reset default_transaction_read_only`", values)
    return Check("server", Health.OK, f"PostgreSQL {version}, a primary", None, values)


def settings(look: Look) -> Check:
    """Settings under which a crash loses what was committed, or which let the tables rot."""
    names = ("fsync", "full_page_writes", "autovacuum", "track_counts", "synchronous_commit")
    listed = ", ".join(f"current_setting('{name}')" for name in names)
    values: dict[str, Any] = dict(zip(names, look.asked(f"select {listed}")[0], strict=True))
    off = [name for name in names[:4] if values[name] == "off"]
    if off:
        harm = {
            "fsync": "a crash of the machine destroys the database",
            "full_page_writes": "a crash of the machine tears pages",
            "autovacuum": "dead rows are never removed",
            "track_counts": "autovacuum does not know where it is needed",
        }
        told = "; ".join(f"{name} is off: {harm[name]}" for name in off)
        advice = "; ".join(f"alter system set {name} = on" for name in off) + "; select pg_reload_conf()"
        return Check("settings", Health.CRITICAL, told, advice, values)
    asynchronous = values["synchronous_commit"] in ("off", "local")
    if asynchronous and look.database.chose_speed:
        told = "synchronous_commit is off, as this program has chosen: a crash may lose the last moments before it"
        return Check("settings", Health.OK, told, None, values)
    if asynchronous:
        lost = "a crash" if values["synchronous_commit"] == "off" else "a failover"
        told = f"synchronous_commit is {values['synchronous_commit']}: {lost} may lose what was acknowledged before it"
        advice = "`alter role … set synchronous_commit = on` for the role of this program, or `alter database`"
        return Check("settings", Health.WARNING, told, advice, values)
    return Check("settings", Health.OK, f"{some(names, 9)} are as they should be", None, values)


def transactions(look: Look) -> Check:
    """The oldest transaction that keeps dead rows from being removed."""
    bound = look.thresholds.transactions
    return _sessions(
        look, "transactions", look.asked(_OPEN), bound, "has a transaction open for", "keeps dead rows in all tables"
    )


def idle_transactions(look: Look) -> Check:
    """Who does nothing inside of a transaction."""
    bound = look.thresholds.idle_transactions
    found = look.asked(_IDLE)
    return _sessions(look, "idle_transactions", found, bound, "is idle in a transaction for", "may hold locks")


def _sessions(look: Look, name: str, found: list[Any], bound: Bound, does: str, harm: str) -> Check:
    """The check of sessions that do something for too long; the first one does it the longest."""
    sessions = [{"pid": row[0], "user": row[1], "application": row[2], "state": row[3], "age": row[4]} for row in found]
    oldest = float(found[0][4] or 0.0) if found else 0.0
    values = {"oldest": oldest, "sessions": sessions[:5]}
    status = bound.judge(_length(oldest, bound)) if found else Health.OK
    if status is not Health.OK:
        pid, user, application, state, age = found[0][:5]
        known = f"{user or 'unknown'}, {application or 'without a name'}, {state}"
        told = f"session {pid} ({known}) {does} {span(age)}, and {harm}"
        advice = f"`select pg_terminate_backend({pid})`, and an idle_in_transaction_session_timeout for its role"
        return Check(name, status, told, advice, values)
    if not look.asked(_MAY_SEE)[0][0]:
        told = "could not be looked at: this role may not see what other roles do"
        return Check(name, Health.WARNING, told, _HIDDEN, values)
    longest = f"the longest for {span(oldest)}" if sessions else "there is none"
    return Check(name, Health.OK, f"nobody {does} long: {longest}", None, values)


def _length(seconds: float, bound: Bound) -> Any:
    """Seconds as what the bound compares with."""
    return type(bound.warning)(seconds=seconds)


def horizon(look: Look) -> Check:
    """What else keeps dead rows: prepared transactions, replication slots, replicas that ask for it."""
    bound, by_time = look.thresholds.horizon, look.thresholds.transactions
    found = [row for statement in (_PREPARED, _SLOTS, _REPLICAS) for row in look.asked(statement)]
    judged = []
    for what, behind, age, fix in found:
        status = worst(bound.judge(behind), Health.OK if age is None else by_time.judge(_length(age, by_time)))
        judged.append((status.code, behind, what, age, fix, status))
    holders = [{"what": one[2], "transactions": one[1], "age": one[3]} for one in sorted(judged, reverse=True)]
    values = {"holders": holders[:5]}
    if not judged:
        told = "no prepared transaction, replication slot or replica keeps dead rows"
        return Check("horizon", Health.OK, told, None, values)
    _, behind, what, age, fix, status = max(judged)
    since = f", prepared {span(age)} ago" if age is not None else ""
    told = f"{what} keeps the dead rows of the last {counted(behind, 'transaction')}{since}"
    return Check("horizon", status, told, None if status is Health.OK else f"if nobody needs it: `{fix}`", values)


def dead_rows(look: Look) -> Check:
    """Rows that were rewritten and are not removed."""
    thresholds, ours = look.thresholds, (look.database.schema, list(_HOT))
    unvacuumed = sorted(row[0] for row in look.asked(_UNVACUUMED, ours))
    found, values = [], {}
    for name, live, dead, _, _, vacuumed in look.asked(_TABLES, ours):
        part = dead / (live + dead) if dead else 0.0
        values[name] = {"live": live, "dead": dead, "part": round(part, 3), "vacuumed": vacuumed}
        status = thresholds.dead_rows.judge(part) if dead >= thresholds.dead_rows_least else Health.OK
        found.append((status.code, dead, part, name, vacuumed, status))
    status = worst(*(one[-1] for one in found), *([Health.WARNING] if unvacuumed else []))
    if unvacuumed:
        told = f"autovacuum is turned off for {some(unvacuumed)}"
        advice = "; ".join(f'`alter table "{ours[0]}".{name} reset (autovacuum_enabled)`' for name in unvacuumed)
        return Check("dead_rows", status, told, advice, {"tables": values, "unvacuumed": unvacuumed})
    if not found:
        return Check("dead_rows", Health.OK, "there are no statistics yet", None, {"tables": values})
    _, dead, part, name, vacuumed, _ = max(found)
    since = "never vacuumed" if vacuumed is None else f"vacuumed {span(vacuumed)} ago"
    told = f"the most are in {name}: {counted(dead, 'dead row')}, {percent(part)} of all, {since}"
    if status is Health.OK:
        return Check("dead_rows", status, told, None, {"tables": values})
    advice = (
        f'end what keeps them (checks transactions and horizon), then `vacuum (verbose) "{ours[0]}".{name}`;'
        " if it comes again, let autovacuum do more (autovacuum_vacuum_cost_limit, autovacuum_max_workers)"
    )
    return Check("dead_rows", status, told, advice, {"tables": values})


def hot_updates(look: Look) -> Check:
    """How many heartbeats leave the indexes of sessions alone; those of runs are told of, as each step moves a run."""
    thresholds = look.thresholds
    parts: dict[str, float | None] = {}
    updates = {}
    for name, _, _, updated, hot, _ in look.asked(_TABLES, (look.database.schema, ["runs", "sessions"])):
        updates[name], parts[name] = updated, round(hot / updated, 3) if updated else None
    values = {"updates": updates, "parts": parts}
    told = ", ".join(f"{percent(part)} of those of {name}" for name, part in sorted(parts.items()) if part is not None)
    part = parts.get("sessions")
    enough = updates.get("sessions", 0) >= thresholds.hot_updates_least
    status = thresholds.hot_updates.at_most_warning().judge_low(part) if enough else Health.OK
    if status is Health.OK:
        told = f"updates that change no index: {told}" if told else "nothing has been updated yet"
        return Check("hot_updates", status, told, None, values)
    advice = (
        "an old transaction fills the pages (check transactions), or somebody has put an index on sessions.expires_at"
    )
    return Check("hot_updates", status, f"too few updates change no index: {told}", advice, values)


def locks(look: Look) -> Check:
    """Who has locked one of the tables against others."""
    bound = look.thresholds.locks
    found = look.asked(_LOCKS, (look.database.schema,))
    holders = [
        {"table": row[0], "mode": row[1], "pid": row[2], "application": row[4], "age": row[6], "waiting": row[7]}
        for row in found
    ]
    values = {"holders": holders[:5], "waiting": sum(row[7] for row in found)}
    old = [row for row in found if row[6] is not None and bound.judge(_length(row[6], bound)) is not Health.OK]
    if old:
        table, mode, pid, user, application, state, age, waiting = old[0]
        told = (
            f"session {pid} ({user or 'unknown'}, {application or 'without a name'}, {state}) has locked {table}"
            f" ({mode}) for up to {span(age)}; {counted(waiting, 'session')} wait for it"
        )
        advice = f"if it is no migration or rebuild at work: `select pg_terminate_backend({pid})`"
        return Check("locks", bound.judge(_length(age, bound)), told, advice, values)
    if any(row[6] is None for row in found):
        told = f"session {found[0][2]} has locked {found[0][0]} ({found[0][1]}), and this role may not see since when"
        return Check("locks", Health.WARNING, told, _HIDDEN, values)
    return Check("locks", Health.OK, "nobody has locked the tables against others for long", None, values)


def connections(look: Look) -> Check:
    """How many of the server's connections are in use."""
    ((used, most, reserved),) = look.asked(_CONNECTIONS)
    part = used / max(1, most - reserved)
    values = {"used": used, "max_connections": most, "reserved": reserved, "part": round(part, 3)}
    status = look.thresholds.connections.judge(part)
    told = f"{used} of {most - reserved} connections are in use ({percent(part)})"
    advice = "lower pool_size or the number of processes (docs/deployment.md), or raise max_connections"
    return Check("connections", status, told, None if status is Health.OK else advice, values)


def notifications(look: Look) -> Check:
    """How full the queue of notifications is; when it is full, commits that notify fail."""
    part = float(look.asked("select pg_notification_queue_usage()")[0][0])
    status = look.thresholds.notifications.judge(part)
    told = f"the queue of notifications is {percent(part)} full"
    advice = "a session that listens is stuck in a transaction: end it (checks transactions and idle_transactions)"
    return Check("notifications", status, told, None if status is Health.OK else advice, {"part": part})


def wraparound(look: Look) -> Check:
    """How far the oldest transaction ids of the server lie back."""
    ((name, ids, multixacts),) = look.asked(_AGES)
    part = max(ids, multixacts) / _IDS
    status = look.thresholds.wraparound.judge(part)
    values = {"database": name, "xid_age": ids, "multixact_age": multixacts, "part": round(part, 4)}
    told = f"{percent(part)} of all transaction ids lie between now and the oldest row (database {name})"
    advice = (
        f"end what keeps old rows (checks transactions and horizon), then `vacuum (freeze)` the oldest tables of {name}"
    )
    return Check("wraparound", status, told, None if status is Health.OK else advice, values)
