#!/bin/sh
# Before the server starts: a shard for every device, test data and a certificate. What is there stays; shards are dealt
# anew where seed, split or number of clients changed.
#   /handout  CLASS.npz, client-N.npz, test.npz, ca.pem      /keys  server.key
set -eu
classes='workstation jetson pi5 pi4'
asked="seed=$PLEAT_SEED split=$PLEAT_SPLIT clients=$PLEAT_CLIENTS"

deal() { # number of devices, folder
    pleat shards digits --devices "$1" --split "$PLEAT_SPLIT" --seed "$PLEAT_SEED" --out "$2" >/dev/null
}

if [ "$(cat /handout/dealt 2>/dev/null)" != "$asked" ]; then
    rm -f /handout/*.npz /handout/dealt
    deal 4 /tmp/classes
    # The same held-out samples: what the scaled clients hold is another deal of what the classes hold.
    deal "$PLEAT_CLIENTS" /tmp/clients
    set -- /tmp/classes/device-*.npz
    for class in $classes; do
        cp "$1" "/handout/$class.npz"
        shift
    done
    for shard in /tmp/clients/device-*.npz; do
        cp "$shard" "/handout/client-${shard#/tmp/clients/device-}"
    done
    cp /tmp/classes/test.npz /handout/test.npz
    echo "$asked" >/handout/dealt
fi
if [ ! -f /keys/server.key ] || [ ! -f /handout/ca.pem ]; then
    # One certificate that signs itself: devices trust it and no other, and there is no authority whose key could leak.
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -subj /CN=pleat \
        -addext 'subjectAltName=DNS:server,DNS:localhost,IP:127.0.0.1' \
        -keyout /keys/server.key -out /handout/ca.pem 2>/dev/null
fi
echo "shards for $classes and $PLEAT_CLIENTS clients ($asked), certificate for server"
