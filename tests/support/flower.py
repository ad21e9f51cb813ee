"""A small Flower runtime in this process, for tests: a `Grid` whose nodes call a real `ClientApp`, message by message.

Every message passes through Flower's own wire form, and nothing but the run config and the node config is kept from one
to the next, as under SuperNodes, whose processes live for one message. Nodes can go, come back, be slow or break.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

UNAVAILABLE = 5


class LocalGrid(Grid):
    """`nodes`: node id -> its node config. What a test changes between calls: `away`, `slow`, `broken`."""

    def __init__(self, app: ClientApp, nodes: dict[int, dict[str, Any]], run_config: dict[str, Any]) -> None:
        self._app, self.nodes, self.run_config = app, nodes, run_config
        self.away: set[int] = set()  # not listed, and their messages wait
        self.slow: set[int] = set()  # listed; their messages wait
        self.broken: dict[int, Error] = {}  # what they answer instead of the app
        self.seen: list[tuple[int, str]] = []  # (node, message type) of every message that was done
        self.waiting: dict[str, Message] = {}
        self.last: Message | None = None  # the last message that was done
        self._run = Run.create_empty(1)
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        return [n for n in self.nodes if n not in self.away]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = message.object_id
            self.waiting[message.object_id] = shipped(message)
            ids.append(message.metadata.message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = []
        for message_id in list(message_ids):
            message = self.waiting.get(message_id)
            if message is None or message.metadata.dst_node_id in self.away | self.slow:
                continue
            del self.waiting[message_id]
            replies.append(shipped(self._done(message)))
        return replies

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        return self.pull_messages(self.push_messages(messages))

    def _done(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        self.last = message
        self.seen.append((node, message.metadata.message_type))
        if node in self.broken:
            return Message(self.broken[node], reply_to=message)
        if node not in self.nodes:
            return Message(Error(UNAVAILABLE, "the node is gone"), reply_to=message)
        context = Context(1, node, dict(self.nodes[node]), RecordDict(), dict(self.run_config))
        return self._app(message, context)


def shipped(message: Message) -> Message:
    """The message after its way through Flower's objects."""
    contents = {key: part.deflate() for key, part in get_all_nested_objects(message).items()}
    message_id = message.object_id
    arrived = inflate_object_from_contents(message_id, contents)
    assert isinstance(arrived, Message)
    arrived.metadata.__dict__["_message_id"] = message_id
    return arrived
