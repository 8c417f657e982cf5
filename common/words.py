"""Words that follow a number."""


def counted(number: int, one: str, many: str | None = None) -> str:
    """`1 slice`, `2 slices`; `many` where it is not `one` with an s."""
    return f"{number} {one if number == 1 else many or one + 's'}"
