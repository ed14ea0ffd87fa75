"""Brings a checkpoint from the Hugging Face Hub, one pinned file after another, or finds it in the cache.

`config.json` comes first, and its commit pins every other file, so that a branch that moves meanwhile cannot
mix two versions. Nothing but files that the Hub cache already holds is used when there is no network.
"""

import os
import re
import threading
from dataclasses import dataclass, replace
from pathlib import Path

from gpt2np.checkpoints.weight_files import read_index
from gpt2np.errors import CheckpointError, HubError, short

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the second only if there is nothing of the first
TOKENIZER = ("vocab.json", "merges.txt")
EXTRAS = (
    *("added_tokens.json", "special_tokens_map.json", "tokenizer_config.json", "tokenizer.json"),
    *("generation_config.json", "chat_template.jinja"),
)
COMMIT = re.compile("[0-9a-f]{40}")
PATIENCE = 6.0  # seconds for the Hub's first answer; huggingface_hub alone would retry for 23


@dataclass(frozen=True)
class Snapshot:
    """A checkpoint in the Hub cache: its folder, exact commit, and what the user should know about it."""

    folder: Path
    commit: str
    repo_id: str
    note: str | None = None


def fetch(repo_id: str, revision: str | None = None, *, local_files_only: bool = False) -> Snapshot:
    """Download what is missing of a model, weights and tokenizer, and return where it all is.

    `revision` is a branch, a tag or a commit; a commit that is complete in the cache needs no network.
    Without network, with `local_files_only` and with HF_HUB_OFFLINE=1 the cache alone must do. HF_ENDPOINT,
    HF_HUB_CACHE and HF_HOME are huggingface_hub's. Raises HubError, or CheckpointError if an index of shards
    is wrong; no text of either holds a token, nor does the note.
    """
    try:
        snapshot = _fetched(repo_id, revision, local_files_only)
    except HubError as error:
        raise HubError(_without_secrets(str(error))) from None
    return replace(snapshot, note=snapshot.note and _without_secrets(snapshot.note))


def _fetched(repo_id: str, revision: str | None, local_files_only: bool) -> Snapshot:
    repo = _Repo(repo_id, "main" if revision is None else revision)
    repo.check_names()
    if local_files_only or _offline():
        try:
            return repo.collect()
        except HubError as error:
            raise HubError(f"{error} (not looking on the Hub, as asked). {_ways_out(repo_id)}") from None
    if COMMIT.fullmatch(repo.asked):
        try:
            snapshot = repo.collect()
        except HubError:
            pass
        else:
            if not repo.unknown:
                return snapshot
    silence = repo.why_silent()
    if silence is None:
        repo.online = True
        return repo.collect()
    try:
        snapshot = repo.collect()
    except HubError as error:
        raise HubError(
            f"{repo.endpoint} is out of reach ({silence}) and {error}. {_ways_out(repo_id)}"
        ) from None
    note = f"{repo.endpoint} is out of reach ({silence}): using the cached commit {snapshot.commit[:12]}"
    return replace(snapshot, note="; ".join(filter(None, (note, snapshot.note))))


