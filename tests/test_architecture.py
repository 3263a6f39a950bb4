"""Rules for the source: short files, small folders and no configuration keys in the lower layers."""

import ast
import re
from pathlib import Path

import pytest

from dv.config import SCHEMAS
from dv.validation import leaves

SOURCE = Path(__file__).parents[1] / "src"
FILES = sorted(SOURCE.rglob("*.py"))
KEYS = {key for schema in SCHEMAS.values() for key, _, _ in leaves(schema) if "." in key}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_over_300_lines_say_why_at_the_top(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= 300 or "one file of over 300 lines because" in path.read_text()[:1500], len(lines)


def test_folders_have_at_most_twenty_modules():
    counts = {folder.name: len(list(folder.glob("*.py"))) for folder in (SOURCE / "dv").iterdir() if folder.is_dir()}
    assert max(counts.values()) <= 21, counts  # including __init__.py


@pytest.mark.parametrize("folder", ["nets", "ops", "geometry"])
def test_lower_layers_name_no_configuration_keys(folder):
    for path in (SOURCE / "dv" / folder).glob("*.py"):
        texts = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
        words = {word for text in texts if isinstance(text, str) for word in re.findall(r"[a-z_]+\.[a-z_]+", text)}
        assert not words & KEYS, path
