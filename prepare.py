"""Command line: see `python prepare.py --help` and conf/prepare.yaml."""

from dv.cli import prepare

if __name__ == "__main__":
    prepare()
