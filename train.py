"""Command line: see `python train.py --help` and conf/train.yaml."""

from dv.tasks.train import main

if __name__ == "__main__":
    main()
