"""A Dask cluster as what runs the tasks of a capture: one that exists already."""

import importlib
import os
from typing import Any

from gpt2np.errors import InputError, MissingExtraError, reason, short

TIMEOUT = 15  # seconds for a scheduler to answer


def connect(address: str) -> Any:
    """Return a client of the scheduler at an address, or of the one that wrote a scheduler file.

    Raises:
        MissingExtraError: `distributed` is not installed.
        InputError: no scheduler answers, or it has no workers.
    """
    try:
        distributed: Any = importlib.import_module("distributed")  # which has no types
    except ImportError:
        raise MissingExtraError(
            "a Dask cluster needs a package that is not installed: pip install 'gpt2np[cluster]'"
        ) from None
    if not os.path.isfile(address) and ":" not in address:
        raise InputError(
            f"dask={short(address)}: is no scheduler file, and no address such as tcp://HOST:8786"
        )
    where = {"scheduler_file": address} if os.path.isfile(address) else {"address": address}
    try:
        client = distributed.Client(**where, timeout=TIMEOUT, set_as_default=False)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"dask={short(address)}: no scheduler answers ({reason(error)})") from None
    if not client.scheduler_info()["workers"]:
        client.close()
        raise InputError(f"dask={short(address)}: the cluster has no workers; start some with `dask worker`")
    return client
