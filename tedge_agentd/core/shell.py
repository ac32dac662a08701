"""Words for a shell: what a remedy shows is pasted as root, and paths come from who may write tedge.toml."""

import shlex


def word(text: str) -> str:
    """Return a path or value as one word that means itself, whatever is in it; plain ones stay as they are."""
    return shlex.quote(text)
