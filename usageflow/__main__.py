"""`usageflow` and `python -m usageflow`: start the command line, or say what is missing for it."""

import sys


def main() -> None:
    """Run the command line; without typer (the light installation) name the extra that has it."""
    try:
        from usageflow.cli import main as run
    except ModuleNotFoundError as error:
        if error.name != "typer":
            raise
        print("usageflow: the commands need pip install 'usageflow[server]'", file=sys.stderr)
        sys.exit(1)
    run()


if __name__ == "__main__":
    main()
