"""A loopback stand-in for the Hugging Face and ModelScope hubs, for tests with the real download clients.

It serves plain folders as model repositories and answers the routes that ``snapshot_download`` of
``huggingface_hub`` (0.36 and 2.x) and of ``modelscope`` (1.38 and newer) ask for, and nothing more::

    with HubServer({"timm/tiny": folder, "timm/tiny@v1.0": older_folder}) as hub:
        subprocess.run([...], env={**os.environ, **hub.environment(tmp_path)})
        assert set(hub.downloads) == {"config.json", "model.safetensors"}

Both clients read most of their settings when they are imported, so ``environment`` has to be in place before
that: run the client in a subprocess, or import it only afterwards.

ModelScope clients before 1.38 put ``https://`` in front of whatever domain they are given and cannot be
pointed at a plain HTTP server through the environment.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import socketserver
import threading
import urllib.parse
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

_HOST = "127.0.0.1"
_CHUNK = 1 << 20
# What a revision is called when nobody pins one: "main" on Hugging Face, "master" on ModelScope.
_DEFAULT_REVISIONS = ("main", "master")
# Files the hubs keep in LFS; their ETag is the SHA-256 of the content instead of a git object id.
_LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".onnx")

_HF_INFO = re.compile(r"/api/models/(?P<repo>.+?)(?:/revision/(?P<revision>[^/]+))?")
_HF_TREE = re.compile(r"/api/models/(?P<repo>.+?)/tree/(?P<revision>[^/]+)(?:/(?P<root>.+))?")
_HF_FILE = re.compile(r"/(?P<repo>.+?)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
_MS_FILES = re.compile(r"/api/v1/models/(?P<repo>.+?)/repo/files")
_MS_FILE = re.compile(r"/api/v1/models/(?P<repo>.+?)/repo")
_MS_INFO = re.compile(r"/api/v1/models/(?P<repo>[^/]+/[^/]+)")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_INVERTED = bytes(range(255, -1, -1))


class Transfer(NamedTuple):
    """One answer to a request for the content of a file."""

    repo: str
    revision: str
    file: str
    start: int  # first byte asked for; above zero when a client resumes
    sent: int  # bytes that went out, fewer than asked for under `truncate`


@dataclass
class _Fault:
    """Something that goes wrong on purpose, for the next `times` answers or until `recover`."""

    times: int | None
    at_byte: int = 0
    short: bool = False
    status: int = 500
    files_only: bool = False

    def use(self) -> bool:
        if self.times is None:
            return True
        self.times -= 1
        return self.times >= 0


@dataclass(frozen=True)
class _File:
    path: Path
    size: int
    sha256: str
    git_oid: str

    @property
    def in_lfs(self) -> bool:
        return self.path.suffix in _LFS_SUFFIXES

    @property
    def etag(self) -> str:
        return self.sha256 if self.in_lfs else self.git_oid


@dataclass
class _Repository:
    """The folders behind one repository, by revision; the revision "" is the default one."""

    folders: dict[str, Path] = field(default_factory=dict)

    def folder(self, revision: str) -> Path | None:
        if revision in _DEFAULT_REVISIONS and revision not in self.folders:
            return self.folders.get("")
        if revision in self.folders:
            return self.folders[revision]
        # A commit id names the content itself, whichever branch or tag points at it.
        return next((folder for folder in self.folders.values() if _commit(folder) == revision), None)


_digests: dict[tuple[Path, int, int], _File] = {}


def _describe(path: Path) -> _File:
    # Hashing is remembered, or every listing of a repository with a large file would read all of it.
    stat = path.stat()
    key = (path, stat.st_size, stat.st_mtime_ns)
    if key not in _digests:
        sha256 = hashlib.sha256()
        git_oid = hashlib.sha1(b"blob %d\0" % stat.st_size, usedforsecurity=False)
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                sha256.update(chunk)
                git_oid.update(chunk)
        _digests[key] = _File(path, stat.st_size, sha256.hexdigest(), git_oid.hexdigest())
    return _digests[key]


def _listing(folder: Path) -> dict[str, _File]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _describe(path) for path in paths}


def _commit(folder: Path) -> str:
    """A commit id that changes with the content, so that updating a folder looks like a new commit."""
    digest = hashlib.sha1(usedforsecurity=False)
    for name, file in _listing(folder).items():
        digest.update(f"{name}\0{file.sha256}\n".encode())
    return digest.hexdigest()


class HubServer:
    """Serves folders as repositories of both hubs on a loopback port; usable as a context manager.

    The keys of `repositories` are repository ids, optionally with a revision: ``"timm/tiny@v1.0"``. Without
    one the folder is what ``main`` and ``master`` lead to. Every folder can also be asked for by its commit
    id. Any other revision is unknown.
    """

    def __init__(self, repositories: Mapping[str, Path]) -> None:
        self.requests: list[tuple[str, str]] = []
        """Every request in order, as (method, path with its query, percent-decoded)."""
        self.transfers: list[Transfer] = []
        """Every answer that carried the content of a file."""
        self._repositories: dict[str, _Repository] = {}
        self._lock = threading.Lock()
        self._port = 0
        self._server: socketserver.ThreadingTCPServer | None = None
        self._cuts: dict[str, _Fault] = {}
        self._corrupt: set[str] = set()
        self._refusal: _Fault | None = None
        for key, folder in repositories.items():
            self.add(key, folder)

    # -- life cycle ------------------------------------------------------------------------------------------

    def __enter__(self) -> HubServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start listening; after `stop`, on the same port again, as a hub that comes back would."""
        if self._server is not None:
            return
        # Not http.server.HTTPServer: it looks up the host's full name, which hangs where no DNS answers.
        self._server = _Listener((_HOST, self._port), _handler(self))
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Stop listening: from now on connections are refused, as without a network."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    # -- what is served --------------------------------------------------------------------------------------

    def add(self, repository: str, folder: Path) -> None:
        """Serve one more folder, under a key like those of the constructor."""
        repo, _, revision = repository.partition("@")
        self._repositories.setdefault(repo, _Repository()).folders[revision] = Path(folder)

    def commit(self, repository: str) -> str:
        """The commit id of what a key like those of the constructor leads to."""
        repo, _, revision = repository.partition("@")
        return _commit(self._repositories[repo].folders[revision])

    # -- what was asked for ----------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"http://{_HOST}:{self._port}"

    @property
    def downloads(self) -> list[str]:
        """The names of the files whose content was asked for, in order."""
        return [transfer.file for transfer in self.transfers]

    def forget(self) -> None:
        """Empty `requests` and `transfers`, to look at the next call alone."""
        with self._lock:
            self.requests.clear()
            self.transfers.clear()

    # -- what goes wrong -------------------------------------------------------------------------------------

    def truncate(self, file: str, at_byte: int, *, short: bool = False, times: int | None = None) -> None:
        """Send no byte of a file from `at_byte` on, in the next `times` answers or for good.

        The answers announce the full size and the connection closes early, as when a network breaks. With
        `short` they announce and send just the first bytes, as a hub with a damaged copy would.
        """
        self._cuts[file] = _Fault(times, at_byte=at_byte, short=short)

    def corrupt(self, file: str) -> None:
        """Send wrong bytes for a file, in the right number, while announcing the hashes of the right ones."""
        self._corrupt.add(file)

    def refuse(self, status: int, *, files_only: bool = False, times: int | None = None) -> None:
        """Answer every request with an error: 401 or 403 (gated), 404 (unknown), 5xx (out of order).

        With `files_only` the repository can still be listed, as gated ones on Hugging Face can.
        """
        self._refusal = _Fault(times, status=status, files_only=files_only)

    def recover(self) -> None:
        """Take back every `truncate`, `corrupt` and `refuse`."""
        self._cuts.clear()
        self._corrupt.clear()
        self._refusal = None

    # -- pointing the clients here ---------------------------------------------------------------------------

    def environment(self, cache_dir: Path, *, patient: bool = False) -> dict[str, str]:
        """Environment variables that make both clients use this server, with all their state in `cache_dir`.

        Clients keep their own number of retries when `patient`; otherwise as few as the environment can ask
        for. Only ModelScope has settings for that: huggingface_hub 2.x tries a broken download for five
        seconds, and it and 0.x try a server that fails at the files for 23, whatever one says.
        """
        hf, ms = Path(cache_dir) / "huggingface", Path(cache_dir) / "modelscope"
        variables = {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(hf),
            # Named one by one, because each of them wins over HF_HOME where the developer has set it.
            "HF_HUB_CACHE": str(hf / "hub"),
            "HUGGINGFACE_HUB_CACHE": str(hf / "hub"),
            "HF_ASSETS_CACHE": str(hf / "assets"),
            "HF_XET_CACHE": str(hf / "xet"),
            "HF_TOKEN_PATH": str(hf / "token"),
            "HF_TOKEN": "",
            "HUGGING_FACE_HUB_TOKEN": "",
            "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_HUB_DISABLE_SYMLINKS_WARNING": "1",
            "HF_HUB_OFFLINE": "0",
            "TRANSFORMERS_OFFLINE": "0",
            "HUGGINGFACE_CO_STAGING": "0",
            "MODELSCOPE_ENDPOINT": self.url,
            # Deprecated and only looked at without MODELSCOPE_ENDPOINT; empty counts as unset.
            "MODELSCOPE_DOMAIN": "",
            "MODELSCOPE_PREFER_AI_SITE": "false",
            "MODELSCOPE_CACHE": str(ms / "cache"),
            "MODELSCOPE_HOME": str(ms / "home"),
            "MODELSCOPE_CREDENTIALS_PATH": str(ms / "home" / "credentials"),
            "MODELSCOPE_API_TOKEN": "",
            # Both clients honour proxy settings, and a proxy cannot reach this loopback address.
            **dict.fromkeys(("NO_PROXY", "no_proxy"), _HOST),
            **{
                name: ""
                for scheme in ("http", "https", "all")
                for name in (f"{scheme}_proxy", f"{scheme.upper()}_PROXY")
            },
        }
        if not patient:
            variables |= {
                "MODELSCOPE_DOWNLOAD_MAX_RETRIES": "0",
                "MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS": "1",
                "MODELSCOPE_API_MAX_RETRIES": "1",
            }
        return variables


