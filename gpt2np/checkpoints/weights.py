"""The weights of a model as one reads them, and a checkpoint with some of them replaced."""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from gpt2np.checkpoints.watched_file import WatchedFile
from gpt2np.errors import InputError, UnknownWeightError, nearest, reason, short
from gpt2np.html_tables import plain_table
from gpt2np.ops import Array
from gpt2np.ops.narrow_weights import is_narrow, name_of_dtype, widened

if TYPE_CHECKING:
    from gpt2np.checkpoints.checkpoint import Checkpoint


class Weights(Mapping[str, Array]):
    """Arrays by the names that they have in the checkpoint; neither the mapping nor an array can be changed.

    `held` has them as they are in memory. What is bfloat16 or float16 there becomes float32 when it is read.
    What a run computes with was laid out when the model was loaded: `model.with_weights` gives another model.
    """

    def __init__(self, arrays: Mapping[str, Array], watched: Sequence[WatchedFile] = ()) -> None:
        """`watched` are the files that arrays are views of: what is read after they changed is an error."""
        held = arrays.held if isinstance(arrays, Weights) else arrays
        self.held: Mapping[str, Array] = {name: _read_only(array) for name, array in held.items()}
        self._watched = tuple(watched)

    def __getitem__(self, name: str) -> Array:
        for file in self._watched:
            file.check()
        try:
            return widened(self.held[name])
        except KeyError:
            near = nearest(name, self.held, cutoff=0.4) if isinstance(name, str) else None
            hint = f"the nearest is {short(near)}" if near else "model.weights.keys() has the names"
            raise UnknownWeightError(f"no weight is called {short(name)}; {hint}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.held)

    def __len__(self) -> int:
        return len(self.held)

    def __or__(self, other: Mapping[str, Array]) -> dict[str, Array]:
        return {**self, **other}

    def __ror__(self, other: Mapping[str, Array]) -> dict[str, Array]:
        return {**other, **self}

    def __repr__(self) -> str:
        size, kept = sum(array.size for array in self.held.values()), self.narrow
        return f"<Weights: {len(self)} arrays, {size:,} parameters{f', {kept} as stored' if kept else ''}>"

    @property
    def narrow(self) -> str:
        """In which half precision matrices are held; empty if in none."""
        return " and ".join(sorted({name_of_dtype(a.dtype) for a in self.held.values() if is_narrow(a)}))

    def precision(self, dtype: np.dtype[Any]) -> str:
        """In which precision a run computes with them, and how they are held if that is another one."""
        return f"{dtype.name}, {self.narrow} weights as stored" if self.narrow else dtype.name

    def _repr_html_(self) -> str:
        """Name, shape and type of each array."""
        rows = [
            [name, " x ".join(map(str, a.shape)), name_of_dtype(a.dtype)] for name, a in self.held.items()
        ]
        return plain_table([["name", "shape", "type"], *rows], repr(self).strip("<>"))

    def _ipython_key_completions_(self) -> list[str]:
        """What Tab offers after `weights[`."""
        return list(self.held)

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise InputError(
            "weights are read-only: model.with_weights({name: array}) gives a model that has others"
        )

    __setitem__ = __delitem__ = __ior__ = _refuse
    update = pop = popitem = clear = setdefault = _refuse

    def __reduce__(self) -> tuple[type["Weights"], tuple[dict[str, Array]]]:
        return Weights, (dict(self.held),)  # NumPy forgets on the way that an array is read-only


def _read_only(array: Array) -> Array:
    view = array.view()
    owner: Any = array
    while isinstance(owner, np.ndarray):  # also what it is a view of, or somebody could make it writable
        owner.flags.writeable = False
        owner = owner.base
    view.flags.writeable = False
    return view


def with_weights(checkpoint: "Checkpoint", changes: Mapping[str, Any], dtype: np.dtype[Any]) -> "Checkpoint":
    """The checkpoint with other arrays under some names, copied and in the precision of the run.

    An unembedding of its own may be added; one that equals the table of tokens is the table, as in a file.

    Raises:
        InputError: no mapping of names to arrays; a name, shape or type that does not fit; NaN or inf.
    """
    if not isinstance(changes, Mapping):
        raise InputError(f"with_weights takes a mapping of names to arrays, not {type(changes).__name__}")
    unembedding, table = checkpoint.config.architecture.naming.tied
    held = Weights(checkpoint.weights).held
    known = {name: array.shape for name, array in held.items()}
    known.setdefault(unembedding, known[table])
    new = {name: _checked(name, value, known, dtype) for name, value in changes.items()}
    weights = {**held, **new}
    if unembedding in new and np.array_equal(weights[unembedding], widened(weights[table])):
        del weights[unembedding]
    digest = hashlib.sha256(checkpoint.fingerprint.encode())
    for name in sorted(new):
        digest.update(f" {name} {new[name].dtype} {new[name].shape} ".encode())
        digest.update(np.ascontiguousarray(new[name]).data)
    names = ", ".join(list(new)[:8]) + (", ..." if len(new) > 8 else "")
    return dataclasses.replace(
        checkpoint,
        notes=(*checkpoint.notes, *([f"with_weights has replaced {names}"] if new else [])),
        weights=Weights(weights, checkpoint.watched),
        fingerprint=digest.hexdigest()[:16] if new else checkpoint.fingerprint,
        replaced=tuple(dict.fromkeys((*checkpoint.replaced, *new))),
    )


def _checked(name: Any, value: Any, known: Mapping[str, tuple[int, ...]], dtype: np.dtype[Any]) -> Array:
    if not isinstance(name, str) or name not in known:
        import difflib  # only after a mistake

        near = difflib.get_close_matches(name[:200] if isinstance(name, str) else "", known, 1)
        hint = f"; did you mean {short(near[0])}?" if near else "; model.weights has the names"
        raise InputError(f"with_weights: no weight is called {short(name)}{hint}")
    try:
        array = np.asarray(value)
    except Exception as error:  # whatever another library's array says: one on a GPU, one with a gradient
        raise InputError(f"with_weights: {name}: cannot be made a NumPy array ({reason(error)})") from None
    if not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"with_weights: {name} is {array.dtype}, expected a float type")
    if array.shape != known[name]:
        raise InputError(f"with_weights: {name} has shape {list(array.shape)}, expected {list(known[name])}")
    with np.errstate(all="ignore"):
        array = np.array(array, dtype)  # a copy: what the caller does with his array does not matter
    if not np.isfinite(array).all():
        raise InputError(f"with_weights: {name} holds values that are not finite in {dtype.name}")
    return array
