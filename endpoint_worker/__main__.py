"""``python -m endpoint_worker`` is ``umbel-endpoint``."""

from .cli import main

if __name__ == "__main__":
    main()
