"""The documentation: every page is in the site, quoted messages exist, figures are those that the script draws."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
QUOTED = re.findall(r"```text\n(.*?)\n```", (DOCS / "start" / "troubleshooting.md").read_text(), re.S)
SEAMS = re.compile(r"error: |…|; ")  # where messages are put together
OF_THE_ROOT = {"contributing.md", "changelog.md"}  # docs/site_hooks.py adds them


def texts(path: Path) -> str:
    """Return the texts of a Python file, each as one line, with … for what is filled in."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(str(v.value) if isinstance(v, ast.Constant) else "…" for v in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return "\n".join(found)


@pytest.fixture(scope="module")
def sources() -> str:
    """Return every text that dv can print."""
    script = re.sub(r'"\s*\+\s*"', "", (ROOT / "src" / "dv" / "export" / "web" / "page.js").read_text())
    configurations = "".join(path.read_text() for path in (ROOT / "conf").rglob("*.yaml"))
    python = [*(ROOT / "src").rglob("*.py"), ROOT / "tests" / "conftest.py"]
    return "\n".join([script, configurations, *map(texts, python)])


def test_page_quotes_messages():
    assert len(QUOTED) >= 30


@pytest.mark.parametrize("message", QUOTED)
def test_quoted_message_exists(message, sources):
    fragments = [part for part in SEAMS.split(message) if part]
    assert max(map(len, fragments)) > 10, "hardly anything of the message is quoted"
    assert not [part for part in fragments if part not in sources]


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2].partition("\n\n")[0]
    pages = set(re.findall(r"[\w/-]+\.md", navigation.replace(" # CONTRIBUTING.md", "").replace(" # CHANGELOG.md", "")))
    assert pages == {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")} | OF_THE_ROOT


def test_every_module_has_a_place_in_the_api():
    shown = {
        name
        for page in (DOCS / "reference" / "api").glob("*.md")
        for name in re.findall(r"^::: (\S+)", page.read_text(), re.M)
    }
    modules = {
        ".".join(path.relative_to(ROOT / "src").with_suffix("").parts) for path in (ROOT / "src" / "dv").rglob("*.py")
    }
    assert {name for name in modules if not name.endswith("__init__")} <= shown


def test_figures_are_those_that_the_script_draws():
    spec = importlib.util.spec_from_file_location("draw", DOCS / "figures" / "draw.py")
    draw = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(draw)
    for name, figure in draw.FIGURES.items():
        assert (DOCS / "figures" / f"{name}.svg").read_text() == figure().svg(), "run python docs/figures/draw.py"


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_linked_files_exist(page):  # make site checks the links of docs/
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / page).read_text())
    assert not [link for link in links if not (ROOT / link).exists()]
