"""Command line: see `python export.py --help` and conf/export.yaml."""

from dv.cli import export

if __name__ == "__main__":
    export()
