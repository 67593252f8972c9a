"""A loopback stand-in for the Hugging Face Hub that tests start. It knows models alone and keeps them in memory."""

import base64
import dataclasses
import hashlib
import json
import math
import os
import re
import secrets
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from huggingface_hub.utils import HFValidationError, validate_repo_id

MODEL, REVISION = r"(?P<id>(?:[^/]+/)?[^/]+)", r"(?P<revision>[^/]+)"
ROUTES = {
    "create": ("POST", "/api/repos/create"),
    "validate": ("POST", "/api/validate-yaml"),
    "whoami": ("GET", "/api/whoami-v2"),
    "preupload": ("POST", f"/api/models/{MODEL}/preupload/{REVISION}"),
    "commit": ("POST", f"/api/models/{MODEL}/commit/{REVISION}"),
    "tree": ("GET", f"/api/models/{MODEL}/tree/{REVISION}(?:/(?P<path>.+))?"),
    "model_info": ("GET", f"/api/models/{MODEL}(?:/revision/{REVISION})?"),
    "resolve": ("GET HEAD", f"/{MODEL}/resolve/{REVISION}/(?P<path>.+)"),
}
TOKEN_NEEDED = ("create", "whoami", "preupload", "commit")


class RefusedError(Exception):
    """An answer that is no success."""

    def __init__(self, status, message, code=None, **more):
        super().__init__(message)
        self.status, self.content = status, {"error": message, **more}
        self.headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})


@dataclasses.dataclass
class Repo:
    """`files` is the state of main, `states` has that at each commit id, `commits` messages and the paths touched."""

    private: bool | None = None
    files: dict[str, bytes] = dataclasses.field(default_factory=dict)
    tags: list[str] = dataclasses.field(default_factory=list)
    commits: list[tuple[str, list[str]]] = dataclasses.field(default_factory=list)
    states: dict[str, dict[str, bytes]] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        self.move_to(self.files)

    def move_to(self, files):
        self.files, self.sha = files, secrets.token_hex(20)
        self.states[self.sha] = files

    def at(self, revision):
        """The commit id that a revision stands for, and the files there."""
        sha = self.sha if revision in (None, "main") else revision
        if sha not in self.states:
            raise RefusedError(404, "Invalid rev id", "RevisionNotFound")
        return sha, self.states[sha]


def blob_id(content):
    """The id that git gives these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def strings(values, pattern="(?s).+"):
    return isinstance(values, list) and all(isinstance(one, str) and re.fullmatch(pattern, one) for one in values)


def repo_ids(values):
    try:
        return strings(values) and not any(map(validate_repo_id, values))
    except HFValidationError:
        return False


def finite(value):
    """Whether there is neither NaN nor an infinity anywhere in this."""
    if isinstance(value, dict | list):
        return all(map(finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


TEXT = ("a non-empty string", lambda value: strings([value]))
NUMBER = ("a finite number", lambda value: type(value) in (int, float) and math.isfinite(value))
NAMES = ("a list of strings", strings)
LANGUAGES = "[a-z]{2,3}|multilingual"
RESULT = {"task": {"type": TEXT}, "dataset": {"type": TEXT, "name": TEXT}, "metrics": [{"type": TEXT, "value": NUMBER}]}
METADATA = {
    "license": ("a lower-case id", lambda value: strings([value], "[a-z0-9.+-]+")),
    "language": ("codes of 2-3 letters", lambda value: strings([value], LANGUAGES) or strings(value, LANGUAGES)),
    "tags": NAMES,
    "metrics": NAMES,
    "datasets": ("a list of repo ids", repo_ids),
    "base_model": ("one or several repo ids", lambda value: repo_ids([value]) or repo_ids(value)),
    "pipeline_tag": TEXT,
    "library_name": TEXT,
    "model-index": [{"name": TEXT, "results": [RESULT]}],
}


def mismatches(where, value, wanted):
    """Errors for a value that is not as wanted: a mapping with these keys, a list of these, or what passes a check."""
    if isinstance(wanted, tuple):
        return [] if wanted[1](value) else [f'"{where}" must be {wanted[0]}']
    if not isinstance(value, type(wanted)):
        return [f'"{where}" must be a {type(wanted).__name__}']
    if isinstance(wanted, list):
        inner = [(f"{where}[{number}]", one, wanted[0]) for number, one in enumerate(value)]
    else:
        inner = [(f"{where}.{key}", value.get(key), one) for key, one in wanted.items()]
    return [error for one in inner for error in mismatches(*one)]


def card_errors(content):
    """What the Hub refuses in a README's front matter."""
    block = REGEX_YAML_BLOCK.search(content)
    try:
        data = yaml.safe_load(block[2]) if block else {}
    except yaml.YAMLError as error:
        return [f"the metadata is no YAML: {error}"]
    if not isinstance(data, dict):
        return ["the metadata must be a mapping"]
    errors = [f'"{key}" has NaN or an infinity' for key, value in data.items() if not finite(value)]
    known = [key for key in METADATA if key in data]
    return errors + [error for key in known for error in mismatches(key, data[key], METADATA[key])]


