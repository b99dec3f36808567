"""``python -m vesuvius_kit`` is the command ``vesuvius-kit``."""

from vesuvius_kit.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
