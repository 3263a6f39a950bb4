"""Command line: see `python report.py --help` and conf/report.yaml."""

from dv.cli import report

if __name__ == "__main__":
    report()
