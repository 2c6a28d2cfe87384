"""A small SMTP server that keeps the mails, with STARTTLS and a password."""

import base64
import socketserver
import ssl
import threading


class MailServer:
    """`mails` are the texts, `log` the commands as ``(command, whether it came by TLS)``."""

    def __init__(self, cert=None, key=None, password=None):
        self.mails, self.log, self.password = [], [], password
        self.context = None
        if cert:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(cert, key)
        mail_server = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                mail_server.converse(self)

        self.server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def converse(self, handler):
        stream, secure = handler.connection.makefile("rwb", 0), False
        stream.write(b"220 mail\r\n")
        while line := stream.readline().decode().strip():
            verb = line.partition(" ")[0].upper()
            self.log.append((line, secure))
            if verb == "EHLO":
                offers = ["250-mail", *(["250-STARTTLS"] if self.context and not secure else []), "250 AUTH PLAIN"]
                stream.write(("\r\n".join(offers) + "\r\n").encode())
            elif verb == "STARTTLS":
                stream.write(b"220 go on\r\n")
                try:
                    connection = self.context.wrap_socket(handler.connection, server_side=True)
                except (ssl.SSLError, OSError):
                    return
                stream, secure = connection.makefile("rwb", 0), True
            elif verb == "AUTH":
                given = base64.b64decode(line.split()[-1]).decode().split("\0")[-1]
                stream.write(b"235 ok\r\n" if given == self.password else b"535 no\r\n")
            elif verb == "DATA":
                stream.write(b"354 go on\r\n")
                lines = []
                while (text := stream.readline()) != b".\r\n":
                    lines.append(text.decode())
                self.mails.append("".join(lines))
                stream.write(b"250 ok\r\n")
            else:
                stream.write(b"221 bye\r\n" if verb == "QUIT" else b"250 ok\r\n")
                if verb == "QUIT":
                    return

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
