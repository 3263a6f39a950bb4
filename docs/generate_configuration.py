"""Write docs/reference/configuration.md: every key with its default, range, role and meaning.

Ranges and roles come from the schema (dv.config), defaults and meanings from the files in conf/.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from dv.config import SCHEMAS
from dv.validation import describe, leaves, show

ROOT = Path(__file__).resolve().parents[1]
CONF, PAGE = ROOT / "conf", ROOT / "docs" / "reference" / "configuration.md"
GROUPS = {
    "train": ("object", "grid", "loss", "model", "trainer", "logger"),
    "render": ("trajectory",),
    "prepare": ("source",),
}
TAGS = ("model.kind", "logger.name", "trajectory.name", "source.name")  # they name the choice itself
WHOLE_RUNS = ("experiment", "ablation", "launcher", "sweep")
INTRODUCTION = """# Configuration

*Written by `make docs` from the schema in `src/dv/config/` and the files in `conf/`.*

Every key is an override on the command line: `python train.py grid.side=16 trainer.max_steps=500`. A group is chosen by
the name of its file: `grid=16` is `conf/grid/16.yaml`. `key=null` clears a key that may be null. A configuration with
faults ends with one line that names all of them, before anything is created; in a sweep the job with the faults fails.

The role of a key says what a change of it means:

- *result*: another value makes another run;
- *resumable*: it shapes the result, but a run may be resumed with another value;
- *execution*: where and how the run executes, with the same result; reports show the key, names of runs do not;
- *bookkeeping*: neither reports nor names of runs show it.
"""


def load(path: Path) -> CommentedMap:
    """Read a YAML file with its comments."""
    return YAML().load(path.read_text()) or CommentedMap()


def explained(content: CommentedMap, above: str = "") -> Iterator[tuple[str, Any, str]]:
    """Yield key, value and explanation of every leaf; a key without a comment has the last one of its group."""
    for key, value in content.items():
        if key in ("defaults", "hydra"):
            continue
        if isinstance(value, CommentedMap) and value:
            yield from explained(value, f"{above}{key}.")
            continue
        tokens = content.ca.items.get(key)
        comment = tokens[2].value.split("\n")[0].lstrip("# ") if tokens and tokens[2] else ""
        yield f"{above}{key}", value, comment


def rows_of(path: Path, above: str) -> dict[str, tuple[str, Any, str]]:
    """Return key, value and explanation of every leaf by key, with those of files in conf/imports/ that it includes."""
    content = load(path)
    rows: dict[str, tuple[str, Any, str]] = {}
    for item in content.get("defaults", []):
        if str(item).endswith("@_here_"):
            rows |= rows_of(CONF / f"{str(item).removesuffix('@_here_').strip('/')}.yaml", above)
        elif isinstance(item, str) and path.parent.name == "imports" and item != "_self_":
            rows |= rows_of(path.with_name(f"{item}.yaml"), above)
    for key, value, comment in explained(content, above):
        rows[key] = (key, value, comment or rows.get(key, ("", None, ""))[2])
    return rows


def title(path: Path) -> str:
    """Return the first comment of a file, without package directives."""
    lines = [line.lstrip("# ") for line in path.read_text().splitlines() if line.startswith("#")]
    return next((line for line in lines if not line.startswith(("@package", "python "))), "")


def table(files: dict[str, list[tuple[str, Any, str]]], schema: dict[str, tuple[str, str]], roles: bool) -> str:
    """Format keys as a Markdown table with one column of defaults for each file; all files have the same keys."""
    comments = [[comment for _, _, comment in rows] for rows in zip(*files.values(), strict=True)]
    values = [[value for key, value, _ in rows if key not in TAGS] for rows in files.values()]
    if all(one == values[0] for one in values):  # one column for all files
        files = dict([next(iter(files.items()))])
    defaults = list(files) if len(files) > 1 else ["default"]
    columns = ["key", *defaults, "must be", *(["role"] if roles else []), "meaning"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for rows, explanations in zip(zip(*files.values(), strict=True), comments, strict=True):
        key, comment = rows[0][0], max(set(explanations), key=explanations.count)
        if key in TAGS:
            continue
        below = [role for name, (_, role) in schema.items() if name.startswith(f"{key}.")]
        must_be, role = ("a group of keys or null", below[0]) if below else schema[key]
        cells = [f"`{key}`", *(f"`{_short(show(value))}`" for _, value, _ in rows), must_be]
        cells += [role] * roles + [comment]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:39]}…"


def keys_of(command: str, plain: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Return what a value must be, and its role, by key."""
    return {key: (describe(annotation), role) for key, annotation, role in leaves(SCHEMAS[command], plain)}


def group_page(command: str, group: str) -> Iterator[str]:
    """Yield the sections of a group: choices with the same keys share a table."""
    tables: dict[tuple[str, ...], dict[str, list[tuple[str, Any, str]]]] = {}
    titles = []
    for path in sorted(
        (CONF / group).glob("*.yaml"), key=lambda path: (path.stem != "default", len(path.stem), path.stem)
    ):
        if title(path):
            titles.append(f"- `{group}={path.stem}`: {title(path)}")
        is_global = path.read_text().startswith("# @package _global_")
        rows = list(rows_of(path, "" if is_global else f"{group}.").values())
        tables.setdefault(tuple(key for key, _, _ in rows), {})[path.stem] = rows
    yield "\n".join([f"### {group}=…", *([""] if titles else []), *titles, ""])
    for files in tables.values():
        if group == "trainer" and "debug" in files:
            continue  # overrides of trainer=default
        if any(key not in TAGS for key, _, _ in next(iter(files.values()))):
            names = ", ".join(f"`{group}={name}`" for name in files)
            tags = {k.split(".")[1]: v for k, v, _ in next(iter(files.values())) if k in TAGS}
            yield f"{names}:\n\n{table(files, keys_of(command, {group: tags}), command == 'train')}\n"


def page() -> str:
    """Return the whole page.

    Raises:
        KeyError: for a key in conf/ that the schema does not have.
    """
    parts = [INTRODUCTION]
    for command in SCHEMAS:
        rows = list(explained(load(CONF / f"{command}.yaml")))
        parts.append(f"## {command}.py\n\n{table({command: rows}, keys_of(command, {}), command == 'train')}\n")
        for group in GROUPS.get(command, ()):
            parts += group_page(command, group)
    for group in WHOLE_RUNS:
        parts.append(f"## {group}=…\n")
        parts.append(
            "\n".join(f"- `{group}={p.stem}`: {title(p)}" for p in sorted((CONF / group).glob("*.yaml"))) + "\n"
        )
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"wrote {PAGE.relative_to(ROOT)}", file=sys.stderr)
