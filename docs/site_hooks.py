"""What the documentation site needs beside mkdocs.yml: links to the repository, formulas, and roles in docstrings.

The pages are written to be read in the repository too, so their links lead to its files. The site holds docs/ alone:

- a link to a module of dv leads to its place in the API pages;
- a link to another file of the repository becomes its path, since the site cannot show it;
- CONTRIBUTING.md and CHANGELOG.md become pages of the site;
- a link to a file that does not exist is a warning, hence an error in a strict build;
- formulas between ``$$`` become MathML, which browsers show without a script.

Docstrings are read without importing dv. Their Sphinx roles become links or code, their examples code blocks.
"""

from __future__ import annotations

import html
import logging
import posixpath
import re
from functools import cache
from pathlib import Path
from typing import Any

import griffe
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGES_OF_THE_ROOT = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
FENCE = re.compile(r"^(```.*?^```)", re.M | re.S)
LINK = re.compile(r"(?<!!)\[([^\[\]]+)\]\(([^()\s]+)\)")
FORMULA = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.S)
CELL_CODE = re.compile(r"(?<=<code>)[^<]+(?=</code>)")
ROLE = re.compile(r":(?:mod|class|func|meth|data|attr|exc):`(~?)([\w.]+)`")
EXAMPLE = re.compile(r"^( *)>>> .*(?:\n(?!\s*$).*)*", re.M)
log = logging.getLogger("mkdocs.hooks.site")


@cache
def modules() -> frozenset[str]:
    """Return the modules that the API pages show."""
    pages = (ROOT / "docs" / "reference" / "api").glob("*.md")
    return frozenset(name for page in pages for name in re.findall(r"^::: (\S+)", page.read_text(), re.M))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages whose files lie at the repository's root."""
    for source, target in PAGES_OF_THE_ROOT.items():
        files.append(File.generated(config, target, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Rewrite the links that leave docs/."""
    uri = page.file.src_uri
    if uri.startswith("reference/api/"):
        page.meta["search"] = {"boost": 0.5}  # explanations come first
    folder = "" if uri in PAGES_OF_THE_ROOT.values() else posixpath.join("docs", posixpath.dirname(uri))
    known = modules()

    def rewritten(match: re.Match[str]) -> str:
        text, target = match[1], match[2]
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        path, _, anchor = target.partition("#")
        path = posixpath.normpath(posixpath.join(folder, path))
        if not (ROOT / path).exists():
            log.warning("%s: no file for the link %s", uri, target)
        inside = PAGES_OF_THE_ROOT.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        if inside and inside.endswith(".md"):
            relative = posixpath.relpath(inside, posixpath.dirname(uri) or ".")
            return f"[{text}]({relative}{anchor and '#'}{anchor})"
        module = path.removeprefix("src/").removesuffix(".py").replace("/", ".")
        if path.endswith(".py") and module in known:
            return f"[{text}][{module}]"
        return text if "`" in text else f"{text} (`{path}`)"

    parts = FENCE.split(markdown)
    return "".join(part if part.startswith("```") else LINK.sub(rewritten, part) for part in parts)


def on_page_content(html_text: str, **_: Any) -> str:
    """Turn formulas into MathML, leave source code out of the search, and let long keys in tables break at dots."""
    html_text = html_text.replace(
        '<details class="mkdocstrings-source"', '<details data-search-exclude class="mkdocstrings-source"'
    )
    html_text = re.sub(r"<td.*?</td>", lambda cell: CELL_CODE.sub(_breakable, cell[0]), html_text, flags=re.S)
    return FORMULA.sub(lambda match: convert(html.unescape(match[1]), display="block"), html_text)


def _breakable(code: re.Match[str]) -> str:
    return re.sub(r"([._/=,])(?=\w)", r"\1<wbr>", code[0])


def _linked(match: re.Match[str], item: griffe.Object, known: frozenset[str]) -> str:
    short, name = match[1], match[2]
    shown = name.rpartition(".")[2] if short else name
    try:
        found = item.modules_collection[name] if name.startswith("dv.") else item[name]
    except (KeyError, ValueError):
        try:
            found = item.modules_collection[item.resolve(name.partition(".")[0]) + name[len(name.partition(".")[0]) :]]
        except (KeyError, griffe.NameResolutionError):
            return f"`{shown}`"
    path = found.canonical_path
    public = not any(part.startswith("_") for part in path.split("."))
    is_shown = public and found.has_docstring and found.module.path in known
    return f"[`{shown}`][{path}]" if is_shown else f"`{shown}`"


def _fenced(match: re.Match[str]) -> str:
    indent = match[1]
    return f"{indent}```pycon\n{match[0]}\n{indent}```"


class Docstrings(griffe.Extension):
    """Rewrite the Sphinx roles and examples of docstrings as Markdown."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Visit every object of the package."""
        self._visit(pkg, modules())

    def _visit(self, item: griffe.Object, known: frozenset[str]) -> None:
        if item.docstring:
            text = ROLE.sub(lambda match: _linked(match, item, known), item.docstring.value)
            if item.is_class and "__init__" not in item.members and not item.has_labels("dataclass"):
                text = text.replace("Args:\n", "Attributes:\n")  # of a NamedTuple: fields, not parameters
            item.docstring.value = EXAMPLE.sub(_fenced, text)
        for member in item.members.values():
            if not member.is_alias:
                self._visit(member, known)
