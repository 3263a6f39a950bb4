"""Command line: see `python evaluate.py --help` and conf/evaluate.yaml."""

from dv.cli import evaluate

if __name__ == "__main__":
    evaluate()
