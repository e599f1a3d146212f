"""A real MCP server of the modern era (2026-07-28) on PyPI `mcp`, over Streamable HTTP.

    python server.py --port 3902

Prints one line, `listening on http://HOST:PORT/mcp`, when it is ready; port 0 takes a free port. The SDK answers plain
calls with `application/json` and calls that report progress with an event stream. It also serves legacy clients, which
the tests leave to the other agents.
"""

import argparse
import asyncio
import socket
from typing import Annotated

import uvicorn
from mcp.server.mcpserver import Context, Elicit, MCPServer, Resolve
from pydantic import BaseModel, Field

MAX_SLOW_SECONDS = 600.0

server = MCPServer(
    "modern-py", version="1.0.0", instructions="Tools for trying a path to a modern agent.", log_level="WARNING"
)


@server.tool()
def echo(text: str) -> str:
    """Says the text back."""
    return text


@server.tool()
def add(a: float, b: float) -> float:
    """Adds two numbers."""
    return a + b


@server.tool()
async def slow(
    ctx: Context,
    seconds: Annotated[float, Field(ge=0, le=MAX_SLOW_SECONDS)] = 1.0,
    steps: Annotated[int, Field(ge=1, le=1000)] = 4,
) -> str:
    """Takes its time, and reports progress after each step."""
    for step in range(1, steps + 1):
        await asyncio.sleep(seconds / steps)
        await ctx.report_progress(step, steps, f"step {step} of {steps}")
    return f"took {seconds} s in {steps} steps"


@server.tool()
def region(name: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})]) -> str:
    """Wants its argument mirrored in `Mcp-Param-Region`; a call without the mirror is refused with -32020."""
    return f"region {name}"


class Caller(BaseModel):
    name: str = Field(title="Name", min_length=1, max_length=64)


def ask_caller() -> Elicit[Caller]:
    return Elicit("Who is calling?", Caller)


@server.tool()
def greet(caller: Annotated[Caller, Resolve(ask_caller)]) -> str:
    """Asks for a name (`input_required`), and greets."""
    return f"hello {caller.name}"


class Announced(uvicorn.Server):
    """Says where it listens once it does: a test needs the line, and with port 0 also the port."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            host, port = sockets[0].getsockname()[:2]
            print(f"listening on http://{host}:{port}/mcp", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=3902, help="0 takes a free port")
    args = parser.parse_args()

    # With the protocol named: asyncio sets TCP_NODELAY only where it is, and without it each answer takes 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((args.host, args.port))
    except OSError as error:
        raise SystemExit(f"modern-py: cannot listen on {args.host}:{args.port}: {error.strerror}") from error

    app = server.streamable_http_app(host=args.host)
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=2)
    Announced(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
