"""Command lines: ``train.py`` and its siblings, installed as ``dv-train`` and so on."""

from dv.tasks.command import run


def train() -> None:
    """Train a model of an object."""
    run("train")


def evaluate() -> None:
    """Score a trained model on held-out views."""
    run("evaluate")


def render() -> None:
    """Render a trained model along a trajectory."""
    run("render")


def export() -> None:
    """Write a trained model in a format of other programs, or as a page."""
    run("export")


def view() -> None:
    """Show a trained model or an object in an interactive page."""
    run("view")


def prepare() -> None:
    """Make, import, check or export the images of an object."""
    run("prepare")


def report() -> None:
    """Compare runs in tables, plots and contact sheets."""
    run("report")
