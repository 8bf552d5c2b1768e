"""What can go wrong by the user's doing: each is one sentence that names file, key, value and remedy."""


class UserError(Exception):
    """Something the user can fix; shown as its one sentence, without a traceback, exit code 2."""


class DataMissingError(UserError):
    """The files of a data set are not on this machine."""


class PluginError(UserError):
    """A plug-in broke its contract: the sentence names the plug-in, the hook and what is wrong."""


class NotGranted(PluginError):
    """An attack asked its view for what the knowledge it declares does not grant."""
