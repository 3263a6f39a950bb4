"""Command line: see `python report.py --help` and conf/report.yaml."""

from dv.tasks.report import main

if __name__ == "__main__":
    main()
