"""PostgreSQL: the statements that find due runs and lease them.

Per queue and branch a lateral join, so that each reads its own index in order and stops after as many rows as are
wanted.  What waits is read level by level of priority: within one, runs that are not yet due come last and never lie
in the way.  What is locked beyond the overall limit is free again at the transaction's commit, which follows at once.
"""

from __future__ import annotations

from runlane.storage import given_up, rows

#: One more than the highest priority.
ABOVE_ALL = 32768
#: What a claim returns of each run: ``rows.LEASED``, then its first event's version and data.
_ORDER = "priority desc, due_at, id"
#: Only what nobody else has locked, and locked from now on.
_UNLOCKED = " for update skip locked"
_JSON = frozenset({"failure", "reservation", "cancellation"})


def flat(statement: str) -> str:
    """The statement on one line: the driver remembers how to send only those of up to 4,096 characters."""
    return " ".join(statement.split())


def digest(schema: str, *given: str) -> str:
    """The digest of an event: of the one before it, and of the expressions of its eight columns."""
    return f"{schema}.event_digest({', '.join(given)})"


def _best(schema: str) -> str:
    """The CTE ``best`` and what it needs.  Parameters: now (else the moment of the statement), queues, session,
    environment, the stretches' five columns, environment twice, tasks, limit, environment, tasks, limit, limit."""
    queued, waiting = "status = 'queued'", "status in ('scheduled', 'released', 'retrying')"
    highest = f"""(
            select priority from {schema}.runs
            where environment = %t and queue = name and {waiting} and priority < {{below}}
            order by priority desc limit 1)"""
    # The two bounds and the row comparison are one place in the index, where the walk begins (see floors.py).
    queued += " and priority between lowest and highest and (due_at, id) > (due, behind)"
    candidate = f"""
          select r.* from {{source}} cross join lateral (
            select {{columns}} from {schema}.runs
            where environment = %t and queue = name and {{status}} and due_at <= (select at from clock)
            and task_id = any(%b::text[]) order by {_ORDER} limit %b{_UNLOCKED}
          ) r"""
    return f"""
        clock as materialized (
          select coalesce(%b::timestamptz, clock_timestamp()) as at
        ), names as materialized (
          select name from unnest(%b::text[]) q(name)
          where exists (select 1 from {schema}.sessions where id = %b::uuid)
          and not exists (select 1 from {schema}.queues c where c.environment = %t and c.name = q.name and paused)
        ), stretches as materialized (
          select name, highest, lowest, coalesce(due, '-infinity') as due, behind
          from unnest(%b::text[], %b::smallint[], %b::smallint[], %b::timestamptz[], %b::uuid[])
            s(name, highest, lowest, due, behind)
          where name in (select name from names)
        ), levels (name, level) as (
          select name, {highest.format(below=ABOVE_ALL)} from names
          union all
          select name, {highest.format(below="level")} from levels where level is not null
        ), candidates as materialized (
          select * from ({candidate.format(source="stretches", status=queued, columns="{columns}")}) queued
          union all
          select * from ({
        candidate.format(source="levels", status=waiting + " and priority = level", columns="{columns}")
    }) waiting
        ), best as materialized (
          select * from candidates order by {_ORDER} limit %b
        )"""


def _first(schema: str, of: str) -> str:
    """Joins the first event of each run, one by one whatever the planner believes about how many there are."""
    return f"""cross join lateral (
          select version, data from {schema}.events where stream_id = {of}.id and sequence = 1 limit 1
        ) e"""


def lock_due(schema: str) -> str:
    """Due runs of unlimited queues, locked."""
    read = ", ".join(f"c.{column}::text" if column in _JSON | {"status"} else f"c.{column}" for column in rows.READ)
    return flat(f"""
        with recursive {_best(schema).format(columns="*")}
        select {read}, e.version, e.data::text from best c {_first(schema, "c")}
        order by {_ORDER.replace("priority", "c.priority").replace("due_at", "c.due_at").replace(", id", ", c.id")}""")


def any_due(schema: str) -> str:
    """The best due run of unlimited queues, locked or not."""
    best = _best(schema).format(columns="id, priority, due_at").replace(_UNLOCKED, "")
    return flat(f"with recursive {best} select 1 from best")


