"""The base of every error that a user can mend."""


class UserError(Exception):
    """An error whose message states the rule, what was received and the way out; shown without a traceback."""

    exit_code = 1