class Handler(BaseHTTPRequestHandler):
    """The method of a route's name returns its answer, JSON or bytes."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *ignored):
        """Says nothing."""

    def answer(self):
        self.hub, self.answered = self.server.hub, {"Content-Type": "application/json; charset=utf-8"}
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.hub.lock:
            self.hub.requests.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
            try:
                status, content = 200, self.dispatch()
            except RefusedError as refused:
                status, content = refused.status, refused.content
                self.answered.update(refused.headers)
        content = content if isinstance(content, bytes) else json.dumps(content, ensure_ascii=False).encode()
        self.send_response(status)
        for name, value in {**self.answered, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_POST = answer  # noqa: N815

    def dispatch(self):
        """The answer of the route that fits, unless the request has to fail or may not be made."""
        path = urlsplit(self.path).path
        for kind, (methods, pattern) in ROUTES.items():
            match = re.fullmatch(pattern, path)
            if match and self.command in methods.split():
                self.asked = {name: value and unquote(value) for name, value in match.groupdict().items()}
                if self.hub.failures[kind]:
                    raise RefusedError(self.hub.failures[kind].pop(0), f"{kind} fails, as the test wants")
                self.authorize(kind)
                return getattr(self, kind)()
        raise RefusedError(404, "Not Found")

    def authorize(self, kind):
        """Finds the repo of routes that have one. As on the Hub, a wrong token is worse than none."""
        sent, self.repo = self.headers.get("Authorization"), self.hub.repos.get(self.asked.get("id"))
        valid = sent == f"Bearer {self.hub.token}"
        denied = "Invalid credentials in Authorization header" if sent else "Invalid username or password."
        if kind in TOKEN_NEEDED and not valid:
            raise RefusedError(401, denied)
        if "id" in self.asked and (self.repo is None or (self.repo.private and not valid)):
            raise RefusedError(404, "Repository not found", "RepoNotFound")
        if sent and not valid:
            raise RefusedError(401, denied)

    def create(self):
        asked = json.loads(self.body)
        name = f"{asked.get('organization') or self.hub.user}/{asked['name']}"
        created = {"url": f"{self.hub.url}/{name}", "name": name}
        if name in self.hub.repos:
            raise RefusedError(409, "You already created this model repo", **created)
        visibility = asked.get("visibility")
        self.hub.repos[name] = Repo(asked.get("private") if visibility is None else visibility == "private")
        return created

    def validate(self):
        content = json.loads(self.body)["content"]
        self.hub.cards.append(content)
        if errors := card_errors(content):
            raise RefusedError(400, "Invalid metadata", errors=[{"message": error} for error in errors])
        missing = [] if REGEX_YAML_BLOCK.search(content) else ["empty or missing yaml metadata in repo card"]
        return {"errors": [], "warnings": [{"message": message} for message in missing]}

    def whoami(self):
        role = {"type": "access_token", "accessToken": {"displayName": "tests", "role": "write"}}
        return {"type": "user", "name": self.hub.user, "orgs": [], "auth": role}

    def preupload(self):
        files = self.repo.at(self.asked["revision"])[1]
        paths = [file["path"] for file in json.loads(self.body)["files"]]
        known = {path: {"oid": blob_id(files[path])} for path in paths if path in files}
        regular = {"uploadMode": "regular", "shouldIgnore": False}
        return {"files": [{"path": path, **regular, **known.get(path, {})} for path in paths]}

    def commit(self):
        """Applies all of a commit or, where it refuses a line, nothing."""
        if self.asked["revision"] != "main":
            raise RefusedError(404, "Invalid rev id", "RevisionNotFound")
        (_, header), *lines = [(line["key"], line["value"]) for line in map(json.loads, self.body.splitlines())]
        files = dict(self.repo.files)
        for key, value in lines:
            path = value["path"]
            if key == "file":
                files[path] = base64.b64decode(value["content"])
                continue
            folder = path.rstrip("/") + "/" if key == "deletedFolder" else None
            gone = [one for one in files if (one.startswith(folder) if folder else one == path)]
            if key not in ("deletedFile", "deletedFolder") or not gone:
                raise RefusedError(404, "A file with this name doesn't exist", "EntryNotFound")
            files = {one: content for one, content in files.items() if one not in gone}
        if errors := card_errors(files.get("README.md", b"").decode()):
            raise RefusedError(400, "Invalid metadata", errors=[{"message": error} for error in errors])
        self.repo.move_to(files)
        self.repo.commits.append((header["summary"], [value["path"] for _, value in lines]))
        url = f"{self.hub.url}/{self.asked['id']}/commit/{self.repo.sha}"
        return {"success": True, "commitOid": self.repo.sha, "commitUrl": url}

    def tree(self):
        """Lists every file below a folder, whether `recursive` is asked for or not, and no folders."""
        folder = f"{self.asked['path']}/" if self.asked["path"] else ""
        state = self.repo.at(self.asked["revision"])[1]
        files = [(path, content) for path, content in sorted(state.items()) if path.startswith(folder)]
        if folder and not files:
            raise RefusedError(404, "This folder does not exist", "EntryNotFound")
        return [{"type": "file", "path": path, "size": len(data), "oid": blob_id(data)} for path, data in files]

    def model_info(self):
        sha, files = self.repo.at(self.asked["revision"])
        known = {"id": self.asked["id"], "sha": sha, "private": bool(self.repo.private), "tags": self.repo.tags}
        return {**known, "siblings": [{"rfilename": path} for path in sorted(files)]}

    def resolve(self):
        self.answered["X-Repo-Commit"], files = self.repo.at(self.asked["revision"])
        content = files.get(self.asked["path"])
        if content is None:
            raise RefusedError(404, "Entry not found", "EntryNotFound")
        self.answered |= {"ETag": f'"{blob_id(content)}"', "Content-Type": "application/octet-stream"}
        return content


class FakeHub:
    """A Hub at `url` while the context lasts. `requests` are (method, path with query, headers in lower case)."""

    def __init__(self, token="hf_token_of_the_tests", user="user"):
        self.token, self.user, self.lock = token, user, threading.Lock()
        self.repos: dict[str, Repo] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.cards: list[str] = []
        self.failures: dict[str, list[int]] = {kind: [] for kind in ROUTES}

    def __enter__(self):
        self.home = tempfile.TemporaryDirectory()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.hub = self
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *ignored):
        self.server.shutdown()
        self.server.server_close()
        self.home.cleanup()

    def add_model(self, name, files=(), tags=(), private=False):
        """Puts a model on the Hub as if it had long been there."""
        self.repos[name] = Repo(private, dict(files), list(tags))
        return self.repos[name]

    def fail(self, kind, status=500, times=1):
        """Answers the next `times` requests of a kind, a name in `ROUTES`, with this status."""
        self.failures[kind] += [status] * times

    def environment(self, **extra):
        """The environment for a process that is to see this Hub, without the variables that would lead elsewhere."""
        away = ("HF_", "HUGGING", "TRANSFORMERS_")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(away) and not k.lower().endswith("_proxy")}
        switches = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "0"}
        return {**kept, **switches, "HF_ENDPOINT": self.url, "HF_TOKEN": self.token, "HF_HOME": self.home.name, **extra}
