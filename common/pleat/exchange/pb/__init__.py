"""Generated from proto/pleat/v1/fleet.proto; imported by the wire files only.

Generated code asks for the protobuf it was made with or a newer one, and Flower allows 5.28 and up. So it is made by an
old protoc, whose code asks nothing and loads on all of them:

    python -m venv /tmp/protoc && /tmp/protoc/bin/pip install grpcio-tools==1.62.3 "setuptools<81"
    /tmp/protoc/bin/python -m grpc_tools.protoc -Iproto --python_out=/tmp --pyi_out=/tmp proto/pleat/v1/fleet.proto
    cp /tmp/pleat/v1/fleet_pb2.py* common/pleat/exchange/pb/
"""
