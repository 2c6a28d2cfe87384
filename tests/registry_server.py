"""A small model registry that speaks as much of MLflow's REST API as serving asks for."""

import contextlib
import http.server
import json
import threading
import urllib.parse


class Registry:
    """Models with versions, aliases and packages; `calls` are the paths that were asked for."""

    def __init__(self):
        self.aliases, self.packages, self.calls, self.away = {}, {}, [], False
        self.tags, self.metrics, self.uploads = {}, {}, {}  # by (name, version), by run, by path
        registry = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self._answer(None)

            def do_POST(self):
                self._answer(json.loads(self.rfile.read(int(self.headers["content-length"]))))

            do_DELETE = do_POST

            def do_PUT(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                registry.uploads[self.path.partition("/artifacts/")[2]] = body
                self._answer(None)

            def _answer(self, body):
                url = urllib.parse.urlsplit(self.path)
                query = dict(urllib.parse.parse_qsl(url.query))
                registry.calls.append((self.command, url.path))
                status, reply = registry.answer(self.command, url.path.rpartition("/mlflow/")[2], query, body)
                data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def add(self, name, version, folder, digest):
        """Register a package as a version."""
        self.aliases.setdefault(name, {})
        self.packages[name, version] = (folder, digest)

    def course(self, run, metric):
        """Of a metric that was logged: step, time in ms, value."""
        return [(one["step"], one["timestamp"], one["value"]) for one in self.metrics[run] if one["key"] == metric]

    def answer(self, verb, path, query, body):
        if self.away:
            return 503, {}
        if path == "registered-models/search":
            models = [
                {"name": name, "aliases": [{"alias": a, "version": v} for a, v in aliases.items()]}
                for name, aliases in self.aliases.items()
            ]
            return 200, {"registered_models": models}
        if path == "registered-models/alias" and verb == "GET":
            version = self.aliases[query["name"]].get(query["alias"])
            return (200, {"model_version": {"version": version, "run_id": ""}}) if version else (400, {})
        if path == "registered-models/alias" and verb == "DELETE":
            self.aliases[body["name"]].pop(body["alias"], None)
            return 200, {}
        if path == "registered-models/alias" and verb == "POST":
            if (body["name"], body["version"]) not in self.packages:
                return 404, {}
            self.aliases[body["name"]][body["alias"]] = body["version"]
            return 200, {}
        if path == "model-versions/set-tag":
            self.tags.setdefault((body["name"], body["version"]), {})[body["key"]] = body["value"]
            return 200, {}
        if path == "model-versions/get":
            key = query["name"], query["version"]
            if key not in self.packages:
                return 404, {}
            about = {"lepton.package_digest": self.packages[key][1], **self.tags.get(key, {})}
            tags = [{"key": key, "value": value} for key, value in about.items()]
            made = {"version": query["version"], "run_id": "/".join(key), "tags": tags}
            return 200, {"model_version": made}
        if path == "runs/log-batch":
            self.metrics.setdefault(body["run_id"], []).extend(body["metrics"])
            return 200, {}
        if path == "runs/get":
            return 200, {"run": {"info": {"artifact_uri": f"mlflow-artifacts:/7/{query['run_id']}/artifacts"}}}
        if verb == "PUT":
            return 200, {}
        if path == "artifacts/list":
            folder = self.packages[tuple(query["run_id"].split("/"))][0]
            files = [{"path": f"package/{file.name}", "is_dir": False} for file in folder.iterdir()]
            return 200, {"files": files}
        if path == "/get-artifact":
            folder = self.packages[tuple(query["run_uuid"].split("/"))][0]
            return 200, (folder / query["path"].removeprefix("package/")).read_bytes()
        return 404, {}


@contextlib.contextmanager
def model_registry():
    registry = Registry()
    thread = threading.Thread(target=registry.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield registry
    finally:
        registry.server.shutdown()
        registry.server.server_close()


@contextlib.contextmanager
def wine_registry():
    """With version 3 of the model `wine`, without a package."""
    with model_registry() as running:
        running.add("wine", "3", None, "d" * 64)
        yield running
