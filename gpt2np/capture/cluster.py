"""A Dask cluster as what runs the tasks of a capture: one that exists already."""

import importlib
import os
from typing import Any

from gpt2np.errors import InputError, MissingExtraError, reason, short
from gpt2np.files import read_text
from gpt2np.json_fields import parse_json

TIMEOUT = 15  # seconds for a scheduler to answer


def connect(address: str) -> Any:
    """Return a client of the scheduler at an address, or of the one that wrote a scheduler file.

    Raises:
        MissingExtraError: `distributed` is not installed.
        InputError: it is neither an address nor a scheduler file, no scheduler answers, or it has no workers.
    """
    try:
        distributed: Any = importlib.import_module("distributed")  # which has no types
        addressing: Any = importlib.import_module("distributed.comm.addressing")
        registry: Any = importlib.import_module("distributed.comm.registry")
    except ImportError:
        raise MissingExtraError(
            "a Dask cluster needs a package that is not installed: pip install 'gpt2np[cluster]'"
        ) from None
    where = scheduler_address(address)
    try:  # what is no address is refused here: a client would try to reach it, and complain of it at exit
        scheme, place = addressing.parse_address(where)
        registry.get_backend(scheme)
        if scheme != "inproc":
            addressing.parse_host_port(place)
    except ValueError as error:
        what = f"{_in_file(address, where)}is no address such as tcp://HOST:8786"
        raise InputError(f"dask={short(address)}: {what} ({reason(error)})") from None
    try:
        client = distributed.Client(address=where, timeout=TIMEOUT, set_as_default=False)
    except Exception as error:  # of any kind, as what is there may be another service
        what = f"{_in_file(address, where)}no scheduler answers"
        raise InputError(f"dask={short(address)}: {what} ({reason(error)})") from None
    if not client.scheduler_info()["workers"]:
        client.close()
        raise InputError(f"dask={short(address)}: the cluster has no workers; start some with `dask worker`")
    return client


def scheduler_address(given: str) -> str:
    """Return the address that is given, or that which a scheduler file has.

    Raises:
        InputError: it is neither.
    """
    said = f"dask={short(given)}: is no scheduler file"
    if not os.path.isfile(given):
        if ":" not in given:
            raise InputError(f"{said}, and no address such as tcp://HOST:8786")
        return given
    try:
        content = parse_json(read_text(given), "it")
    except InputError as error:
        raise InputError(f"{said} ({error})") from None
    address = content.get("address") if isinstance(content, dict) else None
    if not isinstance(address, str):
        raise InputError(f"{said}: it has no address, as one that `dask scheduler --scheduler-file` writes")
    return address


def _in_file(given: str, address: str) -> str:
    """What a message says before it speaks of an address that stands in a scheduler file."""
    return "" if given == address else f"{short(address)} in it: "