class _Repo:
    """One repository at one revision, in the cache and, once `online`, on the Hub."""

    def __init__(self, repo_id: str, revision: str) -> None:
        from huggingface_hub import constants

        self.repo_id, self.asked, self.revision, self.online = repo_id, revision, revision, False
        self.unknown: list[str] = []  # files that the cache neither has nor knows to be absent
        self.endpoint = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
        home = os.environ.get("HF_HOME")
        cache = (
            os.environ.get("HF_HUB_CACHE") or (home and os.path.join(home, "hub")) or constants.HF_HUB_CACHE
        )
        self.cache = Path(os.path.expandvars(cache)).expanduser()

    def check_names(self) -> None:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.errors import HFValidationError

        try:
            hf_hub_url(self.repo_id, "config.json")  # only for its rules
        except HFValidationError as error:
            raise HubError(
                f"{short(self.repo_id)} is neither a folder nor a Hub id: {_one_line(error)}"
            ) from None
        if not re.fullmatch(r"[\w.+@-]+(/[\w.+@-]+)*", self.asked) or ".." in self.asked:
            raise HubError(
                f"{short(self.asked)} is no revision of {self.repo_id}: a branch, a tag or a commit"
            )

    def collect(self) -> Snapshot:
        """Find every file, in order; an error if config.json or any of the weights is missing."""
        self.revision, self.unknown = self.asked, []
        config = self.find("config.json")
        if config is None and not self.online:
            raise HubError(f"{self.repo_id} (revision {self.asked}) is not in the cache {self.cache}")
        if config is None:
            raise HubError(f"{self} has no config.json: it is not a transformers checkpoint")
        self.revision = config.parent.name  # the commit: pins all the rest
        self._find_weights()
        for name in TOKENIZER + EXTRAS:
            self.find(name)
        doubtful = " and ".join(name for name in TOKENIZER if name in self.unknown)
        note = f"the cache lacks {doubtful}, which the model may have" if doubtful else None
        return Snapshot(config.parent, self.revision, self.repo_id, note)

    def _find_weights(self) -> None:
        for name in WEIGHTS:
            if self.find(name):
                return
            index = self.find(f"{name}.index.json")
            if index:
                for shard in _shards(index):
                    if not self.find(shard):
                        raise HubError(f"{self} has no {shard}, which its {index.name} names")
                return
        raise HubError(f"{self} has no weights: neither {' nor '.join(WEIGHTS)}, nor an index of either")

    def find(self, name: str) -> Path | None:
        """A file's path, downloading it if need be; None if there is no such file."""
        from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache

        pinned = COMMIT.fullmatch(self.revision)
        if pinned or not self.online:
            found = try_to_load_from_cache(self.repo_id, name, cache_dir=self.cache, revision=self.revision)
            if isinstance(found, str):
                return Path(found)
            if found is _CACHED_NO_EXIST:
                return None
        if self.online:
            return self._download(name)
        self.unknown.append(name)
        return None

    def _download(self, name: str) -> Path | None:
        from huggingface_hub import errors as hf
        from huggingface_hub import hf_hub_download

        login = "log in with `hf auth login` or set HF_TOKEN"
        where = f"{self.endpoint}/{self.repo_id}"
        try:
            path = hf_hub_download(
                self.repo_id, name, revision=self.revision, cache_dir=self.cache, endpoint=self.endpoint
            )
        except hf.GatedRepoError:
            raise HubError(
                f"{self.repo_id} is gated: accept its licence (or ask for access) at {where}, then {login}"
            ) from None
        except hf.RepositoryNotFoundError:
            raise HubError(
                f"{self.endpoint} has no model {self.repo_id}; if it is private, {login}"
            ) from None
        except hf.RevisionNotFoundError:
            raise HubError(f"{self.repo_id} has no revision {self.asked}: see {where}/tree/main") from None
        except Exception as error:  # whatever the HTTP library of the day raises, and a full disk
            wrapped = isinstance(error, hf.LocalEntryNotFoundError)
            cause = error.__cause__ if wrapped else error
            status = getattr(getattr(cause, "response", None), "status_code", None)
            if isinstance(error, hf.EntryNotFoundError) and not wrapped:
                return None
            if status == 404 and name == "config.json":
                raise HubError(f"{where} has no config.json at this revision, or is no model") from None
            if status == 404:  # a mirror may not say which kind of 404 it is
                return None
            if status in (401, 403):
                raise HubError(f"{where} refuses access to {name} ({status}): {login}") from None
            raise HubError(self._failed(name, error)) from error
        return Path(path)

    def _failed(self, name: str, error: BaseException) -> str:
        mirror = " (with a mirror, also set HF_HUB_DISABLE_XET=1)" if os.environ.get("HF_ENDPOINT") else ""
        advice = f"Finished files are kept: try again{mirror}"
        return f"downloading {name} of {self} failed: {_one_line(_root(error))}. {advice}"

    def why_silent(self) -> str | None:
        """Why the Hub does not answer one short request; None if it does.

        In a thread, since nothing else bounds a name server that does not answer or headers that trickle in.
        """
        from huggingface_hub import get_session, hf_hub_url

        url = hf_hub_url(self.repo_id, "config.json", revision=self.asked, endpoint=self.endpoint)
        answers: list[str | None] = []

        def ask() -> None:
            try:
                status = get_session().head(url, timeout=PATIENCE).status_code
                answers.append(f"it answers {status}" if status >= 500 or status in (408, 429) else None)
            except Exception as error:
                answers.append(_one_line(_root(error)))

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(PATIENCE)
        return answers[0] if answers else f"no answer in {PATIENCE:.0f} seconds"

    def __str__(self) -> str:
        """Where a file was looked for."""
        where = f"on {self.endpoint}" if self.online else "in the cache"
        return f"{self.repo_id} (revision {self.asked}) {where}"


def _shards(index: Path) -> list[str]:
    """The files that an index names, each once; CheckpointError unless all are plain file names."""
    names = list(dict.fromkeys(path.name for path in read_index(index).values()))
    for name in names:
        if not re.fullmatch(r"\w[\w.-]*", name, re.ASCII) or ".." in name:
            raise CheckpointError(f"{index} names the shard {short(name)}: not a plain file name")
    return names


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE) or os.environ.get("HF_HUB_OFFLINE", "").upper() in (
        "1",
        "ON",
        "YES",
        "TRUE",
    )


def _ways_out(repo_id: str) -> str:
    return (
        f"Without network here: run `gpt2np download {repo_id}` on a machine that has one and pass the "
        "folder, or copy the Hub cache and set HF_HUB_OFFLINE=1"
    )


def _without_secrets(text: str) -> str:
    """A text without tokens, passwords in addresses, and what signed addresses end in."""
    from huggingface_hub import get_token

    names = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
    for secret in [*(os.environ.get(name) for name in names), get_token()]:
        for form in (secret, repr(secret)[1:-1], secret.strip()) if secret and secret.strip() else ():
            text = text.replace(form, "(token)")
    text = re.sub(r"\bhf_\w{6,}", "(token)", text)
    text = re.sub(r"(?<=://)[^/\s@]+@", "", text)
    return re.sub(r"(https?://[^\s?]+)\?[^\s'\"]+", r"\1", text)


def _root(error: BaseException) -> BaseException:
    """What started it: "Connection refused", and not three libraries' wrappings of that."""
    while inner := error.__cause__ or (None if error.__suppress_context__ else error.__context__):
        error = inner
    return error


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()).partition(" For more information check:")[0]
    return f"{type(error).__name__}: {text}"[:200] if text else type(error).__name__
