# pjdfstest: what POSIX says of every call that names a file. Its own tests are the suite's.
. "${0%/*}/lib.sh"

# Two users that Debian always has, and their groups: tests change to them.
cat > "$SCRATCH/config.toml" << END
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}

[settings]
naptime = 0.01
allow_remount = false

[dummy_auth]
entries = [["daemon", "daemon"], ["games", "games"]]
END

mkdir "$SCRATCH/other" && mount -t tmpfs none "$SCRATCH/other" || exit 1
pjdfstest() { RUST_BACKTRACE=0 command pjdfstest -c "$SCRATCH/config.toml" -p "$DIR" -s "$SCRATCH/other" "$@" 2>&1; }
pjdfstest > "$SCRATCH/out"

# The tests of EROFS remount what they run on, which a plain directory of the host does not allow. A share can't be
# made read-only as long as the kernel has not forgotten the files that the test before has removed.
if [ -n "$MOUNT" ]; then
    # mount(8) would hand a FUSE mount over to a helper that takes its type for a program's name.
    if [ -e /sbin/mount.fuse ]; then
        mkdir "$SCRATCH/bin"
        printf '#!/bin/sh\nexec %s -i "$@"\n' "$(command -v mount)" > "$SCRATCH/bin/mount"
        chmod 755 "$SCRATCH/bin/mount"
        PATH="$SCRATCH/bin:$PATH"
    fi
    sed -i 's/^allow_remount.*/allow_remount = true/' "$SCRATCH/config.toml"
    for name in $(awk '$1 ~ /erofs/ && NF == 2 { print $1 }' "$SCRATCH/out"); do
        tries=100
        until mount -o remount,ro "$MOUNT" || [ $tries = 0 ]; do
            tries=$((tries - 1))
            sleep 0.1
        done
        mount -o remount,rw "$MOUNT"
        pjdfstest --exact "pjdfstest::tests::$name" | grep -v '^Summary' > "$SCRATCH/one"
        awk -v name="$name" '$1 == name && NF == 2 { skip = 1; next } /^[^ \t]/ { skip = 0 } !skip' "$SCRATCH/out" > "$SCRATCH/rest"
        cat "$SCRATCH/one" "$SCRATCH/rest" > "$SCRATCH/out"
    done
fi
umount "$SCRATCH/other"
cat "$SCRATCH/out"

# `NAME  ok`, or `NAME  FAILED` and `NAME  skipped` with the reason on the next line.
awk '
    function tell() { if (verdict != "") print verdict " " name (why == "" ? "" : ": " why); verdict = why = "" }
    NF == 2 && $2 == "ok" { tell(); name = $1; verdict = "PASS"; next }
    NF == 2 && $2 == "FAILED" { tell(); name = $1; verdict = "FAIL"; next }
    NF == 2 && $2 == "skipped" { tell(); name = $1; verdict = "SKIP"; next }
    /^Summary/ { tell(); summary = 1; next }
    verdict != "" && NF { sub(/^[ \t]+/, ""); why = why (why == "" ? "" : "; ") $0 }
    END { tell(); if (summary) print "PASS summary"; else print "FAIL summary: pjdfstest did not come to its end" }
' "$SCRATCH/out"
