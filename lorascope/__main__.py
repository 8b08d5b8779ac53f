"""``python -m lorascope``: the command line, for launchers such as ``torchrun -m lorascope train recipe.yaml``."""

from lorascope.cli.main import entry

if __name__ == "__main__":
    entry()
