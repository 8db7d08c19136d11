"""Drives a gateway with the official MCP client, as an agent's program would.

One argument, a JSON object:
  command  how the `turnback` command line is called, as a list; the operator uses it
  url      where the gateway serves HTTP, with `token`; without it `turnback stdio` is started
  mode     "auto", "legacy" or a protocol version
  version  the protocol version that must come out of it
  elicits  whether the client can ask its user

Ends with 0 when everything was as it should be.
"""

import json
import subprocess
import sys

import anyio
import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp_types import ElicitRequestURLParams, ElicitResult

GIVEN = json.loads(sys.argv[1])


def text(result):
    return "\n".join(part.text for part in result.content if part.type == "text")


def expect(holds, what):
    # Not `assert`, which an environment variable can turn off.
    if not holds:
        sys.exit(f"not as expected: {what}")


async def operator(*arguments):
    done = await anyio.run_process([*GIVEN["command"], *arguments], check=False, stdin=subprocess.DEVNULL)
    expect(done.returncode in (0, 2), f"{arguments}: {done.stderr.decode()}")
    return done.stdout.decode()


async def waiting():
    """The one run that waits, as soon as there is one."""
    with anyio.fail_after(20):
        while True:
            runs = json.loads(await operator("-o", "json", "runs", "--state", "parked"))
            runs = runs["runs"] if isinstance(runs, dict) else runs
            if runs:
                return runs[0]
            await anyio.sleep(0.05)


asked = []


async def elicited(_context, params):
    """The user is shown the question, goes to the operators' door and says yes there."""
    asked.append(params)
    expect(isinstance(params, ElicitRequestURLParams), f"a URL is shown: {params}")
    expect("/approvals/ap_" in params.url, params.url)
    await operator("approve", params.url.rsplit("/", 1)[1], "--yes")
    return ElicitResult(action="accept")


async def planned(client, tools):
    """Two changes as one plan: verified, run, and the second one taken back with the first by an abort."""
    expect({"turnback__plan", "turnback__plan_status", "turnback__plan_abort"} <= set(tools), sorted(tools))
    first, second = "update stock set n = n + 10 where id = 2", "update stock set n = n * 2 where id = 2"
    steps = [
        {"name": "first", "tool": "shop__execute", "arguments": {"sql": first}},
        {"name": "second", "tool": "shop__execute", "arguments": {"sql": second}},
        {"name": "third", "tool": "work__delete", "arguments": {"path": "a.txt"}, "after": ["second"]},
    ]
    ring = [{**steps[0], "after": ["second"]}, {**steps[1], "after": ["first"]}]
    refused = await client.call_tool("turnback__plan", {"goal": "stock", "steps": ring})
    expect(refused.is_error and "first -> second -> first" in text(refused), refused)

    plan = await client.call_tool("turnback__plan", {"goal": "stock", "steps": steps})
    expect(not plan.is_error, plan)
    identity = plan.structured_content["plan"]
    expect(plan.structured_content["steps"][1]["inferred"] == ["first"], plan.structured_content)

    early = await client.call_tool("shop__execute", {"sql": second})
    expect(early.is_error and "out of order" in text(early), early)
    for sql in (first, second):
        done = await client.call_tool("shop__execute", {"sql": sql})
        expect(not done.is_error, done)
    standing = await client.call_tool("turnback__plan_status", {"plan": identity})
    expect([s["state"] for s in standing.structured_content["steps"]] == ["settled", "settled", "ready"], standing)

    aborted = await client.call_tool("turnback__plan_abort", {"plan": identity, "reason": "not needed any more"})
    expect(not aborted.is_error and aborted.structured_content["state"] == "aborted", aborted)
    expect([s["state"] for s in aborted.structured_content["steps"]] == ["undone", "undone", "not_done"], aborted)
    late = await client.call_tool("work__delete", {"path": "a.txt"})
    expect(late.is_error and "aborted" in text(late), late)


async def main():
    http = None
    if "url" in GIVEN:
        http = httpx2.AsyncClient(headers={"Authorization": f"Bearer {GIVEN['token']}"}, timeout=60)
        server = streamable_http_client(GIVEN["url"], http_client=http)
    else:
        command = GIVEN["command"]
        server = StdioServerParameters(command=command[0], args=[*command[1:], "stdio"])
    callback = elicited if GIVEN["elicits"] else None
    async with Client(server, mode=GIVEN["mode"], elicitation_callback=callback, read_timeout_seconds=60) as client:
        expect(client.protocol_version == GIVEN["version"], f"version {client.protocol_version}")

        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        expect({"shop__execute", "shop__query", "work__read_file", "work__delete"} <= set(tools), sorted(tools))
        expect("sql" in tools["shop__execute"].input_schema["properties"], tools["shop__execute"].input_schema)

        read = await client.call_tool("work__read_file", {"path": "a.txt"})
        expect(not read.is_error and "one" in text(read), read)

        write = await client.call_tool("shop__execute", {"sql": "update stock set n = n + 1 where id = 1"})
        expect(not write.is_error and "undo r_" in text(write), write)
        expect(write.meta["turnback"]["run"].startswith("r_"), write.meta)

        refused = await client.call_tool("work__delete", {"path": "../shop.db"})
        expect(refused.is_error and ".." in text(refused), refused)
        expect(refused.structured_content["code"], refused.structured_content)

        sql = "delete from stock where id > 3"
        ended = []

        async def delete():
            ended.append(await client.call_tool("shop__execute", {"sql": sql}))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(delete)
            if callback is None:
                run = await waiting()
                expect(not ended, "it must wait for a person")
                await operator("approve", run["run"], "--yes")
        expect(not ended[0].is_error and "undo r_" in text(ended[0]), ended[0])
        expect(len(asked) == (1 if GIVEN["elicits"] else 0), asked)

        left = await client.call_tool("shop__query", {"sql": "select count(*) as n from stock"})
        expect(not left.is_error and "3" in text(left), left)

        await planned(client, tools)
    if http:
        await http.aclose()


anyio.run(main)
