"""Settings of a device: one frozen value, from a TOML file and the command line; an unknown key is an error.

`/etc/pleat/client.toml` is read where it exists; `--config F` names another file; the command line wins over both.
Sizes are bytes, or text with a unit: "300MiB" (1024s), "2MB" (1000s).
"""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from pleat.errors import UseError, hint
from pleat.exchange.report import Budgets
from pleat_client import roots

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LEAST_MEMORY = 1 << 20  # bytes; less is a unit forgotten
SYSTEM_FILE = Path("/etc/pleat/client.toml")
ACCELERATORS = ("auto", "cpu", "cuda")
SERVICE_STATE = Path("/var/lib/pleat")  # StateDirectory= of the systemd unit
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything `pleat-client run` can be told; a limit of None is no limit."""

    server: str = ""  # host:port; "" under Flower, whose SuperNode keeps the link
    data: Path  # the shard: .npz with x and y
    name: str  # label, unique in a run
    state: Path  # folder for identity, residual, unsent reports
    memory: int | None = None  # bytes of daemon and trainer together
    seconds: float | None = None  # of one round
    upload: int | None = None  # bytes a round
    download: int | None = None
    holdout: float = 0.1  # share of the shard kept for scoring
    insecure: bool = False  # plaintext beyond this machine
    ca: Path | None = None  # the server's certificate authority
    cert: Path | None = None  # this device's own certificate, for a server that asks for one; and its key
    key: Path | None = None
    idle: float = 30.0  # seconds without an order after which the trainer gives its memory back
    threads: int = 0  # of the trainer; 0 = as many cores as it may use
    accelerator: str = "auto"  # where it trains: one of ACCELERATORS; auto = a GPU that torch can use, else the CPU

    @property
    def budgets(self) -> Budgets:
        return Budgets(self.memory, self.seconds, self.upload, self.download)


_SIZES = ("memory", "upload", "download")


def size(value: object, key: str) -> int:
    """Bytes of a number or a text such as "300MiB". Raises UseError, naming `key`."""
    found = _SIZE.fullmatch(str(value)) if not isinstance(value, bool) else None
    unit = _UNITS.get(found[2].upper()) if found else None
    if found is None or unit is None:
        raise UseError(f"{key}: '{value}' is no size; write bytes or a unit, such as 300MiB, 2MB or 500kB")
    count = int(float(found[1]) * unit)
    if count <= 0:
        raise UseError(f"{key}: a budget of 0 bytes leaves nothing to do; leave {key} out for no limit")
    return count


def load(
    given: Mapping[str, Any],
    file: Path | None = None,
    system: Path = SYSTEM_FILE,
    env: Mapping[str, str] | None = None,
    linked: bool = True,
    defaults: Mapping[str, Any] | None = None,
) -> Config:
    """The settings of this device. `given`: the command line's, None = not said. `linked` = False: another program
    keeps the link, so that no server is named. `defaults`: what holds where neither the file nor `given` says anything.

    Raises UseError for any bad value.
    """
    merged = told(given, file, system, env, defaults=defaults)
    for key in ("server", "data") if linked else ("data",):
        if not merged.get(key):
            raise UseError(f"no {key} given; say --{key} {_EXAMPLES[key]}, or put {key} = ... into {file or system}")
    for key in _SIZES:
        if merged.get(key) is not None:
            merged[key] = size(merged[key], key)
    try:
        config = msgspec.convert(merged, Config, dec_hook=_path)
    except msgspec.ValidationError as error:
        raise UseError(f"settings of the device: {error}") from None
    return _checked(config)


def told(
    given: Mapping[str, Any],
    file: Path | None = None,
    system: Path = SYSTEM_FILE,
    env: Mapping[str, str] | None = None,
    service: Path | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What file and command line say, unchecked, with a name and a state folder in any case: enough for those who only
    look. `service`: the folder of a system service, which is looked at where nobody names one and the user has none.
    Raises UseError for a file that cannot be read or has an unknown key."""
    merged = dict(defaults or {})
    merged |= _read(file) if file is not None else _read(system) if system.exists() else {}
    merged |= {key: value for key, value in given.items() if value is not None}
    if not merged.get("name"):
        merged["name"] = platform.node()
    if not merged.get("state"):
        own = default_state(str(merged["name"]), os.environ if env is None else env)
        merged["state"] = service if service is not None and service.is_dir() and not own.exists() else own
    return merged


