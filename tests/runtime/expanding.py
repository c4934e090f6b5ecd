"""What a migration takes away from the release that knows the schema before it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg

LITERAL = re.compile(r"'([^']*)'")
# What ON CONFLICT relies on, as opposed to what only refuses rows.
KEYS = frozenset("pux")

_RELATIONS: LiteralString = """
    SELECT relname FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'S', 'v')"""
_COLUMNS: LiteralString = """
    SELECT table_name, column_name, udt_name, is_nullable = 'NO' AS required,
           column_default IS NOT NULL OR is_identity = 'YES' OR is_generated = 'ALWAYS' AS filled
    FROM information_schema.columns WHERE table_schema = 'public'"""
_CONSTRAINTS: LiteralString = """
    SELECT conrelid::regclass::text, conname, contype::text, pg_get_constraintdef(oid),
           ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = conrelid AND attnum = ANY(conkey))
    FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace AND conrelid <> 0 AND contype IN ('c', 'f', 'p', 'u', 'x')"""
_UNIQUE: LiteralString = """
    SELECT indrelid::regclass::text, indexrelid::regclass::text, pg_get_indexdef(indexrelid)
    FROM pg_index JOIN pg_class ON pg_class.oid = indrelid
    WHERE indisunique AND relnamespace = 'public'::regnamespace"""
_TRIGGERS: LiteralString = "SELECT tgrelid::regclass::text, tgname FROM pg_trigger WHERE NOT tgisinternal"

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class ColumnKind:
    """`filled`: whoever says nothing of it gets a value all the same."""

    kind: str
    required: bool
    filled: bool


@dataclass(frozen=True, slots=True)
class Constraint:
    kind: str
    definition: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Schema:
    """What a release relies on."""

    relations: frozenset[str]
    columns: dict[Key, ColumnKind]
    constraints: dict[Key, Constraint]
    unique: dict[Key, str]
    triggers: frozenset[Key]


def schema_of(database_url: str) -> Schema:
    """What is in a database, without Alembic's own table."""
    with psycopg.connect(database_url) as connection:

        def rows(query: LiteralString) -> list[tuple[Any, ...]]:
            return [row for row in connection.execute(query).fetchall() if row[0] != "alembic_version"]

        return Schema(
            frozenset(name for (name,) in rows(_RELATIONS)),
            {(table, name): ColumnKind(*rest) for table, name, *rest in rows(_COLUMNS)},
            {
                (table, name): Constraint(kind, definition, tuple(columns))
                for table, name, kind, definition, columns in rows(_CONSTRAINTS)
            },
            {(table, name): definition for table, name, definition in rows(_UNIQUE)},
            frozenset((table, name) for table, name in rows(_TRIGGERS)),
        )


def takes_away(before: Schema, after: Schema) -> list[str]:
    """Everything by which a release that knows `before` may fail on `after`; nothing, if it only expands."""
    return [
        *(f"drops {name}" for name in sorted(before.relations - after.relations)),
        *_of_columns(before, after),
        *_of_constraints(before, after),
        *_of_unique_indexes(before, after),
        *(f"adds trigger {name} to {table}" for table, name in sorted(after.triggers - before.triggers)),
    ]


def _of_columns(before: Schema, after: Schema) -> Iterator[str]:
    for (table, name), was in before.columns.items():
        now = after.columns.get((table, name))
        where = f"{table}.{name}"
        if now is None:
            yield f"drops or renames {where}"
            continue
        if now.kind != was.kind:
            yield f"makes {where} {now.kind} of {was.kind}"
        if now.required and not was.required:
            yield f"makes {where} NOT NULL"
        if was.filled and not now.filled:
            yield f"takes the default of {where} away"
    for table, name in sorted(after.columns.keys() - before.columns.keys()):
        added = after.columns[table, name]
        if table in before.relations and added.required and not added.filled:
            yield f"adds {table}.{name} NOT NULL without a default"


def _of_constraints(before: Schema, after: Schema) -> Iterator[str]:
    for (table, name), was in before.constraints.items():
        now = after.constraints.get((table, name))
        if now is None:
            if was.kind in KEYS:
                yield f"drops {name} of {table}"
        elif now.definition != was.definition and not only_longer(was.definition, now.definition):
            yield f"changes {name} of {table}"
    for table, name in sorted(after.constraints.keys() - before.constraints.keys()):
        added = after.constraints[table, name]
        known = any((table, column) in before.columns for column in added.columns)
        if table in before.relations and (known or not added.columns):
            yield f"adds constraint {name} to {table}"


def _of_unique_indexes(before: Schema, after: Schema) -> Iterator[str]:
    known = before.constraints.keys() | after.constraints.keys()
    for (table, name), was in before.unique.items():
        if (table, name) not in known and after.unique.get((table, name)) != was:
            yield f"drops unique index {name}"
    for table, name in sorted(after.unique.keys() - before.unique.keys() - known):
        if table in before.relations:
            yield f"adds unique index {name} to {table}"


def only_longer(was: str, now: str) -> bool:
    """Whether a CHECK allows the same values as before and some more."""
    lists = re.compile(r"= ANY \(\(?ARRAY\[[^\]]*\]")
    alike = lists.sub("list", was) == lists.sub("list", now)
    found = [[set(LITERAL.findall(part)) for part in lists.findall(text)] for text in (was, now)]
    return alike and all(old <= new for old, new in zip(*found, strict=True))
