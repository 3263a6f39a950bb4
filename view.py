"""Command line: see `python view.py --help` and conf/view.yaml."""

from dv.cli import view

if __name__ == "__main__":
    view()
