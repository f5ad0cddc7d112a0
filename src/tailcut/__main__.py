"""`python -m tailcut`, the same as the console script."""

from tailcut.cli.main import run

if __name__ == "__main__":
    run()
