from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DTYPE_UNSPECIFIED: _ClassVar[DType]
    FLOAT32: _ClassVar[DType]
    FLOAT16: _ClassVar[DType]
    FLOAT64: _ClassVar[DType]
    INT8: _ClassVar[DType]
    UINT8: _ClassVar[DType]
    INT16: _ClassVar[DType]
    UINT16: _ClassVar[DType]
    INT32: _ClassVar[DType]
    UINT32: _ClassVar[DType]
    INT64: _ClassVar[DType]
    UINT64: _ClassVar[DType]
    BOOL: _ClassVar[DType]

class Part(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PART_UNSPECIFIED: _ClassVar[Part]
    FIRST: _ClassVar[Part]
    SECOND: _ClassVar[Part]
    WHOLE: _ClassVar[Part]

class Node(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NODE_UNSPECIFIED: _ClassVar[Node]
    DEVICE: _ClassVar[Node]
    EDGE: _ClassVar[Node]

class ReplyMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REPLY_MODE_UNSPECIFIED: _ClassVar[ReplyMode]
    FULL: _ClassVar[ReplyMode]
    RESULT: _ClassVar[ReplyMode]
DTYPE_UNSPECIFIED: DType
FLOAT32: DType
FLOAT16: DType
FLOAT64: DType
INT8: DType
UINT8: DType
INT16: DType
UINT16: DType
INT32: DType
UINT32: DType
INT64: DType
UINT64: DType
BOOL: DType
PART_UNSPECIFIED: Part
FIRST: Part
SECOND: Part
WHOLE: Part
NODE_UNSPECIFIED: Node
DEVICE: Node
EDGE: Node
REPLY_MODE_UNSPECIFIED: ReplyMode
FULL: ReplyMode
RESULT: ReplyMode

class TensorSpec(_message.Message):
    __slots__ = ("name", "dtype", "shape")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: DType
    shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[_Union[DType, str]] = ..., shape: _Optional[_Iterable[int]] = ...) -> None: ...

class InputShape(_message.Message):
    __slots__ = ("name", "shape")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ...) -> None: ...

class ModelId(_message.Message):
    __slots__ = ("source_sha256", "canonicaliser", "input_shapes")
    SOURCE_SHA256_FIELD_NUMBER: _ClassVar[int]
    CANONICALISER_FIELD_NUMBER: _ClassVar[int]
    INPUT_SHAPES_FIELD_NUMBER: _ClassVar[int]
    source_sha256: str
    canonicaliser: int
    input_shapes: _containers.RepeatedCompositeFieldContainer[InputShape]
    def __init__(self, source_sha256: _Optional[str] = ..., canonicaliser: _Optional[int] = ..., input_shapes: _Optional[_Iterable[_Union[InputShape, _Mapping]]] = ...) -> None: ...

class Cut(_message.Message):
    __slots__ = ("name", "boundary")
    NAME_FIELD_NUMBER: _ClassVar[int]
    BOUNDARY_FIELD_NUMBER: _ClassVar[int]
    name: str
    boundary: _containers.RepeatedCompositeFieldContainer[TensorSpec]
    def __init__(self, name: _Optional[str] = ..., boundary: _Optional[_Iterable[_Union[TensorSpec, _Mapping]]] = ...) -> None: ...

class Quantiser(_message.Message):
    __slots__ = ("tensor", "low", "step", "highest")
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    HIGHEST_FIELD_NUMBER: _ClassVar[int]
    tensor: str
    low: _containers.RepeatedScalarFieldContainer[float]
    step: _containers.RepeatedScalarFieldContainer[float]
    highest: int
    def __init__(self, tensor: _Optional[str] = ..., low: _Optional[_Iterable[float]] = ..., step: _Optional[_Iterable[float]] = ..., highest: _Optional[int] = ...) -> None: ...

class LearnedPair(_message.Message):
    __slots__ = ("name", "encoder_sha256", "decoder_sha256")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ENCODER_SHA256_FIELD_NUMBER: _ClassVar[int]
    DECODER_SHA256_FIELD_NUMBER: _ClassVar[int]
    name: str
    encoder_sha256: str
    decoder_sha256: str
    def __init__(self, name: _Optional[str] = ..., encoder_sha256: _Optional[str] = ..., decoder_sha256: _Optional[str] = ...) -> None: ...

