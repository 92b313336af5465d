"""The exceptions that are the user's to mend."""


class UserError(ValueError):
    """Bad input, told in one line: the value, what was expected, the remedy. Entry points print it and exit with 2."""


class DivergedError(UserError):
    """A run that has left the numbers."""


class DamagedError(UserError):
    """A checkpoint that is not as it was written, or none of ours: an older one may be."""
