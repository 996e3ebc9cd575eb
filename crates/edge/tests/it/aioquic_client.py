import asyncio, ssl, sys

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration

authority, address, port, host = sys.argv[1:5]


class Client(QuicConnectionProtocol):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.http = H3Connection(self._quic)
        self.answers = {}

    async def send(self, method, path, body):
        stream = self._quic.get_next_available_stream_id()
        done = self._loop.create_future()
        self.answers[stream] = [b"", b"", done]
        head = [(b":method", method), (b":scheme", b"https"), (b":authority", host.encode()), (b":path", path)]
        self.http.send_headers(stream, head, end_stream=not body)
        for start in range(0, len(body), 50000):
            self.http.send_data(stream, body[start : start + 50000], end_stream=False)
        if body:
            self.http.send_data(stream, b"", end_stream=True)
        self.transmit()
        await done
        status, text, _ = self.answers[stream]
        print(status.decode(), text.decode())

    def quic_event_received(self, event):
        for event in self.http.handle_event(event):
            answer = self.answers.get(event.stream_id)
            if isinstance(event, HeadersReceived):
                answer[0] = dict(event.headers)[b":status"]
            elif isinstance(event, DataReceived):
                answer[1] += event.data
            if getattr(event, "stream_ended", False):
                answer[2].set_result(None)


async def main():
    configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, server_name=host)
    configuration.load_verify_locations(authority)
    configuration.verify_mode = ssl.CERT_REQUIRED
    async with connect(address, int(port), configuration=configuration, create_protocol=Client) as client:
        await client.send(b"GET", b"/one", b"")
        await client.send(b"GET", b"/two", b"")
        await client.send(b"POST", b"/three", bytes(300000))


asyncio.run(main())
