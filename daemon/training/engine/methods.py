"""What a way of training needs besides what is always installed; standard library only."""

from importlib.util import find_spec

METHODS = ("lora", "rslora", "qlora")


def lacks_for(method: str) -> str:
    """Why this installation cannot train by a method, as a sentence; empty when it can."""
    if method == "qlora" and find_spec("bitsandbytes") is None:
        return (
            'method = "qlora" needs bitsandbytes, which is not installed;'
            ' run `pip install bitsandbytes` where the daemon is installed, or set method = "lora"'
        )
    return ""
