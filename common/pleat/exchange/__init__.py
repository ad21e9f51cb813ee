"""What server and device say to each other: native types, and their translation to and from protobuf."""
