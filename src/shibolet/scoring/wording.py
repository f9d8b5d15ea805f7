"""Shares as people read them. Each place has a sign of its own for what is not known, so that stays None here."""


def shown_pct(share: float | None, digits: int = 1) -> str | None:
    """A share in percent: 0.125 is "12.5%"."""
    return None if share is None else f"{100 * share:.{digits}f}%"


def shown_span(ends: tuple[float, float] | None) -> str | None:
    """The ends of an interval of a share, in percent."""
    return None if ends is None else f"{shown_pct(ends[0])} to {shown_pct(ends[1])}"
