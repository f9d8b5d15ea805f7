"""What a pack costs; not counted yet."""


class Cost:
    pass