def default_state(name: str, env: Mapping[str, str]) -> Path:
    """systemd's StateDirectory, else the user's state folder, one a name: several devices may share a machine."""
    if env.get("STATE_DIRECTORY"):
        return Path(env["STATE_DIRECTORY"].split(":")[0])
    base = env.get("XDG_STATE_HOME") or os.path.join(env.get("HOME") or "/var/lib", ".local/state")
    return Path(base) / "pleat" / (name or "device")


def _path(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, (str, Path)):
        return Path(value)
    raise TypeError(f"expected a path, got {value!r}")


def _read(file: Path) -> dict[str, Any]:
    try:
        found = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UseError(f"settings {file}: cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise UseError(f"settings {file}: no TOML: {error}") from None
    check_keys(found, f"settings {file}", then=f"; edit it: ${{EDITOR:-nano}} {file}")
    for key in ("data", "state", "ca", "cert", "key"):  # a path in a file is meant from where the file lies
        if isinstance(found.get(key), str):
            found[key] = str(file.parent / found[key])
    return found


def check_keys(found: Iterable[str], where: str, more: Sequence[str] = (), then: str = "") -> None:
    """Raises UseError, with the nearest name, for a key that is neither a setting nor one of `more`."""
    known = (*Config.__struct_fields__, *more)
    for key in found:
        if key not in known:
            raise UseError(f"{where}: unknown key {key!r}; {hint(key, known, 'known are')}{then}")


def _checked(config: Config) -> Config:
    if config.memory is not None and config.memory < LEAST_MEMORY:
        raise UseError(f"memory: {config.memory} bytes hold no trainer; is {config.memory}MiB meant?")
    if config.server:
        _address(config.server)
    if not _NAME.fullmatch(config.name):
        raise UseError(
            f"name: '{config.name}' is no device name; take letters, digits, dots, dashes and underscores, at most 63, "
            "such as --name kitchen-pi"
        )
    if config.seconds is not None and not 0 < config.seconds < float("inf"):
        raise UseError(f"seconds: {config.seconds} is no time for a round; say how many seconds, such as 20")
    if not 0 <= config.holdout < 1:
        raise UseError(f"holdout: {config.holdout} is no share; expected 0 to below 1, such as 0.1")
    if not 0 <= config.idle < float("inf"):
        raise UseError(f"idle: {config.idle} is no time; say how many seconds the trainer waits, such as 30")
    if config.accelerator not in ACCELERATORS:
        raise UseError(f"accelerator: '{config.accelerator}' is none; expected {', '.join(ACCELERATORS)}")
    if not 0 <= config.threads <= 4096:
        raise UseError(f"threads: {config.threads} is no number of threads; 0 lets pleat choose")
    for key, path in (("data", config.data), ("ca", config.ca), ("cert", config.cert), ("key", config.key)):
        if path is not None and not path.is_file():
            raise UseError(f"{key}: there is no file {path}; {_MISSING[key]}")
    if config.ca is not None:
        roots.read(config.ca)
    roots.pair(config.cert, config.key)
    if sys.maxsize < 2**32:
        raise UseError("this is a 32-bit system, for which neither torch nor grpc is made; install the 64-bit one")
    return config


def _address(server: str) -> None:
    host, _, port = server.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UseError(f"server: '{server}' is no address; expected host:port, such as 192.168.1.10:8440")


_EXAMPLES = {"server": "HOST:PORT", "data": "shard.npz"}
_MISSING = {
    "data": "make shards with: pleat shards SOURCE --devices N",
    "cert": "copy this device's certificate here, which the server's --ca has signed",
    "key": "copy the key of this device's certificate here",
    "ca": "copy the certificate of the server's authority to this device: scp SERVER:ca.pem .",
}
