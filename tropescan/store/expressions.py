"""Expressions that users write, kept to expressions: parsed by DuckDB, checked node by node, run where nothing but their table can be reached.

An expression is allowed for what it is made of, not refused for what it must not hold: a node or function that is not listed here is an error.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import Any

import duckdb
import orjson
import pyarrow as pa

from tropescan.errors import RuleError

_NAMES = (
    "+ - * / // % ** ^ || ~~ !~~ ~~* !~~* like_escape not_like_escape ilike_escape not_ilike_escape "
    "abs round floor ceil ceiling trunc sqrt ln log log2 log10 exp pow power sign least greatest isnan isfinite "
    "lower upper length substr substring left right trim ltrim rtrim split_part concat starts_with ends_with prefix suffix contains "
    "regexp_matches regexp_full_match regexp_extract if ifnull nullif md5 md5_number_lower"
)
FUNCTIONS = frozenset(_NAMES.split())
"""Scalar functions and operators of DuckDB that read nothing but their arguments and give the same every time."""

_NODES = {
    "CONJUNCTION",
    "COMPARISON",
    "CONSTANT",
    "COLUMN_REF",
    "OPERATOR",
    "BETWEEN",
    "CASE",
    "CAST",
    "FUNCTION",
    "TYPE",
}
_OPERATORS = {
    *("OPERATOR_NOT", "OPERATOR_IS_NULL", "OPERATOR_IS_NOT_NULL", "OPERATOR_COALESCE", "OPERATOR_NULLIF"),
    *("COMPARE_IN", "COMPARE_NOT_IN"),
}
_CLAUSES = ("modifiers", "where_clause", "group_expressions", "group_sets", "having", "sample", "qualify")
_NUMBERS = ("INT", "DOUBLE", "FLOAT", "DECIMAL", '"NULL"')


def expression(text: str, columns: dict[str, str], wanted: str) -> str:
    """The SQL of one checked expression over `columns` (name: DuckDB type), as DuckDB writes it.

    `wanted` is what it has to give: 'boolean' or 'number'. Raises RuleError.
    """
    if not text.strip():
        raise RuleError("the rule is empty")
    with _locked() as c:
        try:
            given = c.execute("SELECT json_serialize_sql(?)", [f"SELECT ({text}\n)"]).fetchone()
            tree = orjson.loads(given[0] if given else "{}")
        except (duckdb.Error, orjson.JSONDecodeError, UnicodeEncodeError) as error:
            raise RuleError(f"the rule does not parse ({error}): {_short(text)}") from None
        if tree.get("error", True):
            raise RuleError(f"the rule is not one SQL expression ({_reason(tree)}): {_short(text)}")
        _one(tree, text)
        try:
            _check(tree["statements"][0]["node"]["select_list"][0], columns)
            checked = orjson.dumps(tree).decode()
        except (RecursionError, TypeError):
            raise RuleError("the rule is nested too deeply") from None
        written = c.execute("SELECT json_deserialize_sql(?)", [checked]).fetchone()
        sql = str(written[0]).removeprefix("SELECT ") if written else ""
        kind = _kind(c, sql, columns, text)
    if kind not in (("BOOLEAN", '"NULL"') if wanted == "boolean" else _NUMBERS) and not (
        wanted == "number" and any(n in kind for n in _NUMBERS)
    ):
        raise RuleError(
            f"the rule gives {kind}, not {'true or false' if wanted == 'boolean' else 'a number'}: {_short(text)}"
        )
    return sql


def over(table: pa.Table, sql: str) -> pa.Table:
    """The result of a query of ours, with checked expressions in it, over one table named `units`. Raises RuleError."""
    with _locked() as c:
        c.register("units", table)
        return run(c, sql, {})


def run(c: duckdb.DuckDBPyConnection, sql: str, values: dict[str, Any]) -> pa.Table:
    """Runs a query of ours that holds checked expressions; what goes wrong in it is the expression's fault. Raises RuleError."""
    try:
        return c.sql(sql, params=values or None).to_arrow_table()
    except (duckdb.DataError, duckdb.ProgrammingError, duckdb.NotSupportedError) as error:
        raise RuleError(
            f"the rule fails on this corpus: {' '.join(str(error).split('LINE ')[0].split())[:300]}"
        ) from None


def lock(c: duckdb.DuckDBPyConnection) -> None:
    """Takes the outside world from a connection, for good. What no number is the result of fails there: a NaN would be above every threshold."""
    c.execute("SET enable_external_access = false")
    c.execute("SET ieee_floating_point_ops = false")
    c.execute("SET lock_configuration = true")


@contextlib.contextmanager
def _locked() -> Iterator[duckdb.DuckDBPyConnection]:
    connection = duckdb.connect(":memory:")
    try:
        lock(connection)
        yield connection
    finally:
        connection.close()


def _one(tree: dict[str, Any], text: str) -> None:
    """That the statement is a bare SELECT of one expression."""
    statements = tree.get("statements") or []
    node = statements[0].get("node", {}) if len(statements) == 1 else {}
    bare = (
        node.get("type") == "SELECT_NODE"
        and len(node.get("select_list") or []) == 1
        and (node.get("from_table") or {}).get("type") == "EMPTY"
        and not any(node.get(clause) for clause in _CLAUSES)
        and not (node.get("cte_map") or {}).get("map")
    )
    if not bare:
        raise RuleError(f"a rule is one expression, without FROM, WHERE or a second one: {_short(text)}")


def _check(node: Any, columns: Collection[str]) -> None:
    if isinstance(node, list):
        for one in node:
            _check(one, columns)
        return
    if not isinstance(node, dict):
        return
    kind = node.get("class")
    if kind is not None:
        _allow(kind, node, columns)
    for one in node.values():
        if isinstance(one, dict | list):
            _check(one, columns)


def _allow(kind: str, node: dict[str, Any], columns: Collection[str]) -> None:
    if kind not in _NODES or (kind == "OPERATOR" and node.get("type") not in _OPERATORS):
        what = str(node.get("type") or kind).lower().replace("_", " ")
        raise RuleError(
            f"a rule may not hold a {what}: comparisons, AND, OR, NOT, IN, BETWEEN, CASE, CAST and plain functions only"
        )
    if kind == "COLUMN_REF":
        name = ".".join(node.get("column_names") or [])
        if name.lower() not in columns:
            raise RuleError(f"no such column '{name}' in this rule: {', '.join(sorted(columns))}")
    if kind == "FUNCTION":
        name = str(node.get("function_name"))
        if name == "row":
            raise RuleError("a rule is one expression; this one is empty, or a list of several")
        if name.lower() not in FUNCTIONS or node.get("schema") or node.get("catalog") or node.get("filter"):
            raise RuleError(f"a rule may not call '{name}': see docs/filtering.md for the functions")


def _kind(c: duckdb.DuckDBPyConnection, sql: str, columns: dict[str, str], text: str) -> str:
    empty = ", ".join(f'NULL::{kind} AS "{name}"' for name, kind in columns.items())
    try:
        return str(c.sql(f"SELECT {sql} AS given FROM (SELECT {empty}) LIMIT 0").types[0])
    except duckdb.Error as error:
        raise RuleError(
            f"the rule cannot be used ({' '.join(str(error).split('LINE ')[0].split())[:200]}): {_short(text)}"
        ) from None


def _reason(tree: dict[str, Any]) -> str:
    return " ".join(str(tree.get("error_message", "it does not parse")).split())[:200]


def _short(text: str) -> str:
    line = " ".join(text.encode("utf-8", "backslashreplace").decode().split())
    return line if len(line) <= 160 else line[:157] + "..."