class CodeRange(_message.Message):
    __slots__ = ("tensor", "low", "high")
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    tensor: str
    low: float
    high: float
    def __init__(self, tensor: _Optional[str] = ..., low: _Optional[float] = ..., high: _Optional[float] = ...) -> None: ...

class Partition(_message.Message):
    __slots__ = ("model", "cut", "part", "sha256", "file_bytes", "inputs", "outputs", "quantisers", "pair")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CUT_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    FILE_BYTES_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    QUANTISERS_FIELD_NUMBER: _ClassVar[int]
    PAIR_FIELD_NUMBER: _ClassVar[int]
    model: ModelId
    cut: Cut
    part: Part
    sha256: str
    file_bytes: int
    inputs: _containers.RepeatedCompositeFieldContainer[TensorSpec]
    outputs: _containers.RepeatedCompositeFieldContainer[TensorSpec]
    quantisers: _containers.RepeatedCompositeFieldContainer[Quantiser]
    pair: LearnedPair
    def __init__(self, model: _Optional[_Union[ModelId, _Mapping]] = ..., cut: _Optional[_Union[Cut, _Mapping]] = ..., part: _Optional[_Union[Part, str]] = ..., sha256: _Optional[str] = ..., file_bytes: _Optional[int] = ..., inputs: _Optional[_Iterable[_Union[TensorSpec, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[TensorSpec, _Mapping]]] = ..., quantisers: _Optional[_Iterable[_Union[Quantiser, _Mapping]]] = ..., pair: _Optional[_Union[LearnedPair, _Mapping]] = ...) -> None: ...

class CutQuestion(_message.Message):
    __slots__ = ("model", "cut", "input_shapes", "quantisers", "pair")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CUT_FIELD_NUMBER: _ClassVar[int]
    INPUT_SHAPES_FIELD_NUMBER: _ClassVar[int]
    QUANTISERS_FIELD_NUMBER: _ClassVar[int]
    PAIR_FIELD_NUMBER: _ClassVar[int]
    model: str
    cut: str
    input_shapes: _containers.RepeatedCompositeFieldContainer[InputShape]
    quantisers: _containers.RepeatedCompositeFieldContainer[Quantiser]
    pair: str
    def __init__(self, model: _Optional[str] = ..., cut: _Optional[str] = ..., input_shapes: _Optional[_Iterable[_Union[InputShape, _Mapping]]] = ..., quantisers: _Optional[_Iterable[_Union[Quantiser, _Mapping]]] = ..., pair: _Optional[str] = ...) -> None: ...

class ModelFile(_message.Message):
    __slots__ = ("name", "file_bytes", "md5", "sha256")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FILE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MD5_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    name: str
    file_bytes: int
    md5: str
    sha256: str
    def __init__(self, name: _Optional[str] = ..., file_bytes: _Optional[int] = ..., md5: _Optional[str] = ..., sha256: _Optional[str] = ...) -> None: ...

class CutAnswer(_message.Message):
    __slots__ = ("first", "second", "cut", "model_digest", "inputs", "outputs", "task_json", "source", "ranges")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    SECOND_FIELD_NUMBER: _ClassVar[int]
    CUT_FIELD_NUMBER: _ClassVar[int]
    MODEL_DIGEST_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    TASK_JSON_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    RANGES_FIELD_NUMBER: _ClassVar[int]
    first: Partition
    second: Partition
    cut: Cut
    model_digest: str
    inputs: _containers.RepeatedCompositeFieldContainer[TensorSpec]
    outputs: _containers.RepeatedCompositeFieldContainer[TensorSpec]
    task_json: str
    source: ModelFile
    ranges: _containers.RepeatedCompositeFieldContainer[CodeRange]
    def __init__(self, first: _Optional[_Union[Partition, _Mapping]] = ..., second: _Optional[_Union[Partition, _Mapping]] = ..., cut: _Optional[_Union[Cut, _Mapping]] = ..., model_digest: _Optional[str] = ..., inputs: _Optional[_Iterable[_Union[TensorSpec, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[TensorSpec, _Mapping]]] = ..., task_json: _Optional[str] = ..., source: _Optional[_Union[ModelFile, _Mapping]] = ..., ranges: _Optional[_Iterable[_Union[CodeRange, _Mapping]]] = ...) -> None: ...

class PartRequest(_message.Message):
    __slots__ = ("sha256", "offset")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    offset: int
    def __init__(self, sha256: _Optional[str] = ..., offset: _Optional[int] = ...) -> None: ...

class PartChunk(_message.Message):
    __slots__ = ("offset", "content")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    offset: int
    content: bytes
    def __init__(self, offset: _Optional[int] = ..., content: _Optional[bytes] = ...) -> None: ...

class Stage(_message.Message):
    __slots__ = ("id", "config_json", "package")
    ID_FIELD_NUMBER: _ClassVar[int]
    CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    PACKAGE_FIELD_NUMBER: _ClassVar[int]
    id: str
    config_json: str
    package: str
    def __init__(self, id: _Optional[str] = ..., config_json: _Optional[str] = ..., package: _Optional[str] = ...) -> None: ...

class TensorCodec(_message.Message):
    __slots__ = ("tensor", "stages")
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    tensor: str
    stages: _containers.RepeatedCompositeFieldContainer[Stage]
    def __init__(self, tensor: _Optional[str] = ..., stages: _Optional[_Iterable[_Union[Stage, _Mapping]]] = ...) -> None: ...

class Step(_message.Message):
    __slots__ = ("node", "part")
    NODE_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    node: Node
    part: Part
    def __init__(self, node: _Optional[_Union[Node, str]] = ..., part: _Optional[_Union[Part, str]] = ...) -> None: ...

class SessionSpec(_message.Message):
    __slots__ = ("run_id", "model", "model_digest", "placement", "cut", "codecs", "reply", "task_json", "window", "provider", "input_shapes", "pair")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_DIGEST_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    CUT_FIELD_NUMBER: _ClassVar[int]
    CODECS_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    TASK_JSON_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    INPUT_SHAPES_FIELD_NUMBER: _ClassVar[int]
    PAIR_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    model: str
    model_digest: str
    placement: _containers.RepeatedCompositeFieldContainer[Step]
    cut: Cut
    codecs: _containers.RepeatedCompositeFieldContainer[TensorCodec]
    reply: ReplyMode
    task_json: str
    window: int
    provider: str
    input_shapes: _containers.RepeatedCompositeFieldContainer[InputShape]
    pair: LearnedPair
    def __init__(self, run_id: _Optional[str] = ..., model: _Optional[str] = ..., model_digest: _Optional[str] = ..., placement: _Optional[_Iterable[_Union[Step, _Mapping]]] = ..., cut: _Optional[_Union[Cut, _Mapping]] = ..., codecs: _Optional[_Iterable[_Union[TensorCodec, _Mapping]]] = ..., reply: _Optional[_Union[ReplyMode, str]] = ..., task_json: _Optional[str] = ..., window: _Optional[int] = ..., provider: _Optional[str] = ..., input_shapes: _Optional[_Iterable[_Union[InputShape, _Mapping]]] = ..., pair: _Optional[_Union[LearnedPair, _Mapping]] = ...) -> None: ...

class SessionAgreed(_message.Message):
    __slots__ = ("session_id", "provider", "outputs", "init_ns", "first_inference_ns", "node_json")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    INIT_NS_FIELD_NUMBER: _ClassVar[int]
    FIRST_INFERENCE_NS_FIELD_NUMBER: _ClassVar[int]
    NODE_JSON_FIELD_NUMBER: _ClassVar[int]
    session_id: int
    provider: str
    outputs: _containers.RepeatedCompositeFieldContainer[TensorSpec]
    init_ns: int
    first_inference_ns: int
    node_json: str
    def __init__(self, session_id: _Optional[int] = ..., provider: _Optional[str] = ..., outputs: _Optional[_Iterable[_Union[TensorSpec, _Mapping]]] = ..., init_ns: _Optional[int] = ..., first_inference_ns: _Optional[int] = ..., node_json: _Optional[str] = ...) -> None: ...

class SessionClosed(_message.Message):
    __slots__ = ("session_id",)
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: int
    def __init__(self, session_id: _Optional[int] = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("session_id", "frame_id", "padding", "payloads", "whole_bytes", "piece")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    FRAME_ID_FIELD_NUMBER: _ClassVar[int]
    PADDING_FIELD_NUMBER: _ClassVar[int]
    PAYLOADS_FIELD_NUMBER: _ClassVar[int]
    WHOLE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PIECE_FIELD_NUMBER: _ClassVar[int]
    session_id: int
    frame_id: int
    padding: bytes
    payloads: _containers.RepeatedScalarFieldContainer[bytes]
    whole_bytes: int
    piece: bytes
    def __init__(self, session_id: _Optional[int] = ..., frame_id: _Optional[int] = ..., padding: _Optional[bytes] = ..., payloads: _Optional[_Iterable[bytes]] = ..., whole_bytes: _Optional[int] = ..., piece: _Optional[bytes] = ...) -> None: ...

class EdgeTimes(_message.Message):
    __slots__ = ("received_ns", "edge_ns", "queue_ns", "decode_ns", "tail_ns", "encode_ns", "batch")
    RECEIVED_NS_FIELD_NUMBER: _ClassVar[int]
    EDGE_NS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_NS_FIELD_NUMBER: _ClassVar[int]
    DECODE_NS_FIELD_NUMBER: _ClassVar[int]
    TAIL_NS_FIELD_NUMBER: _ClassVar[int]
    ENCODE_NS_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    received_ns: int
    edge_ns: int
    queue_ns: int
    decode_ns: int
    tail_ns: int
    encode_ns: int
    batch: int
    def __init__(self, received_ns: _Optional[int] = ..., edge_ns: _Optional[int] = ..., queue_ns: _Optional[int] = ..., decode_ns: _Optional[int] = ..., tail_ns: _Optional[int] = ..., encode_ns: _Optional[int] = ..., batch: _Optional[int] = ...) -> None: ...

class Reply(_message.Message):
    __slots__ = ("session_id", "frame_id", "padding", "payloads", "times", "result_json", "failure")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    FRAME_ID_FIELD_NUMBER: _ClassVar[int]
    PADDING_FIELD_NUMBER: _ClassVar[int]
    PAYLOADS_FIELD_NUMBER: _ClassVar[int]
    TIMES_FIELD_NUMBER: _ClassVar[int]
    RESULT_JSON_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    session_id: int
    frame_id: int
    padding: bytes
    payloads: _containers.RepeatedScalarFieldContainer[bytes]
    times: EdgeTimes
    result_json: str
    failure: Failure
    def __init__(self, session_id: _Optional[int] = ..., frame_id: _Optional[int] = ..., padding: _Optional[bytes] = ..., payloads: _Optional[_Iterable[bytes]] = ..., times: _Optional[_Union[EdgeTimes, _Mapping]] = ..., result_json: _Optional[str] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("kind", "sentence")
    KIND_FIELD_NUMBER: _ClassVar[int]
    SENTENCE_FIELD_NUMBER: _ClassVar[int]
    kind: str
    sentence: str
    def __init__(self, kind: _Optional[str] = ..., sentence: _Optional[str] = ...) -> None: ...

class ProbeRequest(_message.Message):
    __slots__ = ("sent_ns",)
    SENT_NS_FIELD_NUMBER: _ClassVar[int]
    sent_ns: int
    def __init__(self, sent_ns: _Optional[int] = ...) -> None: ...

class ProbeReply(_message.Message):
    __slots__ = ("received_ns", "sent_ns")
    RECEIVED_NS_FIELD_NUMBER: _ClassVar[int]
    SENT_NS_FIELD_NUMBER: _ClassVar[int]
    received_ns: int
    sent_ns: int
    def __init__(self, received_ns: _Optional[int] = ..., sent_ns: _Optional[int] = ...) -> None: ...
