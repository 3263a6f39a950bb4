"""Command line: see `python render.py --help` and conf/render.yaml."""

from dv.tasks.render import main

if __name__ == "__main__":
    main()
