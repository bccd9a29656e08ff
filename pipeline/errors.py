"""The exceptions that a user sees as one line."""


class UserError(Exception):
    """Something a user or a file caused: what, where, the limit and the remedy, on one line."""


class UsageError(UserError):
    """A command, flag or setting that does not exist or cannot be: exit code 2 instead of 1."""
