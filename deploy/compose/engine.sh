# shellcheck shell=bash
# Sourced by check-compose.sh: a private Docker engine where none runs. Needs root, docker.io, containerd, runc, iptables.
# The engine lives in a network namespace of its own and keeps everything under $LAB: neither the host's interfaces nor
# its firewall are touched, and its containers reach no other network.

NETNS=pleat-check-$$

engine_start() { # starts the engine and points DOCKER_HOST and DOCKER_CONFIG at it
    for program in dockerd containerd runc iptables ip nsenter; do
        command -v "$program" >/dev/null || {
            echo "check-compose: no Docker engine answers, and $program to start one is missing; type: apt-get install" \
                "docker.io containerd runc iptables iproute2 util-linux" >&2
            return 2
        }
    done
    [ "$(id -u)" = 0 ] || { echo "check-compose: only root may start a Docker engine; start one, or use sudo" >&2; return 2; }
    mkdir -p "$LAB/data" "$LAB/exec" "$LAB/config"
    ip netns add "$NETNS"
    ip -n "$NETNS" link set lo up
    # not `ip netns exec`: it mounts another /sys, without the control groups
    nsenter --net="/run/netns/$NETNS" dockerd -H "unix://$LAB/docker.sock" --data-root "$LAB/data" \
        --exec-root "$LAB/exec" --pidfile "$LAB/dockerd.pid" >"$LAB/dockerd.log" 2>&1 &
    ENGINE=$!
    export DOCKER_HOST="unix://$LAB/docker.sock" DOCKER_CONFIG="$LAB/config"
    for _ in $(seq 120); do
        docker info >/dev/null 2>&1 && return 0
        kill -0 "$ENGINE" 2>/dev/null || break
        sleep 0.5
    done
    echo "check-compose: dockerd did not start: $(tail -n 1 "$LAB/dockerd.log")" >&2
    return 1
}

engine_stop() { # ends the engine that engine_start began, and what it mounted
    [ -n "${ENGINE:-}" ] || return 0
    kill "$ENGINE" 2>/dev/null || true
    wait "$ENGINE" 2>/dev/null || true
    ip netns delete "$NETNS" 2>/dev/null || true
    awk -v lab="$LAB/" 'index($2, lab) == 1 {print $2}' /proc/mounts | sort -r | xargs -r umount -l
}

plugins() { # Compose and buildx, from Debian trixie where the engine's own are missing: they need no newer libc
    docker compose version >/dev/null 2>&1 && docker buildx version >/dev/null 2>&1 && return 0
    local apt="$LAB/apt" key=/usr/share/keyrings/debian-archive-keyring.gpg
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$DOCKER_CONFIG/cli-plugins"
    echo "deb [signed-by=$key] http://deb.debian.org/debian trixie main" >"$apt/list"
    (
        cd "$apt" || exit 1
        set -- -qq -o APT::Sandbox::User=root -o "Dir::State::lists=$apt/lists" -o "Dir::Etc::sourcelist=$apt/list" \
            -o Dir::Etc::sourceparts=- -o "Dir::Cache=$apt/cache"
        apt-get "$@" update && apt-get "$@" download docker-compose docker-buildx
        for package in ./*.deb; do dpkg-deb -x "$package" unpacked; done
    )
    cp "$apt"/unpacked/usr/libexec/docker/cli-plugins/* "$DOCKER_CONFIG/cli-plugins/"
    chmod +x "$DOCKER_CONFIG"/cli-plugins/*
    docker compose version >/dev/null
}

base_image() { # a base image named $1 by debootstrap, for an engine without a network
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates,openssl bookworm "$LAB/base" \
        >"$LAB/debootstrap.log" 2>&1
    tar -C "$LAB/base" --exclude=./var/cache/apt/archives/* --exclude=./var/lib/apt/lists/* -c . | docker import - "$1" >/dev/null
    rm -rf "$LAB/base"
}
