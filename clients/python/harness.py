"""The real server, what Pusher's libraries for Python need beside it, and nothing that sleeps.

Whatever is waited for has PATIENCE to come. That is no timing of the server: it only turns what would hang into a failure.
"""

import hashlib
import hmac
import http.server
import json
import os
import queue
import re
import signal
import socket
import subprocess
import tempfile
import threading
from pathlib import Path

import pusher
import pysher

PATIENCE = 15
APP = {"id": "4711", "key": "demo-key-7f3a", "secret": "demo-secret-b91c"}
# 32 times the byte 7.
MASTER_KEY = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("FANFARE_BIN") or str(ROOT / "target/debug/fanfare")


def sign(text, app=APP):
    """The signature of a text, as sockets and webhooks have it."""
    return hmac.new(app["secret"].encode(), text.encode(), hashlib.sha256).hexdigest()


class Server:
    """The server with one app, on a free port."""

    def __init__(self, webhooks=()):
        lines = ["[[apps]]", *(f"{key} = {json.dumps(value)}" for key, value in APP.items())]
        if webhooks:
            hooks = ("{ url = %s, events = %s }" % (json.dumps(url), json.dumps(events)) for url, events in webhooks)
            lines += ["webhooks = [%s]" % ", ".join(hooks), "[pusher]", "webhook_private_networks = true"]
        # The server looks at its file as long as it runs.
        self._folder = tempfile.TemporaryDirectory()
        config = Path(self._folder.name) / "fanfare.toml"
        config.write_text("\n".join(lines) + "\n")
        self._process = subprocess.Popen(
            [PROGRAM, "--listen", "127.0.0.1:0", "--config", str(config)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._errors = []
        self._reader = threading.Thread(target=lambda: self._errors.extend(self._process.stderr), daemon=True)
        self._reader.start()
        for line in self._process.stdout:
            if match := re.match(r"listening on http://(.*):(\d+)$", line.strip()):
                self.host, self.port = match[1], int(match[2])
                return
        self._reader.join()
        raise RuntimeError("the server ended: " + "".join(self._errors))

    def stop(self):
        """Ends it by its process id; its exit status."""
        self._process.send_signal(signal.SIGTERM)
        status = self._process.wait(PATIENCE)
        self._reader.join()
        self._process.stdout.close()
        self._process.stderr.close()
        self._folder.cleanup()
        return status

    def publisher(self, **options):
        """Pusher's library for back ends."""
        app = {**APP, **options}
        return pusher.Pusher(
            app_id=app["id"], key=app["key"], secret=app["secret"], ssl=False, host=self.host, port=self.port, encryption_master_key_base64=MASTER_KEY
        )


class Subscriber:
    """pysher, connected. What it hears is waited for with `next`."""

    def __init__(self, server, key=APP["key"], user_data=None):
        self.heard = queue.Queue()
        self.pysher = pysher.Pusher(
            key, secure=False, custom_host=server.host, port=server.port, secret=APP["secret"], user_data=user_data, log_level=100
        )
        # pysher asks for a channel and then gets ready to be answered; the server is faster. So answers wait meanwhile.
        self._subscribing = threading.Lock()
        answered = self.pysher.connection.event_handler

        def wait_and_answer(*arguments):
            with self._subscribing:
                answered(*arguments)

        self.pysher.connection.event_handler = wait_and_answer
        for event in ("pusher:connection_established", "pusher:error", "pusher:signin_success", "pusher:pong"):
            self._keep(self.pysher.connection, event, None)
        self.pysher.connect()

    def _keep(self, source, event, channel):
        source.bind(event, lambda data: self.heard.put((channel, event, data)))

    def next(self, wanted=None):
        """The next (channel, event, data), or the next of this event."""
        while True:
            item = self.heard.get(timeout=PATIENCE)
            if wanted is None or item[1] == wanted:
                return item

    def connected(self):
        self.next("pusher:connection_established")
        # It begins with a ping, whose answer would be in the way.
        self.next("pusher:pong")
        return self

    @property
    def socket_id(self):
        return self.pysher.connection.socket_id

    def subscribe(self, name, *events):
        """Subscribes to a channel and hears these events of it; resolves when that is so."""
        with self._subscribing:
            channel = self.pysher.subscribe(name)
            for event in ("pusher_internal:subscription_succeeded", "pusher:subscription_error", *events):
                self._keep(channel, event, name)
        return channel, self.next()

    def close(self):
        # pysher's own way closes a socket that another thread waits on, which may not notice for ten seconds.
        connection = self.pysher.connection
        connection.disconnect_called = True
        try:
            connection.socket.sock.sock.shutdown(socket.SHUT_RDWR)
        except (AttributeError, OSError):
            pass  # it has ended already
        connection.join(PATIENCE)


class Webhooks:
    """Where the server sends what has happened."""

    def __init__(self):
        self.heard = heard = queue.Queue()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                heard.put((self.headers, body.decode()))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = "http://127.0.0.1:%d/hook" % self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def next(self):
        return self.heard.get(timeout=PATIENCE)

    def stop(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
