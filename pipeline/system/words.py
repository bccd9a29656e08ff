"""Numbers of things, of bytes and of seconds, in words."""


def counted(number: int, thing: str, things: str = "") -> str:
    """`1 shard`, `1,000 shards`; things: the plural where it is not `thing` with an s."""
    return f"{number:,} {thing if number == 1 else things or f'{thing}s'}"


def sized(size: float) -> str:
    """`12.3 kB`, `5.8 MB`, `1,280.0 GB`: bytes, in units of powers of 1,000."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        # 999,950 is rounded up to the next unit
        if size >= 0.99995 * unit:
            return f"{size / unit:,.1f} {name}"
    return counted(round(size), "byte")


def duration(seconds: float) -> str:
    """Hours, minutes and seconds as 1:02:03 or 2:03."""
    hours, rest = divmod(round(seconds), 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{left:02d}" if hours else f"{minutes}:{left:02d}"
