"""Faults a person can mend. Each message is one sentence: what is wrong and how to mend it."""


class ForceNetError(Exception):
    """Base of every fault that is shown to the user as one sentence, without a traceback."""


class ModelFileError(ForceNetError):
    """A model file is missing, damaged, foreign or not to be trusted."""


class UnknownElementError(ForceNetError):
    """An element the model has no data for or was not trained on."""


class StructureError(ForceNetError):
    """Positions, cell or species that no force can be computed for."""


class TooManyEdgesError(StructureError):
    """More neighbour pairs than the bound allows: checked before memory is allocated."""


class UnitsError(ForceNetError):
    """A unit style that is unknown, or has no physical scale (`lj`)."""


class ProtocolError(ForceNetError):
    """Bytes that are not the protocol of docs/protocol.md; the connection is closed."""


class RequestError(ForceNetError):
    """A well-formed request that is refused by name (mass, energy, limits)."""


class EvaluationError(ForceNetError):
    """The model gave no usable forces (non-finite, out of memory)."""


class NotFiniteError(EvaluationError):
    """A force, energy or virial of the model is infinite or not a number."""


class AddressError(ForceNetError):
    """An address that cannot be parsed, listened on or reached."""


class DataError(ForceNetError):
    """Structures, labels or configurations that cannot be read or trained on."""
