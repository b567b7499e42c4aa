"""``python -m regaudit.cli``, as the program ``regaudit``."""

from regaudit.cli import main

if __name__ == "__main__":
    main()
