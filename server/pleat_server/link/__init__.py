"""The server's end of the link: an asyncio gRPC servicer in its own thread, and Flower's synchronous Grid on top."""