class _Listener(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 32

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a client that hangs up in the middle of a download is no error of the server's."""


class _Refused(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def _handler(hub: HubServer) -> type[http.server.BaseHTTPRequestHandler]:
    return type("_BoundHandler", (_Handler,), {"hub": hub})


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        with self.hub._lock:
            self.hub.requests.append((self.command, urllib.parse.unquote_plus(self.path)))
        split = urllib.parse.urlsplit(self.path)
        query = {name: values[-1] for name, values in urllib.parse.parse_qs(split.query).items()}
        modelscope = split.path.startswith("/api/v1/")
        try:
            if modelscope:
                self._modelscope(split.path, query)
            else:
                self._hugging_face(split.path)
        except _Refused as refused:
            self._error(refused, modelscope)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: what was asked for is in `HubServer.requests`."""

    # -- routes ----------------------------------------------------------------------------------------------

    def _hugging_face(self, path: str) -> None:
        if path == "/api/agent-harnesses":
            # Asked for once a day by huggingface_hub 2.x, to name coding agents in its user agent.
            self._json({"standardEnvVars": [], "harnesses": {}})
        elif match := _HF_FILE.fullmatch(path):
            repo, revision, name = _unquoted(match, "repo", "revision", "file")
            folder = self._folder(repo, revision, listing=False)
            headers = {"X-Repo-Commit": _commit(folder)}
            file = _listing(folder).get(name)
            if file is None:
                raise _Refused(404, "EntryNotFound", "Entry not found")
            if file.in_lfs:
                headers |= {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(file.size)}
            self._content(Transfer(repo, revision, name, 0, 0), file, headers)
        elif match := _HF_TREE.fullmatch(path):
            repo, revision, root = _unquoted(match, "repo", "revision", "root")
            files = _listing(self._folder(repo, revision)).items()
            self._json([_hf_entry(name, file) for name, file in files if _below(name, root)])
        elif match := _HF_INFO.fullmatch(path):
            repo, revision = _unquoted(match, "repo", "revision")
            folder = self._folder(repo, revision or "main")
            siblings = [{"rfilename": name} for name in _listing(folder)]
            self._json({"id": repo, "modelId": repo, "sha": _commit(folder), "siblings": siblings})
        else:
            raise _Refused(404, "RepoNotFound", "Not found")

    def _modelscope(self, path: str, query: dict[str, str]) -> None:
        revision = query.get("Revision", "master")
        if path == "/api/v1/repos/internalAccelerationInfo":
            # Asks whether the machine is inside the hub's own data centre. It is not.
            self._json(_ms_answer({"InternalRegionQueryAddress": ""}))
        elif match := _MS_FILES.fullmatch(path):
            folder = self._folder(urllib.parse.unquote(match["repo"]), revision)
            root = query.get("Root", "").strip("/")
            entries = [entry for entry in _ms_entries(folder) if _below(str(entry["Path"]), root)]
            if root and not entries:
                raise _Refused(404, "", "path does not exist")
            self._json(_ms_answer({"Files": entries}))
        elif match := _MS_FILE.fullmatch(path):
            repo, name = urllib.parse.unquote(match["repo"]), query.get("FilePath", "")
            folder = self._folder(repo, revision, listing=False)
            file = _listing(folder).get(name)
            if file is None:
                raise _Refused(404, "", "file does not exist")
            self._content(Transfer(repo, revision, name, 0, 0), file, {})
        elif match := _MS_INFO.fullmatch(path):
            repo = urllib.parse.unquote(match["repo"])
            self._folder(repo, revision)
            self._json(_ms_answer({"Path": repo.partition("/")[0], "Name": repo.partition("/")[2]}))
        else:
            raise _Refused(404, "", "no such route")

    def _folder(self, repo: str, revision: str, *, listing: bool = True) -> Path:
        refusal = self.hub._refusal
        if refusal is not None and not (listing and refusal.files_only) and self._use(refusal):
            code = {401: "GatedRepo", 403: "GatedRepo", 404: "RepoNotFound"}.get(refusal.status, "")
            raise _Refused(refusal.status, code, "refused by the test")
        repository = self.hub._repositories.get(repo)
        if repository is None:
            # Hugging Face tells those who are not logged in 401, so as not to give private names away; the
            # code in the header is what its client goes by.
            anonymous = not self.path.startswith("/api/v1/") and "Authorization" not in self.headers
            raise _Refused(401 if anonymous else 404, "RepoNotFound", "Repository not found")
        folder = repository.folder(revision)
        if folder is None:
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return folder

    def _use(self, fault: _Fault) -> bool:
        with self.hub._lock:
            return fault.use()

    # -- answers ---------------------------------------------------------------------------------------------

    def _start(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        # One request per connection, so that stopping the server cannot leave a client with a live one.
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True

    def _body(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self._start(status, {"Content-Length": str(len(body)), **headers})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: object) -> None:
        self._body(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _error(self, refused: _Refused, modelscope: bool) -> None:
        if modelscope:
            answer: dict[str, object] = {"Code": refused.status, "Message": str(refused), "Success": False}
            headers = {"Content-Type": "application/json"}
        else:
            answer = {"error": str(refused)}
            headers = {"Content-Type": "application/json", "X-Error-Message": str(refused)}
            if refused.code:
                headers["X-Error-Code"] = refused.code
        self._body(refused.status, json.dumps(answer).encode(), headers)

    def _content(self, transfer: Transfer, file: _File, headers: dict[str, str]) -> None:
        headers = {"ETag": f'"{file.etag}"', "Accept-Ranges": "bytes", **headers}
        if self.command == "HEAD":
            # Never cut: what goes wrong on the way does not change what the hub knows about its files.
            self._start(200, {"Content-Length": str(file.size), **headers})
            return
        cut = self.hub._cuts.get(transfer.file)
        if cut is not None and not self._use(cut):
            cut = None
        announced = min(cut.at_byte, file.size) if cut is not None and cut.short else file.size
        start, stop, status = 0, announced, 200
        if asked := _RANGE.fullmatch(self.headers.get("Range", "")):
            start, status = int(asked[1]), 206
            stop = min(announced, int(asked[2]) + 1) if asked[2] else announced
            if start >= stop:
                self._body(416, b"", {"Content-Range": f"bytes */{announced}"})
                return
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{announced}"
        end = stop if cut is None else max(start, min(stop, cut.at_byte))
        # Noted before it is sent: a client may look at its answer, and a test at this list, before we go on.
        with self.hub._lock:
            self.hub.transfers.append(transfer._replace(start=start, sent=end - start))
        self._start(status, {"Content-Length": str(stop - start), **headers})
        wrong = transfer.file in self.hub._corrupt
        with file.path.open("rb") as stream, suppress(ConnectionError):
            stream.seek(start)
            while chunk := stream.read(min(_CHUNK, end - stream.tell())):
                self.wfile.write(chunk.translate(_INVERTED) if wrong else chunk)


def _unquoted(match: re.Match[str], *groups: str) -> tuple[str, ...]:
    return tuple(urllib.parse.unquote(match[group] or "") for group in groups)


def _below(name: str, root: str) -> bool:
    return not root or name == root or name.startswith(f"{root}/")


def _hf_entry(name: str, file: _File) -> dict[str, object]:
    entry: dict[str, object] = {"type": "file", "path": name, "size": file.size, "oid": file.git_oid}
    if file.in_lfs:
        entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": 134}
    return entry


def _ms_entries(folder: Path) -> list[dict[str, str | int | bool]]:
    listing = _listing(folder)
    commit = _commit(folder)
    folders = {parent.as_posix() for name in listing for parent in Path(name).parents if parent.name}
    entries: list[dict[str, str | int | bool]] = [
        {"Path": name, "Name": Path(name).name, "Type": "tree", "Size": 0, "Sha256": "", "Revision": commit}
        for name in sorted(folders)
    ]
    entries += [
        {
            "Path": name,
            "Name": Path(name).name,
            "Type": "blob",
            "Size": file.size,
            "Sha256": file.sha256,
            "IsLFS": file.in_lfs,
            "Revision": commit,
        }
        for name, file in listing.items()
    ]
    return entries


def _ms_answer(data: object) -> dict[str, object]:
    return {"Code": 200, "Data": data, "Message": "success", "Success": True}
