#!/bin/sh
# What `tedge diag collect` takes along of tedge-agentd: its view, its plan, its settings, its journal and the listener
# file. Never a key or a password. Called as: collect --output-dir DIR --config-dir DIR; 0 done, 2 nothing to collect.
set -u
PATH=/usr/sbin:/usr/bin:/sbin:/bin  # sudo lets thin-edge's user bring an environment along
export PATH
unset PYTHONPATH PYTHONHOME PYTHONSTARTUP

LIMIT=20  # seconds for one command; the daemon may be what is ill

usage() {
    echo "usage: $0 collect --output-dir DIR [--config-dir DIR]" >&2
    exit 1
}

# Keep what a command prints and says, be it an error: that is of interest as well.
keep() {
    output=$1
    shift
    timeout "$LIMIT" "$@" >"$OUT/$output" 2>&1 </dev/null || echo "$* ended with $?"
}

# Print a file as nobody can: where root runs this, a link planted in a directory of others leads nowhere. Secrets that
# somebody wrote into it by hand are left out.
public() {
    if [ "$(id -u)" = 0 ]; then
        set -- timeout "$LIMIT" setpriv --reuid=65534 --regid=65534 --clear-groups -- cat -- "$1"
    else
        set -- timeout "$LIMIT" cat -- "$1"
    fi
    "$@" </dev/null | sed -E 's/^([[:space:]]*[a-z_]*(password|psk))[[:space:]].*/\1 (left out)/'
}

listener_files() {
    printf '%s\n' "$CONFIG/mosquitto-conf/tedge-mosquitto.conf" /etc/mosquitto/conf.d/tedge-mosquitto.conf
}

[ "${1:-}" = collect ] || usage
shift
OUT='' CONFIG=/etc/tedge
while [ $# -gt 0 ]; do
    case $1 in
        --output-dir) OUT=${2-}; shift $(($# > 1 ? 2 : 1)) ;;
        --config-dir) CONFIG=${2-}; shift $(($# > 1 ? 2 : 1)) ;;
        *) usage ;;
    esac
done
[ -d "$OUT" ] || usage
command -v tedge-agentd >/dev/null || exit 2

keep version.txt tedge-agentd --version
keep status.json tedge-agentd status --json
keep plan.json tedge-agentd plan --json
keep unit.txt systemctl --no-pager --full status tedge-agentd.service
keep journal.log journalctl --no-pager --output=short-iso --lines=1000 --unit=tedge-agentd.service
keep config.toml cat /etc/tedge-agentd/config.toml
listener_files | while IFS= read -r path; do
    if [ -e "$path" ]; then
        { echo "# $path"; public "$path"; } >>"$OUT/listener-file.conf" 2>&1
    fi
done
ls -l /etc/mosquitto/certs/tedge-agentd >"$OUT/staged.txt" 2>&1
exit 0
