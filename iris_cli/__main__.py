"""`python -m iris_cli` is `iris`."""

from iris_cli.cli import main

if __name__ == "__main__":
    main()
