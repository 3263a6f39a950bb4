"""Command line: see `python prepare.py --help` and conf/prepare.yaml."""

from dv.tasks.prepare import main

if __name__ == "__main__":
    main()