def claim(schema: str, with_ends: bool = False) -> str:
    """Due runs of unlimited queues, leased: what ``decisions.lease`` decides and the fold makes of it, in one
    statement.

    Further parameters: event version, environment, actor, and the event's data before and after the number of the
    attempt; session, worker.

    Args:
        with_ends: runs end beside it, with the parameters of ``finish`` behind all others, and its answer is the first
            column; there is a row then if nothing was found, too.
    """
    at = "greatest(r.updated_at, (select at from clock))"
    read = ", ".join(f"u.{column}::text" if column in _JSON else f"u.{column}" for column in rows.LEASED)
    data = "before || (r.attempt_count + 1) || behind"
    told = digest(schema, "r.digest", "r.id", "r.sequence + 1", "type", "version", at, "t.environment", "actor", data)
    found = f"u {_first(schema, 'u')}"
    ends, late = (f", {_ends(schema)}", f"({_LATE}), ") if with_ends else ("", "")
    return flat(f"""
        with recursive {_best(schema).format(columns="id, priority, due_at")}, terms as materialized (
          select 'run.leased' as type, %b::smallint as version, %b::text as environment, %b::text as actor,
            %b::text as before, %b::text as behind
        ), u as (
          update {schema}.runs r set status = 'running', sequence = r.sequence + 1, updated_at = {at}, due_at = null,
            run_at = null, started_at = coalesce(r.started_at, {at}), attempt_count = r.attempt_count + 1,
            lease_session_id = %b::uuid, lease_worker_id = %b::text, leased_at = {at}, reservation = null,
            digest = {told}
          from best b cross join terms t where r.id = b.id
          returning {", ".join(f"r.{column}" for column in rows.LEASED)}, r.digest, b.priority, b.due_at
        ), leased as (
          insert into {schema}.events
            (stream_id, sequence, type, version, occurred_at, environment, actor, data, digest)
          select id, sequence, type, version, updated_at, environment, actor, (before || attempt_count || behind)::json,
            digest
          from u cross join terms
        ){ends}
        select {late}{read}, e.version, e.data::text, u.due_at
        from {f"(select 1) one left join ({found}) on true" if with_ends else found}
        order by {_ORDER.replace("priority", "u.priority").replace("due_at", "u.due_at").replace(", id", ", u.id")}""")


#: Which runs were not ended, given how many were to be: null if all were, else those that were.
_LATE = "select case when count(*) < %b::int then coalesce(array_agg(id), '{}') end from ended"


def _ends(schema: str) -> str:
    """The CTE ``ended`` and what it needs but the clock: what the fold makes of ``run.succeeded``."""
    at = "greatest(r.updated_at, (select at from clock))"
    told = digest(
        schema, "r.digest", "r.id", "r.sequence + 1", "type", "version", at, "t.environment", "actor", "d.data"
    )
    return f"""
        said as materialized (
          select 'run.succeeded' as type, %b::smallint as version, %b::text as environment, %b::text as actor
        ), ended as (
          update {schema}.runs r set status = 'succeeded', sequence = r.sequence + 1, updated_at = {at}, due_at = null,
            run_at = null, finished_at = {at}, failure = null, lease_session_id = null, lease_worker_id = null,
            leased_at = null, digest = {told}
          from unnest(%b::uuid[], %b::int[], %b::text[]) d (id, expected, data) cross join said t
          where r.id = d.id and r.sequence = d.expected
          returning r.id, r.sequence, r.updated_at, d.data, r.digest
        ), tell as (
          insert into {schema}.events
            (stream_id, sequence, type, version, occurred_at, environment, actor, data, digest)
          select id, sequence, type, version, updated_at, environment, actor, data::json, digest
          from ended cross join said
        )"""


def finish(schema: str) -> str:
    """Leased runs that succeed at the moment of the statement, each if its sequence is the expected one.

    Parameters: event version, environment, actor; ids, expected sequences, data; how many these are.
    """
    return flat(f"""
        with clock as materialized (select clock_timestamp() as at), {_ends(schema)}
        {_LATE}""")


def lock_due_in(schema: str, reserving: bool = False) -> str:
    """Of bounded queues: per partition and level of priority a lateral join, so that each stops at its room.

    Runs with a key have one index for all statuses; those without share theirs with the other keys' runs.
    """
    unless = f" and {given_up.unrejected(schema + '.')}" if reserving else ""
    runs = f"select {{what}} from {schema}.runs where environment = %t and queue = {{of}}.queue and {{which}}"
    keyed = "{of}.key = concurrency_key and due_at is not null"
    queued = "concurrency_key is null and status = 'queued'"
    waiting = "concurrency_key is null and status in ('scheduled', 'released', 'retrying')"

    def levels(name: str, which: str, parts: str) -> str:
        highest = runs.format(what="max(priority)", of="{of}", which=which + " and priority < {below}")
        first, next_ = highest.format(of="p", below=ABOVE_ALL), highest.format(of="l", below="l.level")
        return f"""{name} (queue, key, room, level) as (
              select queue, key, room, ({first}) from parts p where {parts}
              union all
              select queue, key, room, ({next_}) from {name} l where level is not null
            )"""

    def due(of: str, which: str, condition: str) -> str:
        best = runs.format(what="id, priority, due_at", of=of, which=which.format(of=of))
        return f"""
              select {of}.queue, {of}.key, r.* from {condition} cross join lateral (
                {best} and reservation is null{unless} and due_at <= %b and task_id = any(%b::text[])
                order by priority desc, due_at, id limit {of}.room for update skip locked
              ) r"""

    return f"""
            with recursive parts as materialized (
              select * from unnest(%b::text[], %b::text[], %b::int[]) p (queue, key, room)
            ), {levels("keyed", keyed, "key is not null")}, {levels("waiting", waiting, "key is null")},
            candidates as materialized (
              {due("l", keyed + " and priority = l.level", "keyed l")}
              union all
              {due("p", queued, "(select * from parts where key is null) p")}
              union all
              {due("l", waiting + " and priority = l.level", "waiting l")}
            )
            select id, queue, key from candidates order by priority desc, due_at, id"""
