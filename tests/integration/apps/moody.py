"""An HTTP server that can fall ill: `python moody.py PORT`. It answers after 10 ms; ill, 500 at once.

SIGUSR1 makes it ill, SIGUSR2 well again. `/asked` says how many requests it got, itself not counted.
"""

from __future__ import annotations

import asyncio
import signal
import sys


class Server:
    """One server. is_ill: it fails everything."""

    def __init__(self) -> None:
        self.asked = 0
        self.is_ill = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            status, body = b"200 OK", b"ok"
            if head.startswith(b"GET /asked "):
                body = b"%d" % self.asked
            else:
                self.asked += 1
                if self.is_ill:
                    status, body = b"500 Internal Server Error", b"no"
                else:
                    await asyncio.sleep(0.01)
            writer.write(b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body))

    def turn(self, is_ill: bool) -> None:
        self.is_ill = is_ill


async def main(port: int) -> None:
    """Serve until it is killed."""
    server = Server()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: None)  # a client that leaves
    loop.add_signal_handler(signal.SIGUSR1, server.turn, True)
    loop.add_signal_handler(signal.SIGUSR2, server.turn, False)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", port)
    await listener.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
