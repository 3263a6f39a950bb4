"""Command line: see `python render.py --help` and conf/render.yaml."""

from dv.cli import render

if __name__ == "__main__":
    render()
