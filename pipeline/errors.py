"""The one exception that a user sees as one line."""


class UserError(Exception):
    """Something a user or a file caused: what, where, the limit and the remedy, on one line."""
