"""``python -m endpoint_worker`` is ``umbel-endpoint``."""

from .cli.main import main

if __name__ == "__main__":
    main()
