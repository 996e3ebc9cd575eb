"""gRPC's own library at both ends: `serve ADDRESS AGE` is a machine's program whose connections end after so many ms, `kinds`
and `goodbyes CA ADDRESS HOST` are clients that print what went well and fail at the first thing that does not."""

import sys, threading, time
from concurrent.futures import ThreadPoolExecutor

import grpc

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Program(grpc.GenericRpcHandler):
    def __init__(self):
        self.cancelled = threading.Semaphore(0)

    def service(self, call):
        unary, streaming = grpc.unary_unary_rpc_method_handler, grpc.stream_stream_rpc_method_handler
        return {
            "/t/Echo": unary(self.echo),
            "/t/Fail": unary(self.fail),
            "/t/Wait": unary(self.wait),
            "/t/Cancelled": unary(lambda _, context: str(self.cancelled.acquire(timeout=5)).encode()),
            "/t/Count": grpc.unary_stream_rpc_method_handler(self.count),
            "/t/Sum": grpc.stream_unary_rpc_method_handler(lambda said, context: str(sum(map(len, said))).encode()),
            "/t/Talk": streaming(lambda said, context: (b"re: " + word for word in said)),
        }.get(call.method)

    def echo(self, said, context):
        asked = dict(context.invocation_metadata())
        context.send_initial_metadata([("x-first", asked.get("x-asked", "-"))])
        context.set_trailing_metadata([("x-last", "z"), ("x-bytes-bin", b"\0\xff")])
        return said

    def fail(self, said, context):
        context.abort(grpc.StatusCode.NOT_FOUND, "no such thing: ä%")

    def wait(self, said, context):
        context.add_callback(self.cancelled.release)
        time.sleep(float(said))
        return b"waited"

    def count(self, said, context):
        if said == b"for ever":
            context.add_callback(self.cancelled.release)
        for n in range(int(said) if said.isdigit() else 1 << 30):
            if not context.is_active():
                return
            yield str(n).encode()
            if not said.isdigit():
                time.sleep(0.01)


def serve(address, age):
    options = [*UNLIMITED, ("grpc.max_connection_age_ms", age), ("grpc.max_connection_age_grace_ms", 5000)]
    server = grpc.server(ThreadPoolExecutor(max_workers=32), options=options)
    server.add_generic_rpc_handlers([Program()])
    assert server.add_insecure_port(address)
    server.start()
    print("serving", flush=True)
    server.wait_for_termination()


def connect(authority, address, host):
    roots = grpc.ssl_channel_credentials(open(authority, "rb").read())
    options = [*UNLIMITED, ("grpc.ssl_target_name_override", host), ("grpc.default_authority", host)]
    return grpc.secure_channel(address, roots, options)


def kinds(*where):
    channel = connect(*where)
    echo, fail, wait = (channel.unary_unary("/t/" + name) for name in ("Echo", "Fail", "Wait"))
    cancelled, count = channel.unary_unary("/t/Cancelled"), channel.unary_stream("/t/Count")

    def status_of(act):
        try:
            return act() and None
        except grpc.RpcError as error:
            return error

    said, answer = echo.with_call(b"hello", metadata=[("x-asked", "42")], timeout=10)
    last = dict(answer.trailing_metadata())
    assert (said, last["x-last"], last["x-bytes-bin"]) == (b"hello", "z", b"\0\xff"), last
    assert dict(answer.initial_metadata())["x-first"] == "42"
    print("ok unary with metadata")

    error = status_of(lambda: fail(b"", timeout=10))
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "no such thing: ä%"), error
    print("ok status")

    assert [int(n) for n in count(b"500", timeout=10)] == list(range(500))
    print("ok server streaming")

    assert channel.stream_unary("/t/Sum")((b"x" * 1000 for _ in range(2000)), timeout=10) == b"2000000"
    print("ok client streaming")

    turn = threading.Semaphore(1)

    def words():
        for n in range(50):
            turn.acquire()
            yield str(n).encode()

    for n, word in enumerate(channel.stream_stream("/t/Talk")(words(), timeout=10)):
        assert word == b"re: %d" % n, word
        turn.release()
    assert n == 49
    print("ok both streaming, turn by turn")

    large = bytes(range(256)) * 16384
    assert echo(large, timeout=20) == large
    print("ok large message")

    error = status_of(lambda: wait(b"1", timeout=0.2))
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
    assert cancelled(b"", timeout=10) == b"True"
    print("ok deadline")

    endless = count(b"for ever")
    assert next(endless) == b"0"
    endless.cancel()
    assert cancelled(b"", timeout=10) == b"True"
    print("ok cancelled")

    with ThreadPoolExecutor(max_workers=50) as pool:
        said = list(pool.map(lambda n: echo(str(n).encode(), timeout=10), range(500)))
    assert said == [str(n).encode() for n in range(500)]
    print("ok many at a time")


def goodbyes(*where):
    echo = connect(*where).unary_unary("/t/Echo")
    end, calls = time.monotonic() + 2, 0
    with ThreadPoolExecutor(max_workers=8) as pool:
        while time.monotonic() < end:
            list(pool.map(lambda n: echo(b"x" * n, timeout=10), range(40)))
            calls += 40
    print("ok through goodbyes:", calls)


{"serve": lambda address, age: serve(address, int(age)), "kinds": kinds, "goodbyes": goodbyes}[sys.argv[1]](*sys.argv[2:])
