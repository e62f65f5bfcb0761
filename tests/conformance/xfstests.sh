# xfstests: the generic quick group, or what $XFSTESTS_TESTS names, of the sources in $XFSTESTS,
# which are built in a copy. The reference is an ext4 of its own; the share is mounted by a helper,
# as `mount -t fuse.airlockfs`.
. "${0%/*}/lib.sh"

build="$CACHE/xfstests"
built() {
    [ ! -x "$build/src/fssum" ] || return 0
    rm -rf "$build"
    cp -r "$XFSTESTS" "$build"
    make -C "$build" -j2
}
check built built
[ -x "$build/src/fssum" ] || exit 1
# It knows a subtype of FUSE by the name of the whole type only.
grep -q fuse.airlockfs "$build/common/rc" ||
    sed -i "s|-e 's/fuse.ceph-fuse/ceph-fuse/'|& -e 's/fuse.airlockfs/fuse/'|" "$build/common/rc"

# It wants users of these names; none can log in here, and the host keeps its own list.
cp /etc/passwd /etc/group "$SCRATCH"
for user in fsgqa fsgqa2 123456-fsgqa; do
    number=$((60000 + $(wc -l < "$SCRATCH/passwd")))
    echo "$user:x:$number:$number::/tmp:/bin/bash" >> "$SCRATCH/passwd"
    echo "$user:x:$number:" >> "$SCRATCH/group"
done
for file in passwd group; do mount --bind "$SCRATCH/$file" "/etc/$file"; done

mkdir "$SCRATCH/test" "$SCRATCH/scratch" "$SCRATCH/results"
export TEST_DIR="$SCRATCH/test" SCRATCH_MNT="$SCRATCH/scratch" RESULT_BASE="$SCRATCH/results"
if [ -z "$DAEMON" ]; then
    for name in test scratch; do
        truncate -s 3G "$SCRATCH/$name.image"
        mkfs.ext4 -q -F "$SCRATCH/$name.image"
    done
    TEST_DEV=$(losetup --find --show "$SCRATCH/test.image")
    SCRATCH_DEV=$(losetup --find --show "$SCRATCH/scratch.image")
    trap 'losetup --detach "$TEST_DEV" "$SCRATCH_DEV"' EXIT
    mount "$TEST_DEV" "$TEST_DIR"
    export FSTYP=ext4 TEST_DEV SCRATCH_DEV
else
    # One directory of the host is the device.
    mkdir "$SCRATCH/devices" "$SCRATCH/devices/test-device" "$SCRATCH/devices/scratch-device" "$SCRATCH/sbin"
    cat > "$SCRATCH/sbin/mount.fuse.airlockfs" <<EOF
#!/bin/sh
# mount.fuse.airlockfs DEVICE DIRECTORY [-o OPTIONS]
home=\$(mktemp -d "$SCRATCH/mount.XXXXXX")
mkfifo "\$home/said"
$DAEMON --socket-path "\$home/socket" --shared-dir "$SCRATCH/devices/\$1" $OPTIONS < /dev/null > /dev/null 2>> "$SCRATCH/daemon.log" &
until [ -S "\$home/socket" ]; do sleep 0.05; done
$BRIDGE --socket "\$home/socket" --mount "\$2" --source "\$1" < /dev/null > "\$home/said" 2>> "$SCRATCH/daemon.log" &
read -r line < "\$home/said" && [ "\$line" = mounted ] || exit 32
[ \$# -lt 4 ] || mount --internal-only --options "remount,\$4" "\$2"
EOF
    chmod 755 "$SCRATCH/sbin/mount.fuse.airlockfs"
    mount -t overlay -o "lowerdir=$SCRATCH/sbin:/usr/sbin" overlay /usr/sbin
    export FSTYP=fuse FUSE_SUBTYP=.airlockfs TEST_DEV=test-device SCRATCH_DEV=scratch-device
    mount -t fuse.airlockfs test-device "$TEST_DIR"
fi

# Lines of `generic/003 2s ... VERDICT`; what differs follows, indented.
cd "$build" || exit 1
# shellcheck disable=SC2086
./check ${XFSTESTS_TESTS:--g generic/quick} 2>&1 | awk '
    { print "    " $0 }
    /^generic\/[0-9]+ / {
        why = $0
        sub(/^[^ ]+ +/, "", why)
        if (why ~ /\[not run\]/) { sub(/.*\[not run\] */, "", why); print "SKIP " $1 ": " why }
        else if (why ~ /(^|[ \t])[0-9]+s$/) print "PASS " $1
        else print "FAIL " $1 ": " why
        fflush()
    }'
[ -z "$DAEMON" ] || sed 's/^/    daemon: /' "$SCRATCH/daemon.log"
