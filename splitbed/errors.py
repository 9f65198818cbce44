"""Every error that splitbed raises on purpose, in one tree.

```
SplitbedError                 1  anything splitbed refuses or fails at
├── UsageError                2  a flag, a configuration file or a value that a person wrote
│   └── CodecUnknown          2  a codec specification that names no known stage
├── ModelError                2  a file that is no usable ONNX model
│   ├── ModelUnknown          2  no model of this name where it was looked for
│   ├── ModelMismatch         2  a model of this name, but another one
│   ├── CutUnknown            2  a cut that the model does not have, or that is not legal
│   └── VerificationError     3  head then tail does not give what the uncut model gives
├── TaskError                 2  a task description that does not fit its model
│   └── PictureUnreadable     2  a picture that cannot be opened or decoded
├── EngineError               3  ONNX Runtime could not load or run a partition
│   ├── ProviderMissing       3  an execution provider was asked for and is not there
│   └── OutOfMemory           3  no memory is left for a partition, on a GPU or the host
├── CodecError                3  a tensor that a codec cannot code
│   └── PayloadInvalid        3  bytes that do not decode to the announced tensor
├── LinkError                 4  the link cannot be made as its profile asks
│   └── LinkUncertified       4  the link was measured and is outside its tolerance
├── TransportError            5  the two nodes could not talk
│   ├── EdgeUnreachable       5  nobody answers, or the connection is lost
│   ├── FrameTimeout          5  a frame's reply did not come in time
│   ├── Unauthorised          5  the edge wants another token
│   ├── ProtocolViolation     5  a message that breaks the wire contract
│   └── Overloaded            5  the edge has no room for what was asked
├── RecordError               6  measurements could not be written or read
│   └── StorageFull           6  the disk is full; every row written before is whole
└── RunIncomplete             7  the run ended before all its frames were measured
```

The number is the exit code of a command that ends with that error. Each class has a `kind`, a
short fixed word that crosses the wire and stands in a frame's row as `failed:KIND`, so that the
peer can raise the same class again (`from_kind`). A message is one sentence: what happened, where,
and what to do about it.
"""

from __future__ import annotations

from typing import ClassVar


class SplitbedError(Exception):
    """Base of everything that splitbed raises on purpose; never raised itself."""

    kind: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1


class UsageError(SplitbedError):
    """A flag, a configuration file or a value that a person wrote cannot be used."""

    kind = "usage"
    exit_code = 2


class CodecUnknown(UsageError):
    """A codec specification names no known stage, or gives a stage a wrong parameter."""

    kind = "codec-unknown"


class ModelError(SplitbedError):
    """A file is not a usable ONNX model."""

    kind = "model"
    exit_code = 2

    def __init__(self, sentence: str) -> None:
        # Names of tensors and nodes may hold anything, and a message is one line.
        super().__init__(sentence.replace("\r", "\\r").replace("\n", "\\n"))


class ModelUnknown(ModelError):
    """No model of this name lies where it was looked for."""

    kind = "model-unknown"


class ModelMismatch(ModelError):
    """A model of this name is there, but its identity is another."""

    kind = "model-mismatch"


class CutUnknown(ModelError):
    """The model has no such cut, or it is not a legal one."""

    kind = "cut-unknown"


class VerificationError(ModelError):
    """Head then tail does not give what the uncut model gives."""

    kind = "verification"
    exit_code = 3


class TaskError(SplitbedError):
    """A task description does not fit the model it is used with."""

    kind = "task"
    exit_code = 2


class PictureUnreadable(TaskError):
    """A picture cannot be opened or decoded."""

    kind = "picture"


class EngineError(SplitbedError):
    """ONNX Runtime could not load or run a partition."""

    kind = "engine"
    exit_code = 3


class ProviderMissing(EngineError):
    """An execution provider was asked for by name and is not available."""

    kind = "provider-missing"


class OutOfMemory(EngineError):
    """No memory is left to load or run a partition, on a GPU or on the host."""

    kind = "out-of-memory"


class CodecError(SplitbedError):
    """A codec cannot code this tensor."""

    kind = "codec"
    exit_code = 3


class PayloadInvalid(CodecError):
    """Received bytes do not decode to the announced tensor."""

    kind = "payload-invalid"


class LinkError(SplitbedError):
    """The link cannot be made as its profile asks."""

    kind = "link"
    exit_code = 4


class LinkUncertified(LinkError):
    """The link was measured and lies outside the tolerance of its profile."""

    kind = "link-uncertified"


class TransportError(SplitbedError):
    """The two nodes could not talk."""

    kind = "transport"
    exit_code = 5


class EdgeUnreachable(TransportError):
    """Nobody answers at the edge's address, or the connection was lost."""

    kind = "unreachable"


class FrameTimeout(TransportError):
    """A frame's reply did not come within the time allowed."""

    kind = "timeout"


class Unauthorised(TransportError):
    """The edge wants a token, or another one."""

    kind = "unauthorised"


class ProtocolViolation(TransportError):
    """A message breaks the wire contract of proto/README.md."""

    kind = "protocol"


class Overloaded(TransportError):
    """The edge has no room for the session or message that was asked for."""

    kind = "overloaded"


class RecordError(SplitbedError):
    """Measurements could not be written or read back."""

    kind = "record"
    exit_code = 6


class StorageFull(RecordError):
    """The disk is full; every row that was written before is whole."""

    kind = "storage-full"


class RunIncomplete(SplitbedError):
    """A run ended before all its frames were measured; what was measured is kept."""

    kind = "incomplete"
    exit_code = 7


def _classes(root: type[SplitbedError]) -> dict[str, type[SplitbedError]]:
    found = {root.kind: root}
    for child in root.__subclasses__():
        found |= _classes(child)
    return found


_BY_KIND = _classes(SplitbedError)


def from_kind(kind: str, sentence: str) -> SplitbedError:
    """The error that a peer named by `kind`; an unknown kind gives a plain TransportError."""
    return _BY_KIND.get(kind, TransportError)(sentence)


def from_exit_code(code: int, sentence: str) -> SplitbedError:
    """The error of a child process that ended with `code` and left `sentence`."""
    for error in (UsageError, EngineError, LinkError, TransportError, RecordError, RunIncomplete):
        if error.exit_code == code:
            return error(sentence)
    return TransportError(sentence)
