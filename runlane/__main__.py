"""``python -m runlane``."""

from runlane.cli import main

if __name__ == "__main__":
    main()
