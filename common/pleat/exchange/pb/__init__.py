"""Generated from proto/pleat/v1/fleet.proto; see proto/README.md for the command. Imported by the wire files only."""
