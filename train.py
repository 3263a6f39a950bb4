"""Command line: see `python train.py --help` and conf/train.yaml."""

from dv.cli import train

if __name__ == "__main__":
    train()
