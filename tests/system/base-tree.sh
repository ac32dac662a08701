#!/bin/sh
# Turns a fresh Debian tree ($1) into a gateway: mmdebstrap runs this as its customize hook.
# Its text is part of the cache key, so a change here rebuilds the trees.
set -eu
root=$1

printf '127.0.0.1 localhost gateway\n::1 localhost ip6-localhost ip6-loopback\n' >"$root/etc/hosts"
echo gateway >"$root/etc/hostname"
# A fixed id: an empty one makes systemd treat the boot as the first one and preset every unit.
echo 7e1d6c0de5a94f6fb0a3c1d2e3f40516 >"$root/etc/machine-id"

# Every package once downloaded stays installable without a network.
mkdir -p "$root/opt/debs"
mv "$root"/var/cache/apt/archives/*.deb "$root/opt/debs/"
ls "$root"/opt/debs/mosquitto_*.deb >/dev/null

# Nothing may act behind a test's back: no timers, no login prompts.
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
    fstrim.timer logrotate.timer man-db.timer; do
    chroot "$root" systemctl disable "$unit" >/dev/null 2>&1 || true
done
chroot "$root" systemctl mask console-getty.service getty.target systemd-ask-password-console.path \
    systemd-ask-password-wall.path systemd-pcrphase.service systemd-firstboot.service >/dev/null 2>&1
mkdir -p "$root/var/log/journal"
