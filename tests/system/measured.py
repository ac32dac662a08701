"""What the suite measures, as lines of JSON in a file, and the tables of docs/reliability.md made of them.

    TEDGE_AGENTD_MEASURED=build/measured.jsonl sudo -E .venv/bin/pytest tests/system ...
    .venv/bin/python -m tests.system.measured build/measured.jsonl docs/reliability.md

A table stands between `<!-- TABLE -->` and `<!-- end -->`; a second run of a row takes the place of the first.
"""

import fcntl
import json
import os
import pathlib
import re
import sys

VARIABLE = "TEDGE_AGENTD_MEASURED"


def note(table: str, **row: object) -> None:
    """Write one row down, if anybody wants to know. Columns in the order given; what is not a number is its name."""
    path = os.environ.get(VARIABLE)
    if not path:
        return
    with open(path, "a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps({"table": table, "row": row}) + "\n")


def tables(lines: list[str]) -> dict[str, list[dict[str, object]]]:
    """The rows of each table, the latest of each name, in order."""
    found: dict[str, dict[str, dict[str, object]]] = {}
    for line in lines:
        entry = json.loads(line)
        row = entry["row"]
        name = " | ".join(str(value) for value in row.values() if isinstance(value, str))
        found.setdefault(entry["table"], {})[name] = row
    return {table: [rows[name] for name in sorted(rows)] for table, rows in found.items()}


def markdown(rows: list[dict[str, object]]) -> str:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [columns, ["---" if isinstance(rows[0].get(column), str) else "---:" for column in columns]]
    lines += [[_shown(row.get(column, "")) for column in columns] for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _shown(value: object) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)


def main(source: str, target: str) -> None:
    page = pathlib.Path(target)
    text = page.read_text()
    for table, rows in tables(pathlib.Path(source).read_text().splitlines()).items():
        pattern = re.compile(rf"(<!-- {re.escape(table)} -->\n).*?(<!-- end -->)", re.DOTALL)
        text, count = pattern.subn(lambda match: f"{match[1]}{markdown(rows)}\n{match[2]}", text)  # noqa: B023
        print(f"{table}: {len(rows)} rows" if count else f"{target} has no place for the table {table}")
    page.write_text(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
