"""`python -m pleat_client.cli` is `pleat-client`."""

from pleat_client.cli import main

main()
