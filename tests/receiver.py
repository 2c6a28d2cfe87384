"""An HTTP server that keeps what is posted to it."""

import http.server
import json
import threading


class Receiver:
    """`got` are the paths and JSON bodies; `status` is what it answers."""

    def __init__(self):
        self.got, self.headers, self.status = [], [], 200
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                receiver.got.append((self.path, body))
                receiver.headers.append(dict(self.headers))
                self.send_response(receiver.status)
                self.send_header("content-length", "0")
                if 300 <= receiver.status < 400:
                    self.send_header("location", f"{receiver.url}/elsewhere")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
