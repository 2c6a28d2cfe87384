import contextlib
import socket


def free_ports(count):
    """Ports of 127.0.0.1 that nobody uses now, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in sockets]


def free_port():
    """One port of 127.0.0.1 that nobody uses now."""
    return free_ports(1)[0]
