# What every suite's script reads first.
#
# A suite is a script that takes a directory and works in there. For each of its tests it prints one line,
#   PASS NAME    or    FAIL NAME: WHY    or    SKIP NAME: WHY
# and everything else that it prints is its log. It finds in its environment:
#   SUITE       the suite's name: several may run one script
#   SCRATCH     a fresh directory that is not on the share
#   CACHE       a directory that stays between runs, for downloads
#   MOUNT       where the share is mounted; empty for a plain directory of the host
#   SECOND      the same directory as a second daemon serves it, or as the host has it; the directory itself where there is
#               no daemon
#   AGENT       where to leave a command for a second guest or the host, which runs agent.sh; empty outside of guests
#   DAEMON, OPTIONS, BRIDGE, XFSTESTS
#               for xfstests.sh: the daemon, empty on the host directory; its options; what mounts it; the sources
#   LEVEL       quick or full
#   PRELOAD     a library that opens what $DIRECT_IO names with O_DIRECT
#   OPERATIONS  how many operations a suite does that counts them
# Scripts are for a POSIX sh: in a guest dash runs them, with busybox for what the image has no program for.
set -u
export LC_ALL=C TZ=UTC
cd "$1" || exit 1
DIR=$(pwd)
export DIR

# quick_or QUICK FULL: the value for this level.
quick_or() { if [ "$LEVEL" = quick ]; then echo "$1"; else echo "$2"; fi; }

# check NAME COMMAND...: a test that passes when the command does, a function's first failing step included.
check() {
    name=$1
    shift
    (
        set -ex
        "$@"
    ) > "$SCRATCH/check.log" 2>&1
    status=$?
    if [ $status = 0 ]; then
        echo "PASS $name"
    else
        sed 's/^/    /' "$SCRATCH/check.log"
        # The last line that is not a step of the shell's.
        echo "FAIL $name: status $status, $(sed -n '/^+/!h;${x;p}' "$SCRATCH/check.log")"
    fi
}

# skip NAME WHY
skip() { echo "SKIP $1: $2"; }

# same WANTED GOT
same() { [ "$1" = "$2" ] || { echo "expected '$1', got '$2'"; return 1; }; }

# second COMMAND: runs a line of shell in $SECOND, which is $DIR there, and ends as it does. From a
# guest it is run by agent.sh.
calls=0
[ -z "$AGENT" ] || mkdir "$AGENT"
second() {
    if [ -z "$AGENT" ]; then
        (cd "$SECOND" && DIR="$SECOND" sh -c "$1")
        return
    fi
    calls=$((calls + 1))
    call="$AGENT/$(sh -c 'echo $PPID')-$calls"
    printf '%s\n' "$1" > "$call.new"
    mv "$call.new" "$call.call"
    until [ -e "$call.done" ]; do sleep 0.1; done
    cat "$call.output"
    return "$(cat "$call.done")"
}
