"""HTTP/1.1 with keep-alive, one thread per connection. Each answer carries what a client needs to notice a loss:

    COUNT CONNECTION_COUNT CHECKSUM

COUNT counts all answers of this server, CONNECTION_COUNT those on this connection, and CHECKSUM is the CRC-32 of
a chain over all paths that were asked on this connection, in order.

usage: http_server.py PORT
"""

import itertools
import sys
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

answers = itertools.count(1)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self):
        super().setup()
        self.count = 0
        self.checksum = 0

    def do_GET(self):
        self.count += 1
        self.checksum = zlib.crc32(self.path.encode(), self.checksum)
        body = f"{next(answers)} {self.count} {self.checksum:08x}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    # Asking for this host's name would ask a name server.
    def server_bind(self):
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = "godwit", self.server_address[1]


if __name__ == "__main__":
    Server.allow_reuse_address = True
    Server(("0.0.0.0", int(sys.argv[1])), Handler).serve_forever()
