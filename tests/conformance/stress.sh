# stress-ng: its file-system class, each stressor with a number of operations and its own checks.
. "${0%/*}/lib.sh"

# Left out: binderfs eventfd ioprio procfs, which are not about the file system that they are started on.
#
# Operations of each, or seconds where one operation is too long: quick, full.
stressors='
access 20 200
bind-mount - 50
chattr 30 300
chdir - 100
chmod 50 500
chown 50 500
copy-file 20 200
dentry 200 2000
dir 200 2000
dirdeep 20 200
dirmany 200 2000
dnotify 3 20
dup 50 500
fallocate 5 100
fanotify - 50
fcntl 50 500
fiemap 50 500
file-ioctl 20 200
filename 200 2000
flock 200 2000
fpunch 2s 20s
fsize 5 50
fstat 200 2000
getdent 50 500
handle 50 500
hdd 50 500
inode-flags 2s 20s
inotify 3 20
io 5 50
iomix 50 500
lease 50 500
link 2 20
locka 50 500
lockf 50 500
lockofd 50 500
mknod 50 500
open 100 1000
rename 200 2000
symlink - 20s
sync-file 5 50
touch 100 1000
utime 200 2000
verity - 5
xattr 5 50
'

# stressor NAME OPERATIONS: status 2 is a failed check, 3 and 4 say that it can't run here.
stressor() {
    status=0
    case $2 in
        *s) limit="--timeout $2" ;;
        *) limit="--timeout $(quick_or 60s 600s) --$1-ops $2" ;;
    esac
    # The second process of these waits for a file that the first may have removed already, until its time is over.
    case $1 in
        chmod | chown) processes=1 ;;
        *) processes=2 ;;
    esac
    # shellcheck disable=SC2086
    stress-ng --temp-path "$DIR" --verify --no-rand-seed "--$1" $processes $limit > "$SCRATCH/out" 2>&1 || status=$?
    sed 's/^/    /' "$SCRATCH/out"
    skipped=$(grep -m 1 -E 'skipp(ed|ing)' "$SCRATCH/out")
    case $status-$skipped in
        0-) echo "PASS $1" ;;
        0-* | 3-* | 4-*) echo "SKIP $1: ${skipped:-status $status}" ;;
        *) echo "FAIL $1: status $status, $(grep -m 1 fail: "$SCRATCH/out")" ;;
    esac
    rm -rf "$DIR"/*
}

echo "$stressors" | while read -r name quick full; do
    operations=$(quick_or "$quick" "$full")
    [ -n "$name" ] && [ "$operations" != - ] || continue
    stressor "$name" "$operations"
done
