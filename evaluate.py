"""Command line: see `python evaluate.py --help` and conf/evaluate.yaml."""

from dv.tasks.evaluate import main

if __name__ == "__main__":
    main()
