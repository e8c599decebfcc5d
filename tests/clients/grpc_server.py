"""A gRPC service without generated code: bytes in, bytes out. Prints its port.

Whatever the path begins with, its last part is the method.
"""

import sys
import threading
from concurrent import futures

import grpc

cancelled = threading.Semaphore(0)


def say_who(context):
    """Sends back what the gateway says of the caller, and trailers of its own."""
    metadata = dict(context.invocation_metadata())
    context.send_initial_metadata((("x-seen-user", metadata.get("x-user-id", "")),
                                   ("x-seen-token", metadata.get("authorization", ""))))
    context.set_trailing_metadata((("x-trailer", "text"), ("x-trailer-bin", b"\x00\xff")))


def unary(request, context):
    say_who(context)
    return request


def fail(request, context):
    say_who(context)
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now: 100% \u00fc")


def client_stream(requests, context):
    say_who(context)
    return str(sum(len(request) for request in requests)).encode()


def server_stream(request, context):
    say_who(context)
    for n in range(int(request)):
        yield str(n).encode()


def fail_midway(request, context):
    yield b"one"
    yield b"two"
    context.abort(grpc.StatusCode.DATA_LOSS, "broke off")


def bidi(requests, context):
    say_who(context)
    for request in requests:
        yield b"echo " + request


def hang(request, context):
    """Says one thing, then waits until the caller gives up."""
    over = threading.Event()
    context.add_callback(over.set)
    yield b"begun"
    if over.wait(30):
        cancelled.release()


def count_cancelled(request, context):
    """Waits for one call to have been given up."""
    return b"yes" if cancelled.acquire(timeout=15) else b"no"


METHODS = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
    "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
    "FailMidway": grpc.unary_stream_rpc_method_handler(fail_midway),
    "Bidi": grpc.stream_stream_rpc_method_handler(bidi),
    "Hang": grpc.unary_stream_rpc_method_handler(hang),
    "Cancelled": grpc.unary_unary_rpc_method_handler(count_cancelled),
}


class Handler(grpc.GenericRpcHandler):
    def service(self, call):
        return METHODS.get(call.method.rsplit("/", 1)[-1])


server = grpc.server(futures.ThreadPoolExecutor(max_workers=32))
server.add_generic_rpc_handlers((Handler(),))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(port, flush=True)
sys.stdin.read()
