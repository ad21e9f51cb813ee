from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Question(_message.Message):
    __slots__ = ("protocol", "software", "padding", "wanted")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    PADDING_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    software: str
    padding: bytes
    wanted: int
    def __init__(self, protocol: _Optional[int] = ..., software: _Optional[str] = ..., padding: _Optional[bytes] = ..., wanted: _Optional[int] = ...) -> None: ...

class Answer(_message.Message):
    __slots__ = ("protocol", "software", "run", "smallest", "padding")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    SMALLEST_FIELD_NUMBER: _ClassVar[int]
    PADDING_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    software: str
    run: str
    smallest: int
    padding: bytes
    def __init__(self, protocol: _Optional[int] = ..., software: _Optional[str] = ..., run: _Optional[str] = ..., smallest: _Optional[int] = ..., padding: _Optional[bytes] = ...) -> None: ...

class DeviceMessage(_message.Message):
    __slots__ = ("hello", "begin", "chunk", "stop", "heartbeat", "pong", "leave")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    BEGIN_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    PONG_FIELD_NUMBER: _ClassVar[int]
    LEAVE_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    begin: Begin
    chunk: bytes
    stop: Stop
    heartbeat: Heartbeat
    pong: Pong
    leave: Leave
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., begin: _Optional[_Union[Begin, _Mapping]] = ..., chunk: _Optional[bytes] = ..., stop: _Optional[_Union[Stop, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., pong: _Optional[_Union[Pong, _Mapping]] = ..., leave: _Optional[_Union[Leave, _Mapping]] = ...) -> None: ...

class ServerMessage(_message.Message):
    __slots__ = ("begin", "chunk", "stop", "welcome", "ack", "returned", "cancel", "notice", "ping", "bye", "refusal")
    BEGIN_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    RETURNED_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    PING_FIELD_NUMBER: _ClassVar[int]
    BYE_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    begin: Begin
    chunk: bytes
    stop: Stop
    welcome: Welcome
    ack: OrderId
    returned: Returned
    cancel: OrderId
    notice: Notice
    ping: Ping
    bye: Bye
    refusal: Refusal
    def __init__(self, begin: _Optional[_Union[Begin, _Mapping]] = ..., chunk: _Optional[bytes] = ..., stop: _Optional[_Union[Stop, _Mapping]] = ..., welcome: _Optional[_Union[Welcome, _Mapping]] = ..., ack: _Optional[_Union[OrderId, _Mapping]] = ..., returned: _Optional[_Union[Returned, _Mapping]] = ..., cancel: _Optional[_Union[OrderId, _Mapping]] = ..., notice: _Optional[_Union[Notice, _Mapping]] = ..., ping: _Optional[_Union[Ping, _Mapping]] = ..., bye: _Optional[_Union[Bye, _Mapping]] = ..., refusal: _Optional[_Union[Refusal, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("protocol", "software", "name", "identity", "nonce", "profile", "held")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    software: str
    name: str
    identity: bytes
    nonce: bytes
    profile: Profile
    held: _containers.RepeatedCompositeFieldContainer[OrderId]
    def __init__(self, protocol: _Optional[int] = ..., software: _Optional[str] = ..., name: _Optional[str] = ..., identity: _Optional[bytes] = ..., nonce: _Optional[bytes] = ..., profile: _Optional[_Union[Profile, _Mapping]] = ..., held: _Optional[_Iterable[_Union[OrderId, _Mapping]]] = ...) -> None: ...

class Profile(_message.Message):
    __slots__ = ("board", "machine", "system", "python", "torch", "cores", "memory", "accelerator", "samples", "input_shape", "classes", "holdout", "budgets")
    BOARD_FIELD_NUMBER: _ClassVar[int]
    MACHINE_FIELD_NUMBER: _ClassVar[int]
    SYSTEM_FIELD_NUMBER: _ClassVar[int]
    PYTHON_FIELD_NUMBER: _ClassVar[int]
    TORCH_FIELD_NUMBER: _ClassVar[int]
    CORES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    ACCELERATOR_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    INPUT_SHAPE_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    HOLDOUT_FIELD_NUMBER: _ClassVar[int]
    BUDGETS_FIELD_NUMBER: _ClassVar[int]
    board: str
    machine: str
    system: str
    python: str
    torch: str
    cores: float
    memory: int
    accelerator: str
    samples: int
    input_shape: _containers.RepeatedScalarFieldContainer[int]
    classes: int
    holdout: int
    budgets: Budgets
    def __init__(self, board: _Optional[str] = ..., machine: _Optional[str] = ..., system: _Optional[str] = ..., python: _Optional[str] = ..., torch: _Optional[str] = ..., cores: _Optional[float] = ..., memory: _Optional[int] = ..., accelerator: _Optional[str] = ..., samples: _Optional[int] = ..., input_shape: _Optional[_Iterable[int]] = ..., classes: _Optional[int] = ..., holdout: _Optional[int] = ..., budgets: _Optional[_Union[Budgets, _Mapping]] = ...) -> None: ...

class Budgets(_message.Message):
    __slots__ = ("memory", "seconds", "upload", "download")
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_FIELD_NUMBER: _ClassVar[int]
    DOWNLOAD_FIELD_NUMBER: _ClassVar[int]
    memory: int
    seconds: float
    upload: int
    download: int
    def __init__(self, memory: _Optional[int] = ..., seconds: _Optional[float] = ..., upload: _Optional[int] = ..., download: _Optional[int] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("load", "free", "celsius", "throttled", "hertz", "state")
    LOAD_FIELD_NUMBER: _ClassVar[int]
    FREE_FIELD_NUMBER: _ClassVar[int]
    CELSIUS_FIELD_NUMBER: _ClassVar[int]
    THROTTLED_FIELD_NUMBER: _ClassVar[int]
    HERTZ_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    load: float
    free: int
    celsius: float
    throttled: bool
    hertz: float
    state: str
    def __init__(self, load: _Optional[float] = ..., free: _Optional[int] = ..., celsius: _Optional[float] = ..., throttled: bool = ..., hertz: _Optional[float] = ..., state: _Optional[str] = ...) -> None: ...

class OrderId(_message.Message):
    __slots__ = ("run", "round", "rank")
    RUN_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    run: str
    round: int
    rank: int
    def __init__(self, run: _Optional[str] = ..., round: _Optional[int] = ..., rank: _Optional[int] = ...) -> None: ...

class Begin(_message.Message):
    __slots__ = ("id", "size", "data")
    ID_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    id: OrderId
    size: int
    data: bytes
    def __init__(self, id: _Optional[_Union[OrderId, _Mapping]] = ..., size: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class Stop(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class Ping(_message.Message):
    __slots__ = ("token",)
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    token: int
    def __init__(self, token: _Optional[int] = ...) -> None: ...

class Pong(_message.Message):
    __slots__ = ("token",)
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    token: int
    def __init__(self, token: _Optional[int] = ...) -> None: ...

class Leave(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("protocol", "software", "run")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    software: str
    run: str
    def __init__(self, protocol: _Optional[int] = ..., software: _Optional[str] = ..., run: _Optional[str] = ...) -> None: ...

class Returned(_message.Message):
    __slots__ = ("id", "reason")
    ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    id: OrderId
    reason: str
    def __init__(self, id: _Optional[_Union[OrderId, _Mapping]] = ..., reason: _Optional[str] = ...) -> None: ...

class Notice(_message.Message):
    __slots__ = ("text",)
    TEXT_FIELD_NUMBER: _ClassVar[int]
    text: str
    def __init__(self, text: _Optional[str] = ...) -> None: ...

class Bye(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("why", "text")
    class Why(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UNKNOWN: _ClassVar[Refusal.Why]
        OLDER: _ClassVar[Refusal.Why]
        NEWER: _ClassVar[Refusal.Why]
        NAME: _ClassVar[Refusal.Why]
        CLONE: _ClassVar[Refusal.Why]
        BROKEN: _ClassVar[Refusal.Why]
        FULL: _ClassVar[Refusal.Why]
    UNKNOWN: Refusal.Why
    OLDER: Refusal.Why
    NEWER: Refusal.Why
    NAME: Refusal.Why
    CLONE: Refusal.Why
    BROKEN: Refusal.Why
    FULL: Refusal.Why
    WHY_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    why: Refusal.Why
    text: str
    def __init__(self, why: _Optional[_Union[Refusal.Why, str]] = ..., text: _Optional[str] = ...) -> None: ...

class Head(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: OrderId
    def __init__(self, id: _Optional[_Union[OrderId, _Mapping]] = ...) -> None: ...

class Order(_message.Message):
    __slots__ = ("id", "device", "kind", "net", "names", "selection", "nested", "work", "payloads", "returns", "seed", "deadline", "memory", "personal")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        TRAIN: _ClassVar[Order.Kind]
        MEASURE: _ClassVar[Order.Kind]
        EVALUATE: _ClassVar[Order.Kind]
    TRAIN: Order.Kind
    MEASURE: Order.Kind
    EVALUATE: Order.Kind
    ID_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    NET_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    NESTED_FIELD_NUMBER: _ClassVar[int]
    WORK_FIELD_NUMBER: _ClassVar[int]
    PAYLOADS_FIELD_NUMBER: _ClassVar[int]
    RETURNS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    PERSONAL_FIELD_NUMBER: _ClassVar[int]
    id: OrderId
    device: str
    kind: Order.Kind
    net: Net
    names: _containers.RepeatedScalarFieldContainer[str]
    selection: Selection
    nested: _containers.RepeatedCompositeFieldContainer[Selection]
    work: Work
    payloads: _containers.RepeatedCompositeFieldContainer[Payload]
    returns: _containers.RepeatedCompositeFieldContainer[Return]
    seed: int
    deadline: float
    memory: int
    personal: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, id: _Optional[_Union[OrderId, _Mapping]] = ..., device: _Optional[str] = ..., kind: _Optional[_Union[Order.Kind, str]] = ..., net: _Optional[_Union[Net, _Mapping]] = ..., names: _Optional[_Iterable[str]] = ..., selection: _Optional[_Union[Selection, _Mapping]] = ..., nested: _Optional[_Iterable[_Union[Selection, _Mapping]]] = ..., work: _Optional[_Union[Work, _Mapping]] = ..., payloads: _Optional[_Iterable[_Union[Payload, _Mapping]]] = ..., returns: _Optional[_Iterable[_Union[Return, _Mapping]]] = ..., seed: _Optional[int] = ..., deadline: _Optional[float] = ..., memory: _Optional[int] = ..., personal: _Optional[_Iterable[int]] = ...) -> None: ...

class Net(_message.Message):
    __slots__ = ("factory", "arguments", "digest")
    class ArgumentsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Scalar
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Scalar, _Mapping]] = ...) -> None: ...
    FACTORY_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    factory: str
    arguments: _containers.MessageMap[str, Scalar]
    digest: bytes
    def __init__(self, factory: _Optional[str] = ..., arguments: _Optional[_Mapping[str, Scalar]] = ..., digest: _Optional[bytes] = ...) -> None: ...

class Scalar(_message.Message):
    __slots__ = ("whole", "real", "text", "truth")
    WHOLE_FIELD_NUMBER: _ClassVar[int]
    REAL_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TRUTH_FIELD_NUMBER: _ClassVar[int]
    whole: int
    real: float
    text: str
    truth: bool
    def __init__(self, whole: _Optional[int] = ..., real: _Optional[float] = ..., text: _Optional[str] = ..., truth: bool = ...) -> None: ...

class Work(_message.Message):
    __slots__ = ("objective", "settings", "epochs", "batch", "rate", "momentum", "decay", "clip", "steps", "scaler", "gate", "adjust")
    class SettingsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    OBJECTIVE_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    RATE_FIELD_NUMBER: _ClassVar[int]
    MOMENTUM_FIELD_NUMBER: _ClassVar[int]
    DECAY_FIELD_NUMBER: _ClassVar[int]
    CLIP_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    SCALER_FIELD_NUMBER: _ClassVar[int]
    GATE_FIELD_NUMBER: _ClassVar[int]
    ADJUST_FIELD_NUMBER: _ClassVar[int]
    objective: str
    settings: _containers.ScalarMap[str, float]
    epochs: int
    batch: int
    rate: float
    momentum: float
    decay: float
    clip: float
    steps: int
    scaler: bool
    gate: str
    adjust: str
    def __init__(self, objective: _Optional[str] = ..., settings: _Optional[_Mapping[str, float]] = ..., epochs: _Optional[int] = ..., batch: _Optional[int] = ..., rate: _Optional[float] = ..., momentum: _Optional[float] = ..., decay: _Optional[float] = ..., clip: _Optional[float] = ..., steps: _Optional[int] = ..., scaler: bool = ..., gate: _Optional[str] = ..., adjust: _Optional[str] = ...) -> None: ...

class Selection(_message.Message):
    __slots__ = ("first", "cuts", "dropped", "masks", "lent")
    class Cut(_message.Message):
        __slots__ = ("group", "kept")
        GROUP_FIELD_NUMBER: _ClassVar[int]
        KEPT_FIELD_NUMBER: _ClassVar[int]
        group: int
        kept: bytes
        def __init__(self, group: _Optional[int] = ..., kept: _Optional[bytes] = ...) -> None: ...
    class Mask(_message.Message):
        __slots__ = ("tensor", "shape", "held", "coded")
        TENSOR_FIELD_NUMBER: _ClassVar[int]
        SHAPE_FIELD_NUMBER: _ClassVar[int]
        HELD_FIELD_NUMBER: _ClassVar[int]
        CODED_FIELD_NUMBER: _ClassVar[int]
        tensor: int
        shape: _containers.RepeatedScalarFieldContainer[int]
        held: bytes
        coded: bytes
        def __init__(self, tensor: _Optional[int] = ..., shape: _Optional[_Iterable[int]] = ..., held: _Optional[bytes] = ..., coded: _Optional[bytes] = ...) -> None: ...
    FIRST_FIELD_NUMBER: _ClassVar[int]
    CUTS_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    MASKS_FIELD_NUMBER: _ClassVar[int]
    LENT_FIELD_NUMBER: _ClassVar[int]
    first: _containers.RepeatedScalarFieldContainer[int]
    cuts: _containers.RepeatedCompositeFieldContainer[Selection.Cut]
    dropped: _containers.RepeatedScalarFieldContainer[int]
    masks: _containers.RepeatedCompositeFieldContainer[Selection.Mask]
    lent: bytes
    def __init__(self, first: _Optional[_Iterable[int]] = ..., cuts: _Optional[_Iterable[_Union[Selection.Cut, _Mapping]]] = ..., dropped: _Optional[_Iterable[int]] = ..., masks: _Optional[_Iterable[_Union[Selection.Mask, _Mapping]]] = ..., lent: _Optional[bytes] = ...) -> None: ...

class Payload(_message.Message):
    __slots__ = ("name", "coding", "size", "version", "base", "selection")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CODING_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    name: str
    coding: str
    size: int
    version: int
    base: int
    selection: Selection
    def __init__(self, name: _Optional[str] = ..., coding: _Optional[str] = ..., size: _Optional[int] = ..., version: _Optional[int] = ..., base: _Optional[int] = ..., selection: _Optional[_Union[Selection, _Mapping]] = ...) -> None: ...

class Return(_message.Message):
    __slots__ = ("name", "coding", "part")
    class Part(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OWN: _ClassVar[Return.Part]
        OUTSIDE: _ClassVar[Return.Part]
        CHOSEN: _ClassVar[Return.Part]
        DENSE: _ClassVar[Return.Part]
    OWN: Return.Part
    OUTSIDE: Return.Part
    CHOSEN: Return.Part
    DENSE: Return.Part
    NAME_FIELD_NUMBER: _ClassVar[int]
    CODING_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    name: str
    coding: str
    part: Return.Part
    def __init__(self, name: _Optional[str] = ..., coding: _Optional[str] = ..., part: _Optional[_Union[Return.Part, str]] = ...) -> None: ...

class Report(_message.Message):
    __slots__ = ("id", "device", "outcome", "reason", "names", "payloads", "samples", "labels", "metrics", "seconds", "peak", "measured", "sensors")
    class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        DONE: _ClassVar[Report.Outcome]
        REFUSED: _ClassVar[Report.Outcome]
        KILLED: _ClassVar[Report.Outcome]
        FAILED: _ClassVar[Report.Outcome]
        ABORTED: _ClassVar[Report.Outcome]
    DONE: Report.Outcome
    REFUSED: Report.Outcome
    KILLED: Report.Outcome
    FAILED: Report.Outcome
    ABORTED: Report.Outcome
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class SensorsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    PAYLOADS_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    PEAK_FIELD_NUMBER: _ClassVar[int]
    MEASURED_FIELD_NUMBER: _ClassVar[int]
    SENSORS_FIELD_NUMBER: _ClassVar[int]
    id: OrderId
    device: str
    outcome: Report.Outcome
    reason: str
    names: _containers.RepeatedScalarFieldContainer[str]
    payloads: _containers.RepeatedCompositeFieldContainer[Payload]
    samples: int
    labels: _containers.RepeatedScalarFieldContainer[int]
    metrics: _containers.ScalarMap[str, float]
    seconds: Seconds
    peak: int
    measured: _containers.RepeatedCompositeFieldContainer[Measured]
    sensors: _containers.ScalarMap[str, float]
    def __init__(self, id: _Optional[_Union[OrderId, _Mapping]] = ..., device: _Optional[str] = ..., outcome: _Optional[_Union[Report.Outcome, str]] = ..., reason: _Optional[str] = ..., names: _Optional[_Iterable[str]] = ..., payloads: _Optional[_Iterable[_Union[Payload, _Mapping]]] = ..., samples: _Optional[int] = ..., labels: _Optional[_Iterable[int]] = ..., metrics: _Optional[_Mapping[str, float]] = ..., seconds: _Optional[_Union[Seconds, _Mapping]] = ..., peak: _Optional[int] = ..., measured: _Optional[_Iterable[_Union[Measured, _Mapping]]] = ..., sensors: _Optional[_Mapping[str, float]] = ...) -> None: ...

class Seconds(_message.Message):
    __slots__ = ("wait", "down", "build", "train", "encode", "up")
    WAIT_FIELD_NUMBER: _ClassVar[int]
    DOWN_FIELD_NUMBER: _ClassVar[int]
    BUILD_FIELD_NUMBER: _ClassVar[int]
    TRAIN_FIELD_NUMBER: _ClassVar[int]
    ENCODE_FIELD_NUMBER: _ClassVar[int]
    UP_FIELD_NUMBER: _ClassVar[int]
    wait: float
    down: float
    build: float
    train: float
    encode: float
    up: float
    def __init__(self, wait: _Optional[float] = ..., down: _Optional[float] = ..., build: _Optional[float] = ..., train: _Optional[float] = ..., encode: _Optional[float] = ..., up: _Optional[float] = ...) -> None: ...

class Measured(_message.Message):
    __slots__ = ("step", "peak")
    STEP_FIELD_NUMBER: _ClassVar[int]
    PEAK_FIELD_NUMBER: _ClassVar[int]
    step: float
    peak: int
    def __init__(self, step: _Optional[float] = ..., peak: _Optional[int] = ...) -> None: ...
