"""The device side of pleat: a small daemon that keeps a link, and a trainer child that holds torch."""
