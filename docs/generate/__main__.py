"""Write the reference pages from the tables of the code: `make docs`.

python docs/generate [FOLDER]    # FOLDER: where to, docs/ unless given
"""

import sys
from pathlib import Path

from columns import columns_page
from implementations import implementations_page
from keys import keys_page

PAGES = {"columns.md": columns_page, "implementations.md": implementations_page, "keys.md": keys_page}


def main(arguments: list[str]) -> None:
    """Write every page into the folder that is named, or into docs/."""
    folder = Path(arguments[0]) if arguments else Path(__file__).resolve().parents[1]
    for name, make in PAGES.items():
        (folder / name).write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
