"""Starts, watches and cancels a drain with nothing but server reflection: no generated code, no .proto file.

usage: reflection_client.py TARGET LISTENER        prints what it saw as one JSON object
"""

import json
import sys

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

TIMEOUT = 20  # seconds, per call
# Of a Unix socket gRPC makes an authority that is no valid one in HTTP/2 (its path, escaped).
OPTIONS = [("grpc.default_authority", "localhost")]


class Service:
    """A service whose methods are looked up by reflection."""

    def __init__(self, channel, pool, name):
        self.channel = channel
        self.descriptor = pool.FindServiceByName(name)

    def call(self, name, **fields):
        """Calls a method; a server stream is returned as an iterator."""
        method = self.descriptor.methods_by_name[name]
        request = message_factory.GetMessageClass(method.input_type)(**fields)
        kind = self.channel.unary_stream if method.server_streaming else self.channel.unary_unary
        rpc = kind(
            f"/{self.descriptor.full_name}/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
        )
        return rpc(request, timeout=TIMEOUT)


def enum_name(message, field):
    """The name of an enum field's value."""
    return message.DESCRIPTOR.fields_by_name[field].enum_type.values_by_number[getattr(message, field)].name


def main(target, listener):
    with grpc.insecure_channel(target, OPTIONS) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        pool = DescriptorPool(database)
        drains = Service(channel, pool, "ebb.v1.DrainService")
        fleet = Service(channel, pool, "ebb.v1.FleetService")
        health = Service(channel, pool, "grpc.health.v1.Health")

        seen = {
            "health": enum_name(health.call("Check"), "status"),
            "services": sorted(name for name in database.get_services() if name.startswith("ebb.")),
            "nodes": [node.id for node in fleet.call("ListNodes").nodes],
            "phases": [],
        }
        drain = drains.call("StartDrain", scope={"listeners": [listener]}).drain
        for update in drains.call("WatchDrain", id=drain.id):
            phase = enum_name(update.drain, "phase")
            if phase not in seen["phases"]:
                seen["phases"].append(phase)
            if update.drain.in_flight and "in_flight" not in seen:
                seen["in_flight"] = update.drain.in_flight
                drains.call("CancelDrain", id=drain.id)
    print(json.dumps(seen))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
