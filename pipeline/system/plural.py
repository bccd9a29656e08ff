"""Numbers of things, in words."""


def counted(number: int, thing: str, things: str = "") -> str:
    """`1 shard`, `1,000 shards`; things: the plural where it is not `thing` with an s."""
    return f"{number:,} {thing if number == 1 else things or f'{thing}s'}"
